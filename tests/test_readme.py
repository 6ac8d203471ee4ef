"""What README.md says to type works: Python lines and commands run, the study as a dry run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fasb.cli import group
from tests.test_user import QUESTIONS, SETTINGS
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
MODEL = re.search(r'fasb\.load\("([^"]+)"\)', README)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the README's `my.csv`, and its model replaced by a tiny one."""
    tiny_checkpoint(tmp_path / MODEL)
    rows = [f"{q.text},{';'.join(q.true)},{';'.join(q.false)}" for q in QUESTIONS]
    (tmp_path / "my.csv").write_text("\n".join(["question,true,false", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language):
    """The README's code in one language."""
    return [text for kind, text in BLOCKS if kind == language]


def test_the_python_lines_run(folder, capsys, monkeypatch):
    from fasb.user import fitting

    checked = fitting.checked_settings
    monkeypatch.setattr(
        fitting, "checked_settings", lambda given: checked({**SETTINGS, **(given or {})})
    )
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_commands_run(folder):
    commands = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("fasb ")
    ]
    assert [shlex.split(line)[1] for line in commands] == ["fit", "steer", "evaluate", "verify"]
    settings = "{grid: {k: [2], alpha: [4], beta: [0.5], s: [3]}, decoding: {tokens: 8}}"
    for line in commands:
        arguments = shlex.split(line)[1:]
        arguments += ["--settings", settings] if arguments[0] == "fit" else []
        found = CliRunner().invoke(group, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output


def test_the_study_is_planned_by_its_command():
    assert "./study " in blocks("sh")[0]
    snakemake = Path(sys.executable).with_name("snakemake")
    environment = {**os.environ, "PATH": f"{snakemake.parent}:{os.environ['PATH']}"}
    run = subprocess.run(
        [snakemake, "--dry-run", "--quiet", "--nolock"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_it_is_short_and_maps_files_that_exist():
    assert len(README.splitlines()) <= 250
    table = README.partition("## Where things are")[2].partition("##")[0]
    for path in re.findall(r"`([\w./-]+)`", table):
        assert (ROOT / path).exists(), path
