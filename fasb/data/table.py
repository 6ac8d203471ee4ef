"""A person's own questions: a CSV, JSONL or Parquet file with true and false answers.

In: one row per question. Several answers stand in one field, with a separator between them, or as a
list (JSONL, Parquet). The columns may also be called `wanted` and `unwanted`, for behaviours other
than truth. The first true answer is the best one unless there is a column `best`. Optional columns:
`id` (else the row's number, from 1) and `group` (rows of one group are never split between fit and
test; else the question's text, however it is spaced and written). Out: the questions, in the file's
order. Knows no model and no prompt.
"""

import logging
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field

from fasb.artifacts import check_parquet_size
from fasb.data.protocol import Question, check_questions, contradiction, plain_text
from fasb.errors import DataError, did_you_mean, first_line
from fasb.settings import Section
from fasb.textfiles import check_ordinary, check_strings, csv_table, json_lines

KINDS = (".csv", ".jsonl", ".parquet")

ALIASES = {"true": "wanted", "false": "unwanted"}
"""Other names of columns that are looked for under their own name first."""

SEPARATOR = ";"
"""Between answers where none is set."""
_LIST = re.compile(r"""\[\s*(['"]).*\1\s*\]""", re.DOTALL)
"""A list of texts as Python, pandas and JSON write it."""


class Settings(Section):
    """Where the file is and what its columns are called."""

    path: str = Field(description="A .csv, .jsonl or .parquet file")
    question: str = Field("question", description="Column of the question's text")
    true: str = Field("true", description="Column of the true answers, or `wanted`")
    false: str = Field("false", description="Column of the false answers, or `unwanted`")
    separator: str | None = Field(
        "",
        description="Between the answers of one field; null: a field is one answer. Unset: ; unless"
        " it may stand within a sentence, and that fields were split is said",
    )


def local_files(settings: Settings) -> list[Path]:
    """Return the file: when it changes, its questions are read again."""
    return [Path(settings.path)]


def load(settings: Settings) -> list[Question]:
    """Return the questions of the file.

    Raises:
        DataError: naming the file and the row or column that is missing, empty, contradictory or
            of one class only.
    """
    columns, rows = _read(Path(settings.path))
    settings = settings.model_copy(
        update={name: _column(name, settings, columns) for name in ("question", "true", "false")}
    )
    _check_columns(settings, columns)
    splitter = Splitter(settings)
    questions = [
        _question(row, number, settings, splitter) for number, row in enumerate(rows, start=1)
    ]
    if questions:
        _check_classes(questions, settings)
    check_questions(questions, settings.path)
    splitter.tell()
    return questions


def _column(name: str, settings: Settings, columns: list[str]) -> str:
    """Return the column that is called `name` in the settings, by its other name if it has one.

    Raises:
        DataError: there is neither, or both.
    """
    wanted = getattr(settings, name)
    other = ALIASES.get(name) if wanted == name else None
    if other in columns and wanted in columns:
        raise DataError(
            f"{settings.path}: columns {wanted!r} and {other!r}, of which one is to be read; "
            "rename the other"
        )
    found = other if other in columns else wanted
    if found not in columns:
        remedy = did_you_mean(wanted, columns) if columns else "the file has no columns"
        raise DataError(f"{settings.path}: no column {wanted!r}; {remedy}")
    return str(found)


def _check_columns(settings: Settings, columns: list[str]) -> None:
    """Refuse "Group" beside or in place of "group": it would be passed over without a word.

    Raises:
        DataError: naming the column.
    """
    for name in (settings.question, settings.true, settings.false, "best", "group", "id"):
        for column in columns:
            if column != name and plain_text(column) == plain_text(name):
                raise DataError(
                    f"{settings.path}: column {column!r} is not read; call it {name!r}, or "
                    "something else"
                )


class Splitter:
    """Splits fields into answers, and remembers what it split without having been told to."""

    def __init__(self, settings: Settings) -> None:
        self.path, self.separator = settings.path, settings.separator
        self.split: list[str] = []

    def answers(self, value: Any, where: str) -> tuple[str, ...]:
        """Return the answers of a field, each once, in their order.

        Raises:
            DataError: the separator is not set, and may be part of a sentence.
        """
        parts = [part for part in self.parts(value) if plain_text(part)]
        if self.separator == "" and isinstance(value, str) and len(parts) > 1:
            self._check_sentence(parts, value, where)
            self.split.append(value)
        return tuple(dict.fromkeys(parts))

    def parts(self, value: Any) -> list[str]:
        """Return what a field, or each text of a list, falls into."""
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
            return [_text(part) for part in value]
        if self.separator is None:
            return [_text(value)]
        return [part.strip() for part in _text(value).split(self.separator or SEPARATOR)]

    def _check_sentence(self, parts: list[str], value: str, where: str) -> None:
        """Refuse "Yes; it is.": it begins with a capital and goes on without one."""
        if parts[0][0].isupper() and any(part[0].islower() for part in parts[1:]):
            raise DataError(
                f"{self.path}: {where}: {value!r} may be one answer or several; set separator to "
                '";" or to another, or to null if each field is one answer'
            )

    def tell(self) -> None:
        """Say in one line that fields were split at a separator that nobody had set."""
        if self.split:
            logging.getLogger(__name__).warning(
                "%s: %d fields were split at ';' into answers, the first is %r; set `separator` "
                "to say so, to choose another, or to null",
                *(self.path, len(self.split), self.split[0]),
            )


def _question(row: dict[str, Any], number: int, settings: Settings, splitter: Splitter) -> Question:
    _check_keys(row, number, settings)
    for column in (settings.true, settings.false):
        _check_field(row.get(column), f"{settings.path}: row {number}, {column!r}")
    for column in (settings.question, "id", "group", "best"):
        _check_field(row.get(column), f"{settings.path}: row {number}, {column!r}", lists=False)
    for column in (settings.question, settings.true, settings.false, "best"):
        _check_number(row.get(column), f"{settings.path}: row {number}, {column!r}")
    text = _text(row.get(settings.question))
    true = splitter.answers(row.get(settings.true), f"row {number}, {settings.true!r}")
    false = splitter.answers(row.get(settings.false), f"row {number}, {settings.false!r}")
    for column, found in ((settings.question, text), (settings.true, true)):
        if not (plain_text(found) if isinstance(found, str) else found):
            raise DataError(
                f"{settings.path}: row {number} has nothing under {column!r}; fill it in or remove "
                "the row"
            )
    # a best answer that is in no list is a true one all the same
    best = _text(row.get("best")) or true[0]
    if best not in true and len(splitter.parts(best)) > 1:
        raise DataError(
            f"{settings.path}: row {number}, 'best': {best!r} is several answers; give the best "
            "of them, or set separator to null if each field is one answer"
        )
    return Question(
        id=_text(row.get("id")) or str(number),
        text=text,
        true=true if best in true else (best, *true),
        false=false,
        best=best,
        group=_text(row.get("group")) or plain_text(text),
    )


def _check_classes(questions: list[Question], settings: Settings) -> None:
    """Refuse a table without false answers, and an answer that is both true and false.

    Raises:
        DataError: naming the answer, or the empty column.
    """
    if not any(question.false for question in questions):
        raise DataError(
            f"{settings.path}: no false answer in any row; fill in the column {settings.false!r}"
        )
    if found := contradiction(questions):
        question, answer = found
        raise DataError(
            f"{settings.path}: row {1 + questions.index(question)}: {answer!r} is under "
            f"{settings.true!r} and under {settings.false!r} of the same question; remove one of "
            "them"
        )


def _check_keys(row: dict[str, Any], number: int, settings: Settings) -> None:
    """Refuse a row of JSONL that has "fales" where others have "false": it would be read as empty.

    Raises:
        DataError: naming row and key.
    """
    for name in (settings.question, settings.true, settings.false):
        close = [] if name in row else get_close_matches(name, row, n=1, cutoff=0.75)
        if close:
            raise DataError(
                f"{settings.path}: row {number} has {close[0]!r} and no {name!r}; correct the key, "
                "or call it something else"
            )


def _check_field(value: Any, where: str, lists: bool = True) -> None:
    """Refuse what is neither a text, a number, nothing, nor, with `lists`, a list of these.

    Raises:
        DataError: it is something else, such as the label true itself; or a text that is a list or
            a quotation as another program writes them, which would be read as one answer.
    """
    parts = value if isinstance(value, list) and lists else [value]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | float | None):
            remedy = "give texts, or a list of texts" if lists else "give one text"
            raise DataError(f"{where}: {part!r} is no text; {remedy}")
        if isinstance(part, str) and _LIST.fullmatch(part.strip()):
            raise DataError(
                f"{where}: {part!r} is a list written as text; put a separator between its texts, "
                "or write JSONL or Parquet, which know lists"
            )
        if isinstance(part, str) and part.startswith(' "'):
            raise DataError(
                f"{where}: {part!r} is a space and a quotation mark; remove the space behind the "
                "comma, so that the quotation marks are no part of the text"
            )


def _check_number(value: Any, where: str) -> None:
    """Refuse a number whose text is not what was written: pandas makes 1990.0 of 1990 beside NaN.

    Raises:
        DataError: naming row and column.
    """
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, float) and (math.isinf(part) or part.is_integer()):
            raise DataError(
                f"{where}: {part!r} is a number that may have been written otherwise, as 1990 is "
                "where 1990.0 stands; write it as text"
            )


def _text(value: Any) -> str:
    """Return the field as text; a missing one (None, NaN) is empty."""
    missing = value is None or (isinstance(value, float) and value != value)
    return "" if missing else str(value).strip()


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return columns and rows of the file, CSV fields as text ("NA" and "None" may be answers)."""
    if path.suffix not in KINDS:
        raise DataError(f"{path}: not a table this library reads; give one of {', '.join(KINDS)}")
    if path.suffix == ".csv":
        header, table = csv_table(path, DataError)
        return header, list(table)
    if path.suffix == ".jsonl":
        rows = [row for _, row in json_lines(path, DataError)]
    else:
        rows = parquet_rows(path)
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file.

    Raises:
        DataError: it is missing or damaged.
    """
    import pyarrow.parquet as pq

    check_ordinary(path, DataError)
    try:
        check_parquet_size(path)
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except Exception as error:  # each part of the reader has kinds of its own
        reason = first_line(error)
        raise DataError(f"{path}: cannot be read ({reason}); correct the file") from None
    check_strings(rows, str(path), DataError)
    return rows
