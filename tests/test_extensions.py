"""Extensions are found by file name or dotted path, and wrong names and keys say what is known."""

import sys

import pytest

from fasb import sourcecode
from fasb.errors import ConfigError
from fasb.extensions import code_hash, find, validated
from fasb.settings import DecodingSettings, PromptSettings


@pytest.fixture
def my_method(tmp_path, monkeypatch):
    """A third party's method module, importable by its dotted path."""
    package = tmp_path / "your_lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    file = package / "mine.py"
    file.write_text(
        "from fasb.settings import Section\nclass Settings(Section):\n    k: int = 3\ndef "
        "fit(f, s): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    for name in ("your_lab", "your_lab.mine", "your_lab.half"):
        sys.modules.pop(name, None)


def test_a_dotted_path_finds_anybodys_module(my_method):
    assert find("methods", "your_lab.mine").Settings().k == 3


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ConfigError, match="methods: no module 'head_vector'; did you mean 'head_v"):
        find("methods", "head_vector")


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "../../x", "a b", "a/b", "a\0b"])
def test_what_is_no_name_of_a_module_is_one_line(name):
    with pytest.raises(ConfigError, match="methods: .* is no name of a module; known: "):
        find("methods", name)


def test_a_module_without_its_function_or_settings_is_refused(my_method):
    my_method.with_name("half.py").write_text("class Settings: ...\n")
    with pytest.raises(ConfigError, match="your_lab.half: has no fit"):
        find("methods", "your_lab.half")
    my_method.with_name("loose.py").write_text("class Settings: ...\ndef fit(): ...\n")
    with pytest.raises(ConfigError, match="your_lab.loose: its Settings is no fasb.settings.Sect"):
        find("methods", "your_lab.loose")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_lab.mine", "methods: no module 'no_lab' for 'no_lab.mine'; put the folder that hol"),
        ("your_lab.mime", "methods: no module 'your_lab.mime' for 'your_lab.mime'; correct the n"),
    ],
)
def test_a_dotted_path_that_is_not_there_names_what_is_missing(my_method, name, message):
    with pytest.raises(ConfigError, match=message):
        find("methods", name)


def test_what_a_module_imports_in_vain_is_named(my_method):
    my_method.write_text("import a_package_that_is_not_there\n")
    message = "'your_lab.mine' imports 'a_package_that_is_not_there', which is not there; install"
    with pytest.raises(ConfigError, match=message):
        find("methods", "your_lab.mine")


def test_the_code_hash_follows_the_file(my_method):
    before = code_hash("methods", "your_lab.mine")
    my_method.write_text(my_method.read_text() + "CHANGED = True\n")
    sourcecode.code_of.cache_clear()
    sourcecode._read.cache_clear()
    assert code_hash("methods", "your_lab.mine") != before


def test_an_unknown_key_names_the_nearest_one():
    with pytest.raises(ConfigError, match=r"decoding\.tokns: unknown key; did you mean 'tokens'"):
        validated(DecodingSettings, {"tokns": 3}, "decoding")


def test_a_wrong_value_is_shown():
    with pytest.raises(ConfigError, match=r"decoding\.tokens: .*greater than or equal to 1, got 0"):
        validated(DecodingSettings, {"tokens": 0}, "decoding")


def test_every_setting_of_the_prompt_has_text():
    assert all(
        isinstance(value, str | tuple | bool) for value in PromptSettings().model_dump().values()
    )
