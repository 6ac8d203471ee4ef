"""The command line as a whole: its help, its errors, its reference page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fasb.cli import COMMANDS, group
from fasb.study.jobs import STAGES

ROOT = Path(__file__).parents[1]
FASB = Path(sys.executable).with_name("fasb")
NAMES = [name for names in COMMANDS.values() for name in names]


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def fasb(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([FASB, *arguments], capture_output=True, text=True)


def test_the_reference_page_is_current():
    # in a process of its own: click keeps a command's help option as the first call had it, which
    # may be another test's
    made = subprocess.run(
        [sys.executable, "-m", "fasb.cli.reference"], capture_output=True, text=True, check=True
    )
    page = ROOT / "docs" / "cli.md"
    assert page.read_text() == made.stdout, "run 'python -m fasb.cli.reference > docs/cli.md'"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_in_a_sentence(name):
    found = command(name)
    assert found.name == name
    assert found.help
    assert found.help.split("\n\n")[0].rstrip().endswith(".")
    options = [parameter for parameter in found.params if isinstance(parameter, click.Option)]
    # `steer` has three in place of numbers of its bundle, beside those that show its answers;
    # `evaluate` what it keeps of questions and of models, beside who judges them; `fit` whose edit
    assert len(options) <= {"steer": 9, "evaluate": 8, "fit": 8}.get(name, 7)
    assert all(option.help for option in options)


def test_help_needs_no_torch():
    heavy = "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    code = f"import sys, fasb.cli.reference as page; page.reference(); {heavy}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ["expandable_segments:True", None]),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, ["backend:native", None]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, [None, "backend:native"]),
    ],
)
def test_a_gpus_memory_grows_in_place_unless_somebody_says_otherwise(given, found):
    names = ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"]
    code = (
        "import os, sys, fasb.cli\n"
        "sys.argv = ['fasb', '--help']\n"
        "try: fasb.cli.main()\n"
        f"finally: print([os.environ.get(name) for name in {names}], file=sys.stderr)"
    )
    outside = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=outside | given
    )
    assert run.stderr.strip() == str(found)


def test_an_error_is_one_line_and_exit_code_2_unless_debugged():
    quiet = fasb("verify", "none.json")
    assert quiet.returncode == 2
    assert quiet.stderr == "none.json: no such file; make it first, or correct the path\n"
    job = ("run", "no-such-stage")
    short, loud = fasb(*job), fasb("--debug", *job)
    assert short.returncode == 2
    assert len(short.stderr.splitlines()) == 1
    assert "Traceback" in loud.stderr


def test_every_stage_is_one_short_line_of_the_reference_page():
    page = (ROOT / "docs" / "cli.md").read_text()
    for stage in STAGES.values():
        (line,) = re.findall(rf"^\| `(fasb run {stage.command}\b(?!-)[^`]*)` \|", page, re.M)
        assert len(line) <= 72


def test_an_unknown_command_is_told_the_nearest():
    run = fasb("ster")
    assert run.returncode == 2
    assert "no command 'ster'; did you mean 'steer'?" in run.stderr
