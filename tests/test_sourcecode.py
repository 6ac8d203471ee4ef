"""A change of what code does changes its hash, and a change of what it says does not."""

import pytest

from fasb import sourcecode
from fasb.errors import ConfigError
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
    # by `pip install --target`
    monkeypatch.undo()
    (folder / "your_lab-1.0.dist-info").mkdir()
    sourcecode._has_metadata.cache_clear()
    assert sourcecode._modules("your_lab.mine", folder, ()).keys() == installed.keys()


def hash_after(folder, change):
    """Whether the hash of `your_lab.mine` is another one after a change of the folder."""
    sourcecode._read.cache_clear()
    code_of.cache_clear()
    before = code_of("your_lab.mine", folder)
    change()
    sourcecode._read.cache_clear()
    code_of.cache_clear()
    return code_of("your_lab.mine", folder) != before


def test_the_packages_around_a_module_run_before_it_and_count(folder):
    (folder / "your_lab/mine.py").write_text("import your_lab.deeper.still\n")
    for name in ("your_lab/__init__.py", "your_lab/deeper/__init__.py"):
        assert hash_after(folder, lambda name=name: (folder / name).write_text("X = 1\n"))


def test_what_runs_in_place_of_imports_for_annotations_counts(folder):
    text = MODULE.replace("annotated\n", "annotated\nelse:\n    from your_lab import apart\n")
    (folder / "your_lab/mine.py").write_text(text)
    changed = hash_after(folder, lambda: (folder / "your_lab/apart.py").write_text("X = 2\n"))
    assert changed


@pytest.mark.parametrize(
    "line",
    [
        'importlib.import_module("your_lab.apart")',
        'import_module(".apart", __package__)',
        '__import__("your_lab.apart")',
    ],
)
def test_a_module_that_is_imported_by_a_text_counts(folder, line):
    (folder / "your_lab/mine.py").write_text(line)
    assert hash_after(folder, lambda: (folder / "your_lab/apart.py").write_text("X = 2\n"))


def test_a_public_name_of_the_library_counts_as_its_module(folder):
    for text in ("import fasb\nfasb.Policy()", "from fasb import Policy"):
        (folder / "your_lab/mine.py").write_text(text)
        sourcecode._read.cache_clear()
        assert "fasb.steering.policy" in sourcecode._modules("your_lab.mine", folder, ())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('X = (Path(__file__).parent / "words.txt").read_text()', "words.txt"),
        ('X = resources.files("your_lab") / "lists" / f"{X}.csv"', "lists/one.csv"),
    ],
)
def test_a_file_that_a_module_reads_beside_itself_counts(folder, text, name):
    path = folder / "your_lab" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("one")
    (folder / "your_lab/mine.py").write_text(text)
    assert hash_after(folder, lambda: path.write_text("two"))


@pytest.mark.parametrize("text", ["\u00e9" * 200, "a" * 5000, r"\0", r"\ud800", "", ".", r"\d"])
def test_any_text_may_stand_in_a_module_that_looks_beside_itself(folder, text):
    (folder / "your_lab/mine.py").write_text(f'X = __file__, "{text}"\nimport helpers\n')
    assert hash_after(folder, lambda: (folder / "helpers.py").write_text("X = 2\n"))


def test_a_file_of_a_name_that_is_only_mentioned_does_not(folder):
    (folder / "your_lab/words.txt").write_text("one")
    (folder / "your_lab/mine.py").write_text('X = Path("words.txt")')
    assert not hash_after(folder, lambda: (folder / "your_lab/words.txt").write_text("two"))


def test_what_the_library_reads_beside_itself_counts():
    for module, name in (
        ("fasb.study.report", "report.css"),
        ("fasb.study.figures.drawing", "paper.mplstyle"),
        ("fasb.data.sources", "mmlu.txt"),
        ("fasb.data.published", "published.json"),
    ):
        file = sourcecode._file(module, sourcecode.HERE, module)
        tree = sourcecode.ast.parse(file.read_bytes())
        assert name in [one.name for one in sourcecode._beside(tree, file)]


def test_compiled_modules_and_such_that_cannot_be_parsed_count(folder):
    suffix = sourcecode.EXTENSION_SUFFIXES[0]
    for name in (f"your_lab/fast{suffix}", "your_lab/fast.py"):
        (folder / "your_lab/mine.py").write_text("from your_lab import fast")
        (folder / name).write_bytes(b"\x7fELF one (\x00")
        assert hash_after(folder, lambda name=name: (folder / name).write_bytes(b"\x7fELF ("))
    nested = "X = " + "+".join(["1"] * 5000)
    (folder / "your_lab/fast.py").write_text(nested)
    assert hash_after(folder, lambda: (folder / "your_lab/fast.py").write_text(nested + "+1"))


def test_what_an_error_carries_beside_its_words_counts(folder):
    text = MODULE.replace('ValueError(f"no {x}")', 'StopIteration(f"no {x}", 1)')
    (folder / "your_lab/mine.py").write_text(text)
    changed = text.replace('{x}", 1', '{x}", 2')
    assert hash_after(folder, lambda: (folder / "your_lab/mine.py").write_text(changed))


def test_a_module_of_another_folder_that_is_not_installed_counts(folder, monkeypatch):
    other = folder / "elsewhere"
    other.mkdir()
    (other / "my_other_project.py").write_text("X = 1\n")
    (folder / "your_lab/mine.py").write_text("import my_other_project")
    monkeypatch.syspath_prepend(str(other))
    sourcecode._places.cache_clear()
    assert hash_after(folder, lambda: (other / "my_other_project.py").write_text("X = 2\n"))


def test_a_module_in_a_zip_file_counts_as_the_whole_file(folder):
    archive = folder / "lab.zip"
    archive.write_bytes(b"one")
    sourcecode.code_of.cache_clear()
    before = code_of("your_lab.mine", archive)
    archive.write_bytes(b"two")
    code_of.cache_clear()
    assert code_of("your_lab.mine", archive) != before


def test_a_module_in_no_file_is_refused(folder):
    with pytest.raises(ConfigError, match="your_lab.absent: its code is in no file"):
        code_of("your_lab.absent", folder)


def test_a_package_is_read_as_a_module(folder):
    before = code_of("your_lab", folder)
    assert hash_with(folder, "your_lab/__init__.py", "from . import apart\n", "your_lab") != before
    assert "your_lab.apart" in sourcecode._modules("your_lab", folder, ())


def test_a_version_names_the_release_and_its_code():
    release, _, code = version_of("fasb.study.run").partition("+")
    assert release == sourcecode.metadata.version("fasb")
    assert code == code_of("fasb.study.run")
    assert version_of("fasb.study.run", without=("fasb.decoding.decode",)) != f"{release}+{code}"


def test_a_copy_that_is_not_installed_has_a_version_too(monkeypatch):
    def missing(name):
        raise sourcecode.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sourcecode.metadata, "version", missing)
    assert version_of("fasb.errors") == f"unknown+{code_of('fasb.errors')}"


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
