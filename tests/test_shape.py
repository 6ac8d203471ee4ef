"""The cut into modules holds: layers, sizes, and where heavy or unsafe packages may be imported."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fasb.extensions import known
from fasb.study.layers import read_mapping

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from shape import measure  # noqa: E402 - benchmarks/ is a folder of scripts

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
    assert len(file.read_text().splitlines()) <= 450
    assert {name: lines for name, lines in functions(file) if lines > 60} == {}


def test_functions_are_short(capsys):
    lines = sorted(n for file in FILES for _, n in functions(file))
    total = sum(len(file.read_text().splitlines()) for file in FILES)
    p95 = lines[int(len(lines) * 0.95)]
    with capsys.disabled():
        median, longest = statistics.median(lines), lines[-1]
        print(f"\nlibrary: {total} lines; functions: median {median:.0f}, p95 {p95}, max {longest}")
    assert p95 <= 40


def test_pickle_and_snakemake_are_nowhere_and_wandb_in_two_modules():
    for file in FILES:
        names = imported(file)
        assert not names & {"pickle", "dill", "joblib", "cloudpickle", "snakemake"}, file
        assert "wandb" not in names or file.name == "wandb_runs.py", file
        assert "wandb_workspaces" not in names or file.name == "wandb_views.py", file


ACROSS = {
    "adding": "docs/adding.md",
    "benchmarks": "benchmarks/",
    "benchmarks_agreement": "benchmarks/agreement.py",
    "benchmarks_evidence": "benchmarks/evidence.py",
    "benchmarks_harness": "benchmarks/harness.py",
    "benchmarks_many_cells": "benchmarks/many_cells.py",
    "benchmarks_real_cells": "benchmarks/real_cells.py",
    "checkpoints": "tests/checkpoints.py",
    "contracts": "every dataset, method, gate and judge",
    "data_choice_tasks": "six files of fasb/data/",
    "data_transfer_sets": "two files of fasb/data/",
    "decoding_finite": "what is not finite, in all of fasb/decoding/",
    "docs": "docs/",
    "equivalence": "tests/reference_loop.py",
    "methods_published": "fasb/methods/, those of other papers",
    "model_placement": "several devices, in all of fasb/model/",
    "model_sites": "sites, in all of fasb/model/",
    "notebook": "notebooks/",
    "packaging": "what a checkout brings",
    "paper": "config/paper.yaml",
    "readme": "README.md and the pages",
    "shape": "the cut into modules",
    "study_prompts": "another prompt, from fasb/search.py to fasb/study/evaluate.py",
    "study_side_effects": "one stage, from fasb/study/evaluate.py on",
}
"""Test files that are of no one module, and what they are of."""


def test_a_test_file_is_called_after_what_it_is_of():
    parts = {file.relative_to(ROOT / "fasb").with_suffix("").parts for file in FILES}
    modules = {"_".join(part for part in path if part != "__init__") for path in parts}
    files = {file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py")}
    assert files - modules - set(ACROSS) == set()
    assert set(ACROSS) <= files


@pytest.mark.parametrize(
    "module", ["fasb", "fasb.cli", "fasb.settings", "fasb.study.config", "fasb.study.cells"]
)
def test_reading_a_config_needs_no_torch(module):
    heavy = "[m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules]"
    code = f"import {module}, sys; print({heavy})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


LIBRARY = {
    "core/one.py": '''"""Module.

Two more lines.
"""
from fasb.study.config import load  # the core may not
from fasb.model import hooks  # noqa: F401


def pair(a, b):
    """Document."""

    return [x + y for x, y in zip(a, b)]
''',
    "methods/__init__.py": "",
    "methods/iti.py": "WIDE = " + "1" * 100 + "\n",
    "study/two.py": "from fasb.world import text\n",
}


def test_measures_are_those_of_a_library_counted_by_hand(tmp_path):
    for name, text in LIBRARY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shape = measure(sorted(tmp_path.rglob("*.py")), tmp_path)
    assert (shape.files, shape.functions, shape.function_max) == (4, 1, 4)
    # of the 14 lines 4 are blank; of the other 10, 4 belong to docstrings
    assert (shape.lines, shape.code) == (14, 6)
    assert (shape.lines_over_100, shape.imports_of_study) == (1, 1)
    assert (shape.methods, shape.gates) == (1, 0)
    assert (shape.comprehensions_per_100, shape.zips_per_100) == (10.0, 10.0)
    assert shape.comments_per_100_code == 16.67


def test_a_methods_name_decides_nothing():
    configs = (ROOT / "config").glob("*.yaml")
    named = {name for path in configs for name in read_mapping(path).get("methods", {})}
    # what is not steered has no other word
    named -= {"unsteered"}
    assert {"iti", "fasb-probe", "all-fixed"} <= named
    # `fasb.fit` fits the paper's method, so user/ names its files
    naming = ("methods", "gates", "user")
    found = []
    for file in FILES:
        part = file.relative_to(ROOT / "fasb").parts[0]
        wrong = named | (set() if part in naming else set(known("methods")))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in wrong:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert found == []
