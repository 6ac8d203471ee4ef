"""One reader of text.

Every file is read right, or refused in one line with file, line and encoding.
"""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasb.errors import ConfigError, DataError
from fasb.textfiles import csv_table, json_lines, parse_json, parse_yaml, read_text, read_yaml


@pytest.fixture
def file(tmp_path):
    def write(content, name="x.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(read, message, kind=DataError):
    with pytest.raises(kind, match=message) as caught:
        result = read()
        list(result)
    assert "\n" not in str(caught.value)


def test_a_field_may_be_a_whole_document(file):
    document = "word " * 40_000
    for tabs in (False, True):
        separator = "\t" if tabs else ","
        path = file(f"id{separator}text\n1{separator}{document}\n")
        assert csv_table(path, DataError, tabs)[1] == [{"id": "1", "text": document}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_that_says_which_it_is_is_read(file, encoding):
    text = "Café \u2028 \U0001f98a"
    assert read_text(file(text.encode(encoding)), DataError) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("first\nCaf\xe9".encode("cp1252"), r"line 2 is not UTF-8 \(byte 0xe9\); save the file"),
        ("ab".encode("utf-16-le"), "line 1 holds a NUL character; save the file as UTF-8"),
        (b"a\nb\0c", "line 2 holds a NUL character"),
        (b"\xff\xfea", "line 1 is not UTF-16"),
        (b"\xed\xa0\x80", "line 1 is not UTF-8"),
    ],
)
def test_other_bytes_are_named_with_line_and_encoding(file, content, message):
    refused(lambda: read_text(file(content), DataError), message)


def test_what_is_no_file_is_named(tmp_path):
    refused(lambda: read_text(tmp_path, DataError), "a folder; give a file")
    refused(lambda: read_text(tmp_path / "none", DataError), "none: no such file; correct the path")
    refused(lambda: read_text(tmp_path / ("n" * 300), DataError), r"cannot be read \(File name too")
    refused(lambda: read_text(Path("/dev/zero"), DataError), "no ordinary file; give a file")
    refused(lambda: read_text(Path("a\0b"), DataError), "cannot be read")


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_line_feed_ends_a_line_of_jsonl(file, character):
    rows = [{"a": f"x{character}y"}, {"a": "z"}]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert [row for _, row in json_lines(file(text.replace("\\u", "\\u")), DataError)] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('["\\ud800"]', r"holds half a character \(\\ud800\)"),
        ('{"a": "\\u0000"}', "holds a NUL character"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_that_cannot_be_used_is_one_line(text, message):
    refused(lambda: parse_json(text, "x.json", ConfigError), f"^x.json: .*{message}", ConfigError)


def test_a_backslash_before_the_name_of_a_character_is_text():
    assert parse_json(r'"a\\u0000"', "x", DataError) == r"a\u0000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3 has the key 'a' again"),
        ("on: 1\n", "line 1: the key 'on' is no text; put it in quotes"),
        ("a:\n  0x1: 2\n", "line 2: the key '0x1' is no text"),
        ("a: 1\nseed: 010\n", "line 2: '010' is read as another number"),
        ("[1:30, 2]", "line 1: '1:30' is read as another number"),
        ("x: -1:30.5", "line 1: '-1:30.5' is read as another number"),
        ("x:\n  a: 1\n  a: 3\n", "line 3 has the key 'a' again"),
        ("a: [1\n", "not YAML .*line"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 2024-13-45", "month"),
        ("a: &x [*x]", "an alias that holds itself"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n"
         + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n"
                   for i in range(8)), "more than 1,000,000 values"),
        ('a: "\\0"', "NUL character"),
        ('a: "\\ud800"', "half a character"),
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_used_is_one_line(text, message):
    refused(lambda: parse_yaml(text, "x.yaml", ConfigError), f"^x.yaml: .*{message}", ConfigError)


def test_yaml_with_aliases_and_merges_is_read(file):
    path = file("base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\nlist: [*base, *base]\n")
    assert read_yaml(path, ConfigError)["mine"] == {"a": 1, "b": 3}
    assert read_yaml(file(""), ConfigError) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n", r"row 1 \(line 2\) has 3 fields, but the header 2; put quotes"),
        ("a,b\n1,2\n\n3\n", r"row 2 \(line 4\) has 1 fields, but the header 2"),
        ("a,b\n1,2,\n3,4,\n", r"row 1 \(line 2\) has 3 fields"),
        ('a,b\n"x\ny",2\n3\n', r"row 2 \(line 4\) has 1 fields"),
        ("a,a\n1,2\n", "column 'a' is there twice"),
        ('a,b\n1,"2\n', "line 2: cannot be read .*; correct its quotes"),
        ("", "an empty file"),
    ],
)
def test_csv_rows_are_never_bent_to_fit(file, text, message):
    refused(lambda: csv_table(file(text), DataError), message)


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=2, max_size=2
        )
    )
)
def test_what_csv_writers_write_is_read_back(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["a", "b"], *rows])
    assert [list(row.values()) for row in csv_table(path, DataError)[1]] == rows


@pytest.mark.parametrize("reader", [
    lambda path: csv_table(path, DataError),
    lambda path: list(json_lines(path, DataError)),
    lambda path: read_yaml(path, DataError),
])  # fmt: skip
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, reader, content):
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(content)
    with contextlib.suppress(DataError):  # any other error fails the test
        reader(path)
