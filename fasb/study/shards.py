"""Questions of a cell in blocks, blocks in shards: what one of several jobs does, and the whole.

A block of questions under one method in one fold is what is run at once and kept in the store. So
a row's batch, and with it every last digit, is the same whoever runs its block: the shards'
rows together are, bit for bit, those of a single job.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.data.protocol import Question, Split
from fasb.study.frames import read_table

BLOCK = 128
"""Questions of a block, at most: large beside a batch, small beside a benchmark."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`-th of `of` jobs that share a cell's blocks, from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def named(cls, part: str) -> "Shard":
        """Return the shard that a part of a file's name says: `2of4`."""
        number, of = part.split("of")
        return cls(int(number), int(of))


WHOLE = Shard()
"""A cell that is not divided."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One block: which method is asked which questions, in which fold."""

    fold: int
    method: str
    ids: tuple[str, ...]
    what: str
    """In progress lines."""


def units(
    splits: Sequence[Split],
    methods: Iterable[str],
    asked: Callable[[Split], Sequence[str]],
    shard: Shard,
) -> list[Unit]:
    """Return the blocks of a shard; `asked` gives the questions of a fold.

    Every so-many-th block is the shard's: a cell's methods, of which some cost nothing, are shared
    out evenly.
    """
    found = []
    for fold, split in enumerate(splits):
        ids = list(asked(split))
        blocks = np.array_split(np.arange(len(ids)), max(-(-len(ids) // BLOCK), 1))
        for method in methods:
            for i, block in enumerate(blocks):
                what = f"fold {fold}, {method}"
                what += f", block {i + 1} of {len(blocks)}" if len(blocks) > 1 else ""
                found.append(Unit(fold, method, tuple(ids[j] for j in block), what))
    return found[shard.number - 1 :: shard.of]


def gathered(
    parts: Sequence[Path], questions: Sequence[Question], methods: Sequence[str]
) -> pd.DataFrame | None:
    """Return the rows of all parts, as one job would have written them; None without parts."""
    if not parts:
        return None
    frames = [read_table(path) for path in parts]
    # an empty frame knows no types, and would spoil those of the others
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    return ordered(pd.concat(filled, ignore_index=True), questions, methods)


def ordered(
    frame: pd.DataFrame, questions: Sequence[Question], methods: Sequence[str]
) -> pd.DataFrame:
    """Return the rows as if there were one block: by fold, method, setting, question, phrasing."""
    places: dict[str, dict[Any, int]] = {
        "method": {name: i for i, name in enumerate(methods)},
        "question": {question.id: i for i, question in enumerate(questions)},
    }
    keys = {}
    for key in ("fold", "method", "setting", "tuned_for", "question", "phrasing"):
        if key in frame:
            keys[key] = frame[key].map(places[key]) if key in places else frame[key]
    rows = pd.DataFrame(keys).reset_index(drop=True).sort_values([*keys]).index
    return frame.iloc[rows].reset_index(drop=True)
