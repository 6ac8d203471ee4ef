"""The cut into modules holds: layers, sizes, and where heavy or unsafe packages may be imported."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fasb.extensions import known
from fasb.study.config import read_mapping

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "fasb").rglob("*.py"))


def functions(file: Path) -> list[tuple[str, int]]:
    """Name and length in lines, docstring included, of every function of a file."""
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


def imported(file: Path) -> set[str]:
    """Top-level packages imported anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_top_imports_lower_never_sideways_or_up():
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_ruff_finds_nothing():
    ruff = [sys.executable, "-m", "ruff"]
    for command in ([*ruff, "check", "."], [*ruff, "format", "--check", "."]):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_can_be_held_in_mind(file):
    assert len(file.read_text().splitlines()) <= 520
    assert {name: lines for name, lines in functions(file) if lines > 65} == {}


def test_functions_are_short(capsys):
    lines = sorted(n for file in FILES for _, n in functions(file))
    total = sum(len(file.read_text().splitlines()) for file in FILES)
    p95 = lines[int(len(lines) * 0.95)]
    with capsys.disabled():
        median, longest = statistics.median(lines), lines[-1]
        print(
            f"\nlibrary: {total} lines; functions: median {median:.0f}, p95 {p95}, longest {longest}"
        )
    assert p95 <= 40


def test_pickle_and_snakemake_are_nowhere_and_wandb_in_one_module():
    for file in FILES:
        names = imported(file)
        assert not names & {"pickle", "dill", "joblib", "cloudpickle", "snakemake"}, file
        assert "wandb" not in names or file.name == "wandb_runs.py", file


@pytest.mark.parametrize(
    "module", ["fasb", "fasb.cli", "fasb.settings", "fasb.study.config", "fasb.study.cells"]
)
def test_reading_a_config_needs_no_torch(module):
    code = f"import {module}, sys; print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


PENDING = ("cells", "panels", "tables", "figures", "figure_rows", "captions", "report")
"""Modules that still look at a method's name."""


def test_a_methods_name_decides_nothing():
    configs = [*(ROOT / "config").glob("*.yaml")]
    named = {name for path in configs for name in read_mapping(path).get("methods", {})}
    named |= set(known("methods"))
    # the package is called like one of its methods, and what is not steered has no other name
    named -= {"fasb", "unsteered"}
    assert {"iti", "fasb-probe", "all-fixed"} <= named
    free = [file for file in FILES if file.parent.name not in ("methods", "gates")]
    found = []
    for file in free:
        if file.stem in PENDING:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in named:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert found == []
