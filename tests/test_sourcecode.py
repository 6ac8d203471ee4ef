"""A change of what code does changes its hash, and a change of what it says does not."""

import pytest

from fasb import sourcecode
from fasb.sourcecode import code_of, version_of
from fasb.study.jobs import STAGES
from fasb.study.stage import DECLARING

MODULE = '''"""What it is."""

from typing import TYPE_CHECKING

import torch
from . import beside
from .deeper.still import half as share

if TYPE_CHECKING:
    from your_lab import annotated


def twice(x):
    """Double x."""
    # by adding
    if x is None:
        raise ValueError(f"no {x}")
    return x + x
'''
FILES = {
    "your_lab/__init__.py": "",
    "your_lab/mine.py": MODULE,
    "your_lab/beside.py": "import helpers\n",
    "your_lab/deeper/__init__.py": "",
    "your_lab/deeper/still.py": "from ..beside import helpers\nimport fasb.fitting.reads\n",
    "your_lab/annotated.py": "X = 1\n",
    "your_lab/apart.py": "X = 1\n",
    "helpers.py": "from your_lab import mine\nX = 1\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def hash_with(folder, name, text, module="your_lab.mine"):
    """The hash that another process would find, with another text in a file."""
    (folder / name).write_text(text)
    sourcecode._read.cache_clear()
    code_of.cache_clear()
    return code_of(module, folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it is."""', '"""What it was."""'),
        ("# by adding", "# by adding it to itself"),
        ('"""Double x."""', ""),
        ("no {x}", "nothing in {x}"),
        ("x + x", "(x\n        + x)"),
        ("import annotated", "import apart"),
    ],
)
def test_what_changes_no_result_changes_no_hash(folder, old, new):
    before = code_of("your_lab.mine", folder)
    assert old in MODULE
    assert hash_with(folder, "your_lab/mine.py", MODULE.replace(old, new)) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + x", "x * 2"),
        ("x is None", "x is not None"),
        ("ValueError", "KeyError"),
        ("half as share", "third as share"),
        ("import beside", "import apart"),
    ],
)
def test_what_is_done_otherwise_changes_it(folder, old, new):
    before = code_of("your_lab.mine", folder)
    assert old in MODULE
    assert hash_with(folder, "your_lab/mine.py", MODULE.replace(old, new)) != before


@pytest.mark.parametrize("name", ["your_lab/beside.py", "your_lab/deeper/still.py", "helpers.py"])
def test_a_module_that_is_imported_counts_however_far_away(folder, name):
    before = code_of("your_lab.mine", folder)
    assert hash_with(folder, name, FILES[name] + "Y = 2\n") != before


@pytest.mark.parametrize("name", ["your_lab/annotated.py", "your_lab/apart.py"])
def test_a_module_that_is_not_imported_does_not(folder, name):
    before = code_of("your_lab.mine", folder)
    assert hash_with(folder, name, "Y = 2\n") == before


def test_of_installed_packages_only_a_modules_own_counts(folder, monkeypatch):
    found = sourcecode._modules("your_lab.mine", folder, ())
    assert {"your_lab.beside", "helpers", "fasb.fitting.reads"} <= found.keys()
    assert not found.keys() & {"torch", "typing", "your_lab.apart"}
    monkeypatch.setattr(sourcecode, "INSTALLED", {folder})
    installed = sourcecode._modules("your_lab.mine", folder, ())
    assert found.keys() - installed.keys() == {"helpers"}


def test_a_package_is_read_as_a_module(folder):
    before = code_of("your_lab", folder)
    assert hash_with(folder, "your_lab/__init__.py", "from . import apart\n", "your_lab") != before
    assert "your_lab.apart" in sourcecode._modules("your_lab", folder, ())


def test_a_version_names_the_release_and_its_code():
    release, _, code = version_of("fasb.study.run").partition("+")
    assert release == sourcecode.metadata.version("fasb")
    assert code == code_of("fasb.study.run")
    assert version_of("fasb.study.run", without=("fasb.decoding.decode",)) != f"{release}+{code}"


@pytest.mark.parametrize(
    ("stage", "counts"),
    [
        ("pretrain", "fasb.world.train"),
        ("questions", "fasb.data.splits"),
        ("activations", "fasb.fitting.bank"),
        ("trace", "fasb.decoding.generate"),
        ("anchors", "fasb.fitting.probes"),
        ("trackers", "fasb.fitting.fold"),
        ("vectors", "fasb.steering.bundle"),
        ("sweep", "fasb.decoding.decode"),
        ("tune", "fasb.search"),
        ("generate", "fasb.decoding.sequences"),
        ("score", "fasb.decoding.score"),
        ("side_effects", "fasb.decoding.side_effects"),
        ("metrics", "fasb.metrics.answers"),
        ("table", "fasb.metrics.statistics"),
        ("report", "fasb.study.tables"),
    ],
)
def test_a_stage_depends_on_what_it_computes_with_and_not_on_what_declares_it(stage, counts):
    found = sourcecode._modules(STAGES[stage].run.__module__, sourcecode.HERE, DECLARING)
    assert counts in found
    assert not found.keys() & set(DECLARING)


def test_a_training_does_not_depend_on_decoding():
    found = sourcecode._modules("fasb.study.stages.world", sourcecode.HERE, DECLARING)
    assert not [name for name in found if name.startswith("fasb.decoding")]
