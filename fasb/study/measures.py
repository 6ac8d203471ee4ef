"""What is measured: every measure once, with its title, unit, direction, and where it is shown.

`MEASURES` is in the order of print. Tables, figures, the report and the metrics stage all ask here;
none has a list of its own. Imports nothing, so that planning a study stays quick.
"""

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

ARROWS = {
    "higher": "\N{NO-BREAK SPACE}\N{UPWARDS ARROW}",
    "lower": "\N{NO-BREAK SPACE}\N{DOWNWARDS ARROW}",
    "neither": "",
}


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of an answer, a question's choices, or a text.

    name: column of the cells' files. unit: shares are files' 0 to 1 and print's percent. better:
    which way is good. shown: parts of tables, tables and figures that show it. tested: its
    difference to the baseline is printed, tested and counted in the family of claims.
    """

    name: str
    title: str
    unit: Literal["share", "count", "nats"] = "share"
    better: Literal["higher", "lower", "neither"] = "higher"
    shown: tuple[str, ...] = ()
    tested: bool = False

    @property
    def scale(self) -> float:
        """What a value is multiplied with for print."""
        return 100.0 if self.unit == "share" else 1.0

    @property
    def digits(self) -> int:
        """Decimals in print."""
        return 3 if self.unit == "nats" else 1

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value there can be, as in the files."""
        return (0.0, 1.0 if self.unit == "share" else math.inf)

    @property
    def heading(self) -> str:
        """Title with an arrow towards the better side."""
        return self.title + ARROWS[self.better]


TRUE = Measure("true", "True", shown=("answers",))
INFO = Measure("info", "Info", shown=("answers",))
TRUE_INFO = Measure(
    "true_info",
    "True*Info",
    shown=("answers", "differences", "tuning", "data_efficiency"),
    tested=True,
)
"""The product of the two means of a fold (docs/method.md Q9), so no column of a file."""
MC1 = Measure(
    "mc1",
    "MC1",
    shown=("choices", "tasks", "differences", "tuning", "data_efficiency"),
    tested=True,
)
MC2 = Measure(
    "mc2", "MC2", shown=("choices", "differences", "tuning", "data_efficiency"), tested=True
)
MC3 = Measure("mc3", "MC3")
HARMED = Measure("harmed", "Harmed", better="lower", shown=("answers",))
DECODED = Measure("decoded", "Tokens", unit="count", better="lower", shown=("answers",))
KL_POLICY = Measure("kl_policy", "KL by policy", unit="nats", better="lower", shown=("texts",))

ANSWER_MEASURES = (
    TRUE,
    INFO,
    TRUE_INFO,
    HARMED,
    Measure("helped", "Helped", shown=("answers",)),
    Measure("steered", "Steered", better="neither", shown=("answers",)),
    Measure("tokens", "Length", unit="count", better="neither"),
    DECODED,
    Measure("passes", "Passes", unit="count", better="lower"),
    Measure("exact", "Exact", shown=("choices", "tasks")),
)
CHOICE_MEASURES = (
    MC1,
    MC2,
    MC3,
    Measure("steered_mc", "Steered", better="neither", shown=("choices",)),
)
TUNED_MEASURES = (
    Measure("mc1_tuned", "MC1 (tuned for MC2)"),
    Measure("mc2_tuned", "MC2 (tuned for it)", shown=("choices",), tested=True),
    Measure("mc3_tuned", "MC3 (tuned for MC2)"),
)
"""The same of the choices at the setting that was tuned for MC2."""
EFFECT_MEASURES = (
    Measure("ce", "CE everywhere", unit="nats", better="lower", shown=("texts",), tested=True),
    Measure("kl", "KL everywhere", unit="nats", better="lower", shown=("texts",)),
    Measure(
        "ce_policy", "CE by policy", unit="nats", better="lower", shown=("texts",), tested=True
    ),
    KL_POLICY,
    Measure("steered_policy", "Steered by policy", better="neither", shown=("texts",)),
    Measure("unrelated", "Accuracy", shown=("unrelated",), tested=True),
)

MEASURES = {
    one.name: one for one in (*ANSWER_MEASURES, *CHOICE_MEASURES, *TUNED_MEASURES, *EFFECT_MEASURES)
}
HEADLINE = (TRUE_INFO, MC1)
"""What a comparison is about: the first of these that has a value."""


def headline(known: Container[str]) -> Measure | None:
    """Return what a comparison is about, of the measures that have a value in it."""
    return next((one for one in HEADLINE if one.name in known), None)


@dataclass(frozen=True, slots=True)
class TableKind:
    """A kind of table: its parts, the files of each cell, and what one printed table shares."""

    parts: tuple[str, ...]
    files: tuple[str, ...] = ("metrics.parquet",)
    together: tuple[str, ...] = ("model", "dataset", "source")


TABLES = {
    "main": TableKind(("answers", "choices")),
    "differences": TableKind(("differences",)),
    "ablation": TableKind(("answers", "choices")),
    "crossing": TableKind(("answers", "choices")),
    "models": TableKind(("answers", "choices"), together=("dataset",)),
    "tasks": TableKind(("tasks",), together=("model",)),
    "transfer": TableKind(("answers", "choices")),
    "side_effects": TableKind(("texts", "unrelated"), files=("side_effects.parquet",)),
    "tuning": TableKind((), files=("tuned.json", "metrics.json")),
    "judges": TableKind(
        (), files=("generations.parquet", "judged.parquet", "judged_second.parquet")
    ),
}
"""`tuning` (`chosen.py`) and `judges` (`agreement.py`) have rows of their own kinds.

The others have those of `tables.py`.
"""


def shown_in(name: str) -> tuple[Measure, ...]:
    """Return the measures that a table's part, a table or a figure shows."""
    return tuple(one for one in MEASURES.values() if name in one.shown)


def columns_of(file: str) -> tuple[str, ...]:
    """Return the columns of `metrics.parquet` or `side_effects.parquet` that are averaged."""
    effects = tuple(one.name for one in EFFECT_MEASURES)
    if file == "side_effects.parquet":
        return effects
    # True*Info is made of means: no question has one of its own (Q9)
    return tuple(name for name in MEASURES if name not in effects and name != TRUE_INFO.name)
