"""Anybody's questions: a CSV, JSONL or Parquet file with the columns question, true and false.

In: one row per question. Several answers stand in one field, separated by ";", or as a list (JSONL,
Parquet). The first true answer is the best one unless there is a column `best`. Optional columns:
`id` (else the row's number, from 1) and `group` (rows of one group are never split between fit and
test; else the question's text). Out: the questions, in the file's order. Knows no model and no
prompt.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from fasb.data.protocol import Question, check_questions
from fasb.errors import DataError, did_you_mean
from fasb.settings import Section

KINDS = (".csv", ".jsonl", ".parquet")


class Settings(Section):
    """Where the file is and what its columns are called."""

    path: str = Field(description="A .csv, .jsonl or .parquet file")
    question: str = Field("question", description="Column of the question's text")
    true: str = Field("true", description="Column of the true answers")
    false: str = Field("false", description="Column of the false answers")
    separator: str = Field(";", min_length=1, description="Between the answers of one field")


def load(settings: Settings) -> list[Question]:
    """The questions of the file.

    Raises:
        DataError: naming the file and the row or column that is missing, empty or of one class
            only.
    """
    frame = _read(Path(settings.path))
    for column in (settings.question, settings.true, settings.false):
        if column not in frame.columns:
            remedy = (
                did_you_mean(column, map(str, frame.columns))
                if len(frame.columns)
                else "the file has no columns"
            )
            raise DataError(f"{settings.path}: no column {column!r}; {remedy}")
    rows = enumerate(frame.to_dict("records"), start=1)
    questions = [_question(row, number, settings) for number, row in rows]
    check_questions(questions, settings.path)
    if not any(question.false for question in questions):
        raise DataError(
            f"{settings.path}: no false answer in any row; fill in the column {settings.false!r}"
        )
    return questions


def _question(row: dict[str, Any], number: int, settings: Settings) -> Question:
    text = _text(row[settings.question])
    true, false = (
        _answers(row[column], settings.separator) for column in (settings.true, settings.false)
    )
    for column, found in ((settings.question, text), (settings.true, true)):
        if not found:
            raise DataError(
                f"{settings.path}: row {number} has nothing under {column!r}; fill it in or remove the row"
            )
    best = _text(row.get("best")) or true[0]
    return Question(
        id=_text(row.get("id")) or str(number),
        text=text,
        true=true if best in true else (best, *true),
        false=false,
        best=best,
        group=_text(row.get("group")) or text,
    )


def _text(value: Any) -> str:
    """The field as text; a missing one (None, NaN) is empty."""
    return (
        "" if value is None or (isinstance(value, float) and value != value) else str(value).strip()
    )


def _answers(value: Any, separator: str) -> tuple[str, ...]:
    """The answers of a field, each once, in their order."""
    listed = isinstance(value, Iterable) and not isinstance(value, str)
    parts = (
        map(_text, value) if listed else (part.strip() for part in _text(value).split(separator))
    )
    return tuple(dict.fromkeys(part for part in parts if part))


def _read(path: Path) -> pd.DataFrame:
    """The file as a frame, CSV fields as text ("NA" and "None" may be answers)."""
    if path.suffix not in KINDS:
        raise DataError(f"{path}: not a table this library reads; give one of {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct the path")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
    except Exception as error:  # each reader has its own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({reason}); correct the file") from None
    return pd.DataFrame(_json_rows(path))


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not JSON ({error.msg}); correct that line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a mapping; write one {{...}} per line")
        rows.append(row)
    return rows
