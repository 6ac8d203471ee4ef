"""Published numbers, each with where it was read: what a study's own are set beside.

In: `published.json` of this package. Out: one `Published` per number, in percent as printed. Names
of methods and metrics are this study's. Knows nothing of results, and no number of its own; a
number's absence is listed in the file as well.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

MODELS = {"llama2-7b-chat": ("LLaMA-2-7B-chat", "")}
"""A study's models and their names in published tables.

"" is where the name could not be recovered: then a note says so.
"""
TABLES = {
    "main": ("main", "choice tasks"),
    "ablation": ("ablation",),
    "models": ("main",),
    "tasks": ("choice tasks",),
    "transfer": ("transfer",),
}
"""A study's tables, and the published ones whose numbers may stand in them."""


@dataclass(frozen=True, slots=True)
class Published:
    """One number of a published table; `model` is empty where it could not be recovered."""

    table: str
    model: str
    dataset: str
    method: str
    metric: str
    value: float
    source: str
    note: str = ""


def published(source: str = "fasb", table: str | None = None) -> list[Published]:
    """Return the numbers of sources whose name starts with `source`, perhaps of one table."""
    found = []
    for row in _document()["rows"]:
        if not row["source"].startswith(source) or table not in (None, row["table"]):
            continue
        place = (row["table"], row["model"], row["dataset"], row["method"])
        for metric, value in row["values"].items():
            note = row.get("note", "")
            found.append(Published(*place, metric, float(value), row["source"], note))
    return found


def beside(table: str, model: str, dataset: str, method: str, metric: str) -> Published | None:
    """Return the paper's number that corresponds to one of a study's; None if there is none."""
    for number in published():
        same = (number.dataset, number.method, number.metric) == (dataset, method, metric)
        shared = number.table in TABLES.get(table, ()) and number.model in MODELS.get(model, ())
        if same and shared:
            return number
    return None


def sources() -> dict[str, str]:
    """Return what each source is, in a sentence."""
    named: dict[str, str] = _document()["sources"]
    return named


@cache
def _document() -> dict[str, Any]:
    text = resources.files("fasb.data").joinpath("published.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
