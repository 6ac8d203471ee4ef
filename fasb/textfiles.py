"""The one reader of text: CSV, JSON, JSONL and YAML, read right or refused in one line.

In: a path. Out: text or values in which every string can be written again. UTF-8 is read, with or
without a byte order mark, and UTF-16 and UTF-32 that have one. Errors name file, line and encoding.
Knows no columns and no keys.
"""

import codecs
import contextlib
import csv
import io
import json
import os
import re
import stat
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.errors import FasbError, first_line

Kind = type[FasbError]
"""The error that a caller wants: of data, of config or of an artifact."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's, so it is asked about first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LARGEST = 2**31
"""Bytes of a text file that is read at all."""

MOST_VALUES = 10**6
"""Values of a YAML file, aliases written out; more are a bomb."""

UNREADABLE = (ValueError, RecursionError, OverflowError, MemoryError)
"""What parsers raise beside errors of their own: numbers of 5,000 digits, deep nesting, dates."""


def read_text(path: Path, kind: Kind) -> str:
    """Return the text of a file, its line ends as they are.

    Raises:
        FasbError: of the given kind; the file is missing, not a file, or not such text.
    """
    content = _bytes(path, kind)
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise kind(
            f"{path}: line {line} is not {encoding.upper()} (byte 0x{content[error.start]:02x}); "
            "save the file as UTF-8 (it may be cp1252 or another encoding of one's system)"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise kind(
            f"{path}: line {line} holds a NUL character; save the file as UTF-8 text (it may be "
            "UTF-16 without its mark, or no text)"
        )
    return text


def _bytes(path: Path, kind: Kind) -> bytes:
    with _explained(path, kind):
        if (size := _size_of(path, kind)) > LARGEST:
            raise kind(f"{path}: {size:,} bytes of text; give one below {LARGEST:,}")
        return Path(path).read_bytes()


def check_ordinary(path: Path, kind: Kind) -> None:
    """Refuse what is no ordinary file: a pipe would be waited for, a device has no end.

    Raises:
        FasbError: of the given kind; it is missing, too, or its name is none.
    """
    with _explained(path, kind):
        _size_of(path, kind)


def _size_of(path: Path, kind: Kind) -> int:
    status = os.stat(path)  # noqa: PTH116 - a path that is no text of a path raises too
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
        raise kind(f"{path}: {what}; give a file")
    return status.st_size


@contextlib.contextmanager
def _explained(path: Path, kind: Kind) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise kind(f"{path}: no such file; correct the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise kind(f"{str(path)[:200]}: cannot be read ({reason}); correct the path") from None


def parse_json(text: str, where: str, kind: Kind, remedy: str = "correct it") -> Any:
    """Return the value of a JSON text; a mapping that has a key twice is refused.

    Raises:
        FasbError: of the given kind, naming `where` and, in a text of several lines, the line.
    """
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if text.count("\n") > 1 else ""
        raise kind(f"{where}{line}: not JSON ({error.msg}); {remedy}") from None
    except UNREADABLE as error:
        raise kind(f"{where}: not JSON that can be read ({_reason(error)}); {remedy}") from None
    check_strings(value, where, kind)
    return value


def json_lines(path: Path, kind: Kind) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number, from 1, and mapping of each line that is not blank; only LF ends a line.

    Raises:
        FasbError: of the given kind; a line is not JSON, or no mapping.
    """
    # not splitlines, which breaks a line at U+2028 too
    for number, line in enumerate(read_text(path, kind).split("\n"), start=1):
        if line.strip():
            row = parse_json(line, f"{path}: line {number}", kind)
            if not isinstance(row, dict):
                raise kind(f"{path}: line {number} is not a mapping; write one {{...}} per line")
            yield number, row


@dataclass(frozen=True, slots=True)
class Row:
    """Fields of a CSV row, and the line it ends in."""

    fields: list[str]
    line: int


def csv_rows(path: Path, kind: Kind, tabs: bool = False) -> list[Row]:
    """Return the rows of a CSV file that are not blank; with `tabs` of a TSV file without quotes.

    Raises:
        FasbError: of the given kind; a quote is never closed.
    """
    # newline="": line ends within quotes stay as they are
    content = read_text(path, kind)
    text = io.StringIO(content, newline="")
    reader = (
        csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(text, strict=True)
    )
    # a document may be one field; the module's own limit is 131,072 characters
    before = csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    try:
        return [Row(fields, reader.line_num) for fields in reader if fields]
    except csv.Error as error:
        raise kind(
            f"{path}: line {reader.line_num}: cannot be read ({error}); correct its quotes"
        ) from None
    finally:
        csv.field_size_limit(before)


def csv_table(path: Path, kind: Kind, tabs: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Return the header of a CSV file, and its rows as mappings; all have as many fields as it.

    Raises:
        FasbError: of the given kind, naming row and line; also for a column that is there twice.
    """
    rows = csv_rows(path, kind, tabs)
    if not rows:
        raise kind(f"{path}: an empty file; write a header and rows")
    header = [name.strip() for name in rows[0].fields]
    for name in header:
        if name and header.count(name) > 1:
            raise kind(f"{path}: column {name!r} is there twice; rename or remove one")
    for number, row in enumerate(rows[1:], start=1):
        if len(row.fields) != len(header):
            raise kind(
                f"{path}: row {number} (line {row.line}) has {len(row.fields)} fields, but the "
                f"header {len(header)}; put quotes around a field with the separator in it"
            )
    return header, [dict(zip(header, row.fields, strict=True)) for row in rows[1:]]


def read_yaml(path: Path, kind: Kind) -> Any:
    """Return the value of a YAML file (safe tags only); a mapping that has a key twice is refused.

    Raises:
        FasbError: of the given kind, naming file and line.
    """
    return parse_yaml(read_text(path, kind), str(path), kind)


def parse_yaml(text: str, where: str, kind: Kind) -> Any:
    """Return the value of a YAML text, as `read_yaml` does.

    Raises:
        FasbError: of the given kind, naming `where` and line.
    """
    import yaml

    try:
        # asked of nodes: values know neither lines nor keys that stand twice
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _check_size(node, {})
        _check_keys(node, set())
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise kind(
            f"{where}: not YAML ({' '.join(str(error).split())}); correct that line"
        ) from None
    except UNREADABLE as error:
        raise kind(f"{where}: not YAML that can be read ({_reason(error)}); correct it") from None
    check_strings(value, where, kind)
    return value


def _check_size(node: Any, sizes: dict[int, int]) -> int:
    """Count the values of a YAML node, its aliases written out.

    Raises:
        ValueError: too many, or one that holds itself.
    """
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:
            raise ValueError("an alias that holds itself")
        return known
    sizes[id(node)] = 0
    size = 1
    for child in _children(node):
        size += _check_size(child, sizes)
        if size > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node.value, list):
        for child in node.value:
            yield from child if isinstance(child, tuple) else (child,)


def _check_keys(node: Any, done: set[int]) -> None:
    """Refuse a key twice, a key that is no text, and a number that YAML reads as another.

    Raises:
        ValueError: naming key or number, and line.
    """
    if id(node) in done:
        return
    done.add(id(node))
    _check_number(node)
    if type(node).__name__ == "MappingNode":
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag.endswith(":merge"):  # `<<` is no key of its own
                continue
            if key.tag.endswith((":bool", ":int", ":float", ":null")):
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: the key {key.value!r} is no text; put it in quotes")
            name = key.value if isinstance(key.value, str) else id(key)
            if name in seen:
                raise ValueError(f"line {key.start_mark.line + 1} has the key {name!r} again")
            seen.add(name)
    for child in _children(node):
        _check_keys(child, done)


def _check_number(node: Any) -> None:
    """Refuse 010, which is 8, and 1:30, which is 90.

    Raises:
        ValueError: naming number and line.
    """
    is_number = node.tag.endswith((":int", ":float"))
    if is_number and re.match(r"[-+]?(0[0-9_]|[0-9_]+:)", node.value):
        line = node.start_mark.line + 1
        raise ValueError(
            f"line {line}: {node.value!r} is read as another number; write it without leading "
            "zeros and colons, or in quotes"
        )


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {again!r} is there twice")
    return found


def check_strings(value: Any, where: str, kind: Kind) -> None:
    """Refuse strings that no file can hold: halves of a character, and NUL.

    Raises:
        FasbError: of the given kind.
    """
    try:
        written = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
        written.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise kind(f"{where}: holds half a character ({half}); correct the text") from None
    except UNREADABLE as error:
        raise kind(f"{where}: cannot be read ({_reason(error)}); correct it") from None
    # a NUL as JSON writes it, and no backslash before the text u0000
    if re.search(r"(?<!\\)(\\\\)*\\u0000", written):
        raise kind(f"{where}: holds a NUL character (\\u0000); remove it")


def is_finite(value: Any) -> bool:
    """Return whether a value of JSON is a number that a float holds; whole ones may be larger."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return first_line(error)
