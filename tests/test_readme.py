"""What README.md and the pages say to type works: Python and commands run, studies as dry runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fasb.cli import group
from fasb.study.config import load_study
from fasb.study.layers import read_mapping
from fasb.user import fitting
from tests.pages import MODEL, ROOT, SMALL, blocks, commands, working_folder

README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the pages' `my.csv`, and their model replaced by a tiny one."""
    monkeypatch.chdir(working_folder(tmp_path))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Fits take a small grid."""
    checked = fitting.checked_settings
    monkeypatch.setattr(
        fitting, "checked_settings", lambda given: checked({**SMALL, **(given or {})})
    )


def run(line):
    """Run one `fasb` command in this process."""
    arguments = shlex.split(line)[1:]
    arguments += ["--settings", json.dumps(SMALL)] if arguments[0] == "fit" else []
    found = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("page", ["README.md", "docs/steer.md"])
def test_the_python_lines_run(page, folder, quick, capsys):
    code = "\n".join(blocks(page, "python"))
    assert f'"{MODEL}"' in code
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_what_troubleshooting_looks_at_is_there(folder, capsys):
    run(f"fasb fit --model {MODEL} --data my.csv --out my.bundle")
    exec(compile("\n".join(blocks("docs/troubleshooting.md", "python")), "page", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("README.md", ["fit", "steer", "evaluate", "show"]),
        ("docs/steer.md", ["fit", "steer", "evaluate", "show", "verify"]),
    ],
)
def test_the_commands_run(page, expected, folder):
    lines = commands(page, "fasb")
    assert [shlex.split(line)[1] for line in lines] == expected
    for line in lines:
        run(line)


def dry_run(*arguments):
    """What snakemake says of a study that it would run."""
    snakemake = Path(sys.executable).with_name("snakemake")
    environment = {**os.environ, "PATH": f"{snakemake.parent}:{os.environ['PATH']}"}
    command = [snakemake, "--dry-run", "--quiet", "--nolock", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_study_is_planned_by_its_command():
    assert "./study " in blocks("README.md", "sh")[0]
    found = dry_run()
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_configs_of_the_study_page_are_studies(tmp_path, monkeypatch):
    mine, run_methods = blocks("docs/study.md", "yaml")
    (tmp_path / "mine.yaml").write_text(mine.replace("my.csv", str(tmp_path / "my.csv")))
    working_folder(tmp_path)
    found = dry_run("--configfile", str(tmp_path / "mine.yaml"))
    assert found.returncode == 0, found.stdout + found.stderr

    mapping = read_mapping(tmp_path / "mine.yaml")
    with_methods = {"datasets": mapping["datasets"], **yaml.safe_load(run_methods)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_methods))
    files = ("config/methods.yaml", str(tmp_path / "mine.yaml"))
    found = dry_run("--configfile", *files)
    assert found.returncode == 0, found.stdout + found.stderr
    monkeypatch.chdir(ROOT)
    study = load_study([Path(file) for file in files])
    assert [cell.dataset for cell in study.run.cells] == ["mine"]
    assert "sadi-head" in study.run.methods


def test_configs_that_the_study_page_names_can_be_planned(monkeypatch):
    monkeypatch.chdir(ROOT)
    (plan,) = commands("docs/study.md", "fasb")
    run(plan)


def test_it_is_short_and_maps_files_that_exist():
    assert len(README.splitlines()) <= 250
    table = README.partition("## Where things are")[2].partition("## What it is not")[0]
    paths = re.findall(r"`([\w./-]+)`", table)
    assert [path for path in paths if not (ROOT / path).exists()] == []
