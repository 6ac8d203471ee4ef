"""What a checkout brings beside the library: pins, licence, tools, the set-up script."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fasb

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def tool(name, *arguments):
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    assert program, f"{name} is not installed beside {sys.executable}"
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_requirement_is_pinned_to_one_version_that_satisfies_it():
    pinned = {canonicalize_name(pin.name): pin for pin in pins()}
    for requirement in map(Requirement, REQUIRED):
        (exact,) = pinned[canonicalize_name(requirement.name)].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), requirement


def test_no_pin_is_of_a_local_build_that_an_index_does_not_have():
    assert [str(pin) for pin in pins() if "+" in str(pin.specifier)] == []


def test_installed_versions_are_the_pinned_ones():
    wrong = []
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate():
            try:
                version = metadata.version(pin.name).split("+")[0]
            except metadata.PackageNotFoundError:
                continue  # a constraint is installed only where something needs it
            if version not in pin.specifier:
                wrong.append(f"{pin} but {version} is installed")
    assert wrong == []


def test_the_conda_environment_has_the_requirements_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": PROJECT["dependencies"]}
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]


def test_the_licence_is_the_apache_licence_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_the_citation_names_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == fasb.__version__
    assert "__version__" in dir(fasb)
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_cluster_profile_is_found_by_name_from_the_root():
    assert (ROOT / "slurm" / "config.yaml").samefile(
        ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
    )


def test_the_default_profile_holds_nothing_that_would_override_the_cluster_profile():
    default = yaml.safe_load(
        (ROOT / "workflow" / "profiles" / "default" / "config.yaml").read_text()
    )
    slurm = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    assert not set(default) & set(slurm)
    assert not set(default) & {"executor", "jobs", "default-resources", "retries", "latency-wait"}


def test_snakefmt_finds_nothing():
    run = tool("snakefmt", "--check", "workflow")
    assert run.returncode == 0, run.stdout + run.stderr


def test_mypy_finds_nothing():
    run = tool("mypy")
    assert run.returncode == 0, run.stdout + run.stderr


def test_hooks_before_a_commit_are_the_tools_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]]
    (lint,) = re.findall(r"^lint: ;(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert set(hooks) == set(re.findall(r"\.venv/bin/[\w-]+", lint))


def test_hosted_tests_are_those_of_the_ci_script():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    *_, last = workflow["jobs"]["test"]["steps"]
    assert last == {"run": ".ci/run"}


def test_the_setup_script_asks_for_a_newer_python_and_changes_nothing(tmp_path):
    for name in ("study", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("dirname", "cat", "cksum"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    run = subprocess.run(
        ["/bin/sh", "./study"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (
        1,
        "study: needs Python 3.11 or newer; install it, or set PYTHON=/path/to/python3.11\n",
    )
    assert not (tmp_path / ".venv").exists()


INSTALLED = "-m pip install -q --disable-pip-version-check -c constraints.txt -e .[test]"


@pytest.fixture
def checkout(tmp_path):
    """A folder with what the setup script reads, and a Python that only says what it is asked."""
    for name in ("study", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python3").write_text(FAKE_PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return tmp_path


def run_setup(checkout, *arguments):
    """Exit code and lines of the setup script."""
    run = subprocess.run(
        ["/bin/sh", "./study", *arguments],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(checkout / "python3")},
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout.splitlines()


def test_the_setup_script_hands_its_options_on_and_installs_once(checkout):
    assert run_setup(checkout, "-n", "a b") == (0, [INSTALLED, "snakemake: -n,a b"])
    assert run_setup(checkout, "test", "-k", "x") == (0, ["pytest: -k,x"])
    (checkout / "constraints.txt").write_text("# changed\n")
    assert run_setup(checkout) == (0, [INSTALLED, "snakemake: "])


@pytest.mark.parametrize("during", ["venv", "pip"])
def test_an_environment_that_was_killed_while_it_was_made_is_made_again(checkout, during):
    (checkout / f"kill-{during}").touch()
    code, _ = run_setup(checkout)
    assert code == -9
    assert (checkout / ".venv" / "bin" / "python").exists()
    (checkout / ".venv" / "half").touch()
    assert run_setup(checkout) == (0, [INSTALLED, "snakemake: "])
    assert not (checkout / ".venv" / "half").exists()
    # one that somebody else made is kept
    (checkout / ".venv" / ".stamp").unlink()
    (checkout / ".venv" / "whole").touch()
    assert run_setup(checkout) == (0, [INSTALLED, "snakemake: "])
    assert (checkout / ".venv" / "whole").exists()


FAKE_PYTHON = """#!/bin/sh
die() { [ ! -e "kill-$1" ] || { rm "kill-$1"; kill -9 $PPID; exit 1; }; }
case "$1 $2" in
"-m venv")
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    die venv
    for tool in pytest snakemake; do
        printf '#!/bin/sh\\nIFS=,; echo "%s: $*"\\n' "$tool" >"$3/bin/$tool"
        chmod +x "$3/bin/$tool"
    done
    ;;
"-m pip") die pip; echo "$@" ;;
esac
"""


def test_a_skip_without_a_reason_fails_the_check(tmp_path):
    report = tmp_path / "report.xml"

    def check(message):
        skipped = f'<testcase classname="a" name="b"><skipped message="{message}"/></testcase>'
        report.write_text(f"<testsuites><testsuite>{skipped}</testsuite></testsuites>")
        command = [sys.executable, ROOT / ".ci" / "skips.py", report]
        return subprocess.run(command, capture_output=True, text=True)

    assert check("needs a CUDA device").returncode == 0
    silent = check("unconditional skip")
    assert silent.returncode == 1
    assert re.search(r"1 tests skipped without a reason; give pytest.skip a reason", silent.stderr)


def test_containers_hold_the_pinned_versions_and_the_oldest_python():
    """No container is built here, so what the two recipes say is compared with the pins."""
    (torch,) = (pin for pin in pins() if pin.name == "torch")
    for name in ("Dockerfile", "apptainer.def"):
        text = (ROOT / name).read_text()
        assert re.findall(r"(\w+)==(\S+)", text) == [("torch", str(torch.specifier)[2:])]
        assert "-c constraints.txt -e ." in text
        (python,) = re.findall(r"(?i)^from:? python:(\S+?)-", text, re.MULTILINE)
        assert PROJECT["requires-python"] == f">={python}"


def test_the_script_of_the_floors_runs_files_that_exist():
    text = (ROOT / ".ci" / "floors").read_text()
    assert "--resolution lowest-direct" in text
    named = re.findall(r"tests/[\w./]+", text)
    assert len(named) >= 6
    assert all((ROOT / name).exists() for name in named)
    subprocess.run(["bash", "-n", ".ci/floors"], cwd=ROOT, check=True)
