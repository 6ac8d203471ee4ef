"""The tables of a study by the name of their file, and the one way in which stages read them.

In: a path. Out: a frame that is what docs/artifacts.md says of such a file. Knows no stage.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fasb.artifacts import read_json, read_parquet
from fasb.errors import ArtifactError
from fasb.schemas import Column, Table, check_table
from fasb.settings import Section
from fasb.study.measures import MEASURES, columns_of

Value = int | float | str | bool
"""Of a setting."""
LARGEST = 2**31
"""Of counts; more are no count of anything here."""
TEXT, SWITCH, NUMBER = Column("text"), Column("switch"), Column("number")
COUNT, TEXTS = Column("whole", 0, LARGEST), Column("text", lists=True)
TOKENS = Column("whole", 0, LARGEST, lists=True)
SHARE, MAYBE_SHARE = Column("number", 0, 1), Column("number", 0, 1, missing=True)
# a judge may say only one of the two
VERDICT = Column("number", 0, 1, needed=False)
ENDED = Column("whole", 0, 2)
PLACE = {"fold": COUNT, "method": TEXT}
ASKED = {"question": TEXT, "phrasing": COUNT}
CHOICES = {"mc1": SHARE, "mc2": SHARE, "mc3": SHARE, "fired": SHARE}
ANSWER = {"answer": TEXT, "n_tokens": COUNT, "fired": SWITCH, "kept": COUNT, "strength": NUMBER}
GRID = {"fold": COUNT, "method": TEXT, "setting": COUNT}


def _measured(names: tuple[str, ...]) -> dict[str, Column]:
    """Columns of means; a measure that was not taken is NaN."""
    found = {}
    for name in names:
        found[name] = Column("number", *MEASURES[name].limits, missing=True)
    return found


def _answer_lengths(frame: pd.DataFrame) -> np.ndarray:
    """Which answers hold other numbers of tokens, pieces and states than they say."""
    states, pieces = frame["p"].map(len), frame["trace_pieces"].map(len)
    # none without a tracker, else one more than tokens: state 0 is the question's end
    wrong = (states != 0) & (states != pieces + 1)
    wrong |= frame["answer_pieces"].map(len) != frame["n_tokens"]
    wrong |= (frame["kept"] > frame["n_tokens"]) | (frame["fired_at"] > pieces)
    return np.asarray(wrong)


def _trace_lengths(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(frame["tokens"].map(len) != frame["pieces"].map(len))


def _kept_within(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(frame["kept"] > frame["n_tokens"])


VERDICTS = Table(
    {"question": TEXT, "answer": TEXT, "true": VERDICT, "info": VERDICT}, ("question", "answer")
)
TRACE = Table(
    {**ASKED, "prompt": TOKENS, "tokens": TOKENS, "ended": ENDED, "text": TEXT, "pieces": TEXTS},
    tuple(ASKED),
    rule=_trace_lengths,
)
TABLES = {
    "sweep.parquet": Table(
        {**GRID, **ASKED, **ANSWER}, (*GRID, *ASKED), others=True, rule=_kept_within
    ),
    "sweep_mc.parquet": Table({**GRID, **ASKED, **CHOICES}, (*GRID, *ASKED)),
    "sweep_judged.parquet": VERDICTS,
    "judged.parquet": VERDICTS,
    "judged_second.parquet": VERDICTS,
    "generations.parquet": Table(
        {
            **PLACE,
            **ASKED,
            **ANSWER,
            **{
                "group": TEXT,
                "text": TEXT,
                "decoded": COUNT,
                "passes": COUNT,
                "ended": ENDED,
                "fired_at": COUNT,
            },
            "p": Column("number", 0, 1, lists=True),
            **{"trace_pieces": TEXTS, "answer_pieces": TEXTS, "trace_answer": TEXT},
        },
        (*PLACE, *ASKED),
        rule=_answer_lengths,
    ),
    "scores.parquet": Table(
        {**PLACE, "tuned_for": TEXT, **ASKED, **CHOICES}, (*PLACE, "tuned_for", *ASKED)
    ),
    "grid.parquet": Table(
        {
            **GRID,
            **dict.fromkeys(
                ("true", "info", "true_info", "mc1", "mc2", "mc3", "steered", "steered_mc"),
                MAYBE_SHARE,
            ),
            "tokens": Column("number", 0, LARGEST, missing=True),
            "n": Column("number", 0, LARGEST, missing=True),
            **{"chosen": SWITCH, "chosen_mc2": SWITCH},
        },
        tuple(GRID),
        others=True,
    ),
    "metrics.parquet": Table(
        {**PLACE, "question": TEXT, "group": TEXT, **_measured(columns_of("metrics.parquet"))},
        (*PLACE, "question"),
    ),
    "side_effects.parquet": Table(
        {**PLACE, "question": TEXT, "group": TEXT, **_measured(columns_of("side_effects.parquet"))},
        (*PLACE, "question"),
    ),
}
"""Of each file in a cell's folder."""


def table_of(path: Path) -> Table | None:
    """Return the schema of a file by its place, if it is such a table."""
    return TRACE if path.parent.parent.name == "traces" else TABLES.get(path.name)


def read_table(path: Path) -> pd.DataFrame:
    """Return the frame of a file of a study, checked against the schema of its name.

    Raises:
        ArtifactError: the file is missing or damaged, or holds what such a file cannot hold.
    """
    frame, table = read_parquet(path), table_of(path)
    assert table is not None, path
    check_table(frame, table, path)
    return frame


class Chosen(Section):
    """What `tuned.json` says of a method in one fold."""

    setting: dict[str, Value]
    for_mc2: dict[str, Value]
    validation: dict[str, float]
    steers: dict[str, bool]
    edge: list[str]
    edge_mc2: list[str]
    tried: int
    different: int
    like: str | None = None


MAPPINGS: dict[str, TypeAdapter[Any]] = {
    # `Chosen` is a `Section`: unknown keys, NaN and switches for numbers are refused by itself
    "tuned.json": TypeAdapter(dict[str, dict[str, Chosen]]),
    "metrics.json": TypeAdapter(
        dict[str, dict[str, float | str | dict[str, float | None] | None]],
        config=ConfigDict(strict=True, allow_inf_nan=False),
    ),
}
"""JSON files of a cell's folder."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the payload of a cell's `tuned.json` or `metrics.json`.

    Raises:
        ArtifactError: the file is missing or damaged, or holds what such a file cannot hold.
    """
    payload = read_json(path)
    try:
        MAPPINGS[path.name].validate_python(payload)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise ArtifactError(f"{path}: {key}: {first['msg'].lower()}; make it again") from None
    found: dict[str, Any] = payload
    return found
