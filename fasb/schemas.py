"""Schemas of tables: what each column of a kind of file holds, checked where the file is read.

In: a frame, its file, a `Table`. Out: nothing, or one line that names file, column and row. A file
whose checksum is right may still be another person's: what later stages rely on is asked here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fasb.errors import ArtifactError

Kind = Literal["text", "whole", "number", "switch"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its kind, in lists or not, and its range.

    missing: a value may be NaN or None. needed: the column may not be absent.
    """

    kind: Kind
    least: int | float = -math.inf
    most: int | float = math.inf
    lists: bool = False
    missing: bool = False
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a kind of file; no two rows share the values of `key`.

    others: further columns are taken. rule: returns rows that break a rule of several columns.
    """

    columns: Mapping[str, Column]
    key: Sequence[str]
    others: bool = False
    rule: Callable[[pd.DataFrame], np.ndarray] | None = None


def check_table(frame: pd.DataFrame, table: Table, path: Path) -> None:
    """Refuse a frame that is not what the schema says.

    Raises:
        ArtifactError: a column is missing, unknown, of another kind or out of its range, or two
            rows are of the same thing.
    """
    needed = [name for name, column in table.columns.items() if column.needed]
    for name in [*needed, *table.key]:
        if name not in frame:
            raise ArtifactError(f"{path}: no column {name}; make it again")
    for name in frame.columns:
        column = table.columns.get(name)
        if column is not None:
            _check_column(frame[name], column, path)
        elif not table.others:
            raise ArtifactError(f"{path}: unknown column {name}; make it again")
    twice = frame.duplicated(list(table.key))
    if twice.any():
        row = int(np.argmax(twice)) + 1
        raise ArtifactError(
            f"{path}: row {row} is of the same {', '.join(table.key)} as one before; make it again"
        )
    if table.rule is not None and len(frame) and (broken := table.rule(frame)).any():
        row = int(np.argmax(broken)) + 1
        raise ArtifactError(f"{path}: row {row} contradicts itself in its lengths; make it again")


def _check_column(values: pd.Series, column: Column, path: Path) -> None:
    where = f"{path}: column {values.name}"
    if column.lists:
        for row, value in enumerate(values, start=1):
            if not isinstance(value, np.ndarray | list):
                raise ArtifactError(f"{where}, row {row}: no list; make it again")
        inner = [np.asarray(value) for value in values if len(value)]
        values = pd.Series(np.concatenate(inner) if inner else [], dtype=None if inner else object)
        where += ", in a list"
    if not len(values):
        return
    if column.missing:
        values = values.dropna()
    wrong = ~_of_kind(values, column.kind)
    if not wrong.any() and column.kind in ("whole", "number"):
        numbers = values.to_numpy(np.float64)
        # a comparison with NaN is false, so NaN is wrong here as well
        wrong = ~((numbers >= column.least) & (numbers <= column.most) & np.isfinite(numbers))
    if wrong.any():
        at = int(np.argmax(wrong))
        told = _range(column) if column.kind in ("whole", "number") else column.kind
        value = values.iloc[at]
        # versions of pandas differ in what they make of a value that is missing
        found = "nothing" if pd.isna(value) is True else repr(str(value)[:60])
        raise ArtifactError(
            f"{where}, row {values.index[at] + 1}: {found} is no {told}; make it again"
        )


def _of_kind(values: pd.Series, kind: Kind) -> np.ndarray:
    """Return which values are of the kind; columns of mixed kinds are asked value by value."""
    # no letter for text: columns of objects are asked value by value
    letters = {"text": "", "whole": "iu", "number": "iuf", "switch": "b"}[kind]
    if values.dtype.kind in letters:
        return np.ones(len(values), dtype=bool)
    classes: dict[str, Any] = {
        "text": str,
        "whole": (int, np.integer),
        "number": (int, float, np.integer, np.floating),
        "switch": (bool, np.bool_),
    }
    if values.dtype.kind != "O" and kind != "text":
        return np.zeros(len(values), dtype=bool)
    found = []
    for value in values:
        switch = isinstance(value, bool | np.bool_) and kind != "switch"
        found.append(isinstance(value, classes[kind]) and not switch)
    return np.array(found, dtype=bool)


def _range(column: Column) -> str:
    kind = "whole number" if column.kind == "whole" else "finite number"
    if column.least == -math.inf:
        return kind
    if column.most == math.inf:
        return f"{kind} from {column.least:g} on"
    return f"{kind} between {column.least:g} and {column.most:g}"
