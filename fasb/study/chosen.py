"""Table `tuning`: what was chosen, how often at its grid's edge, and what was left of it on test.

In: `tuned.json` and `metrics.json` of all cells. Out: one row per comparison and method. A choice
at the edge says that the grid may be too narrow; a large drop from validation to test says that the
choice was partly luck.

    k, alpha, …       how often a fold and seed took each value, as text
    unsteered         how often not to steer was best, as text
    settings          how many were tried, and how many of them differ, as text
    edge              share of folds and seeds of which some choice lies at its grid's edge
    edges             which, as text
    validation, test  in percent, means over folds, seeds and worlds; drop is their difference
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.study.cells import Cell
from fasb.study.escaping import DASH, MINUS
from fasb.study.frames import read_mapping
from fasb.study.measures import MC2, MEASURES, shown_in
from fasb.study.panels import HYPERPARAMETERS, files_of, titled
from fasb.study.styles import MethodStyle, with_styles
from fasb.study.texttables import TextTable

CAPTION = (
    "what was best on validation questions, and in brackets for how many folds and seeds. Not to "
    "steer: how often no setting was better than the unsteered model. Settings: how many were "
    "tried, of which some may be one and the same, as depths that are one layer. A choice "
    "at its grid's edge (of three or more values) says that the grid may be too narrow. drop: what "
    "choosing the best of a grid promised too much; where nothing is chosen it says how far the "
    "two sets of questions differ by themselves."
)
NUMBERS = ("validation", "test", "drop")
"""The last columns, which hold no text."""
HEADINGS = {"unsteered": "Not to steer", "settings": "Settings"}
"""Columns beside those of hyperparameters, as they are headed."""
Entry = Mapping[str, Any]
"""A method's entry in `tuned.json`, one a fold, or in `metrics.json`."""


def chosen_rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows described above, comparisons in order of appearance."""
    chosen: dict[tuple[str, str, str], list[Entry]] = {}
    tested: dict[tuple[str, str, str], list[Entry]] = {}
    metrics = dict(files_of(cells, files, "metrics.json"))
    for cell, path in files_of(cells, files, "tuned.json"):
        for of_fold in read_mapping(path).values():
            for method, entry in of_fold.items():
                chosen.setdefault((*cell.group, method), []).append(entry)
        for method, entry in read_mapping(metrics[cell]).items():
            tested.setdefault((*cell.group, method), []).append(entry)
    rows = []
    for model, dataset in dict.fromkeys(cell.group for cell in cells):
        for style in styles:
            at = (model, dataset, style.name)
            if at in chosen:
                about = {"model": model, "dataset": dataset, "method": style.name}
                unsteered = _unsteered(chosen[at]) if style.steers else DASH
                rows.append(about | {"unsteered": unsteered} | _row(chosen[at], tested.get(at, [])))
    return with_styles(pd.DataFrame(rows), styles)


def _row(entries: Sequence[Entry], tested: Sequence[Entry]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {key: Counter() for key in HYPERPARAMETERS}
    edges: Counter[str] = Counter()
    for entry in entries:
        setting = entry.get("setting") or {}
        for key in counts.keys() & setting:
            counts[key][_text(setting[key])] += 1
        edges.update(entry["edge"])
        # the second tuning has grids and edges of its own
        edges.update(f"{key} for {MC2.title}" for key in entry["edge_mc2"])
    values = {}
    for key, count in counts.items():
        values[key] = ", ".join(f"{text} ({n})" for text, n in count.most_common()) or DASH
    told = [f"{key}: {n} of {len(entries)}" for key, n in edges.most_common()]
    at_edge = np.mean([bool(entry["edge"]) for entry in entries])
    values["settings"] = _settings(entries)
    return values | {"edge": at_edge, "edges": ", ".join(told)} | _drop(entries, tested)


def _settings(entries: Sequence[Entry]) -> str:
    """How many settings were tried, and how few of them differ where some come to the same."""
    tried = max(entry["tried"] for entry in entries)
    different = [entry["different"] for entry in entries]
    fewest, most = min(different), max(different)
    if fewest == tried:
        return str(tried) if tried else DASH  # none where another method's setting is taken over
    differ = str(fewest) if fewest == most else f"{fewest} to {most}"
    return f"{tried}, of which {differ} differ"


def _unsteered(entries: Sequence[Entry]) -> str:
    """In how many folds and seeds no setting was better than the model as it is."""
    told = []
    for purpose, title in (("generation", ""), ("mc2", f" for {MC2.title}")):
        n = sum(not entry["steers"][purpose] for entry in entries)
        told += [f"{n} of {len(entries)}{title}"] if n else []
    return ", ".join(told) or DASH


def _drop(entries: Sequence[Entry], tested: Sequence[Entry]) -> dict[str, Any]:
    """Return the measure that was tuned on, before and after; the first that both have."""
    names = [measure.name for measure in shown_in("tuning")]
    before = pd.DataFrame([entry.get("validation") or {} for entry in entries])
    means = pd.DataFrame(
        {
            "validation": before.reindex(columns=names).astype(float).mean(),
            "test": pd.DataFrame(list(tested)).reindex(columns=names).astype(float).mean(),
        }
    ).dropna()
    # without either, as where another method's setting is taken over, there is nothing to compare
    name = means.index[0] if len(means) else names[0]
    found = MEASURES[name].scale * means.reindex([name]).iloc[0]
    drop = found["validation"] - found["test"]
    return {"measure": MEASURES[name].title, **found.to_dict(), "drop": drop}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def chosen_tables(rows: pd.DataFrame) -> list[TextTable]:
    """Return a table of each comparison; hyperparameters that nothing has are left out."""
    tables = []
    for (model, dataset), part in rows.groupby(["model", "dataset"], sort=False):
        shown = [key for key in (*HYPERPARAMETERS, *HEADINGS) if (part[key] != DASH).any()]
        named = [HEADINGS.get(key, key) for key in shown]
        measured = [f"{part['measure'].iloc[0]}, validation", "test", "drop"]
        headings = ["Method", *named, "At the grid's edge", *measured]
        tables.append(
            TextTable(
                f"{titled(model, dataset)}: {CAPTION}",
                headings,
                [_line(row, shown) for row in part.to_dict("records")],
                n_text=len(headings) - len(measured),
                colours=part["colour"].tolist(),
            )
        )
    return tables


def _line(row: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    # an empty text comes back from a CSV as NaN
    edges = row["edges"] if isinstance(row["edges"], str) else ""
    texts = [row[key] for key in ("label", *shown)]
    return [*texts, edges, *(_number(row[key]) for key in NUMBERS)]


def _number(value: float) -> str:
    return DASH if np.isnan(value) else f"{value:.1f}".replace("-", MINUS)
