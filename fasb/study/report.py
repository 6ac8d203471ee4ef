"""The report: one HTML file with everything a reader asks of a study, readable offline.

In: tables and figures as CSV and PNG, the cells' files, health and timing files if there are any.
Out: the text of a page that loads nothing: style inline, pictures as data URIs. Layout is
`report.html`, looks are `report.css`.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fasb.artifacts import read_json, stamp_of
from fasb.study.agreement import agreement_parts
from fasb.study.answers import OUTCOMES, pick
from fasb.study.captions import CAPTION
from fasb.study.figures import colour
from fasb.study.panels import KNOBS, Cell, files_of, label, pooled, read_cells
from fasb.study.tables import DASH, caption, lines, message, parts_of, split, title_of

FOLDER = Path(__file__).parent
DPI = 250
"""Of the pictures, as in `paper.mplstyle`; a figure is shown larger than in print, but in
proportion."""
FIGURES = ("tag", "context", "head", "true", "info", "gain", "loss")
"""Order of a world's health figures."""
TITLES = {
    "figure_1": "What the tracker sees (Figure 1)",
    "calibration": "Whether p is a probability",
    "figure_4": "Which heads know truth (Figure 4)",
    "tradeoff": "True against Info",
    "data_efficiency": "How many training pairs are needed",
    "sensitivity": "Sensitivity to k, alpha, beta and s",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What a report is made of. `files` are the declared inputs; `timing` may be absent."""

    name: str
    preset: str
    cells: list[Cell]
    methods: list[str]
    files: list[Path]
    health: list[Path]
    timing: Path | None = None

    def named(self, suffix: str, folder: str) -> list[Path]:
        """Inputs of one kind from one folder, as given."""
        return [file for file in self.files if file.suffix == suffix and file.parent.name == folder]


MORE_TABLES = {
    "models": "The same questions asked of several models; each is fitted and tuned on its own.",
    "tasks": "Accuracy by option likelihood (MC1) on the choice tasks, and its mean over them.",
    "side_effects": "What tuned methods do to text that answers no test question. In a world such texts are by careful "
    "and by credulous authors, so some cross-entropy is what steering is for.",
    "transfer": "Questions or models steered with bundles that were fitted and tuned on others.",
}


def render(sources: Sources) -> str:
    """The page. The same sources give the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tuned = {
        (c.model, c.dataset, c.seed): read_json(path)
        for c, path in files_of(sources.cells, sources.files, "tuned.json")
    }
    csvs = sources.named(".csv", "tables")
    return environment.get_template("report.html").render(
        css=(FOLDER / "report.css").read_text(),
        sources=sources,
        worlds=bool(sources.health),
        tables={path.stem: tables(path) for path in csvs if path.stem != "judges"},
        judges=[
            part
            for path in csvs
            if path.stem == "judges"
            for part in agreement_parts(pd.read_csv(path))
        ],
        figures=[figure(path) for path in sorted(sources.named(".png", "figures"), key=_order)],
        health=health({path.stem: read_json(path) for path in sources.health}),
        settings=settings(tuned, sources.methods),
        answers=answers(sources, tuned),
        outcomes=OUTCOMES,
        more_tables=MORE_TABLES,
        provenance=provenance(sources),
        timing=timing(sources.timing),
        label=label,
        colour=colour,
    )


def _order(path: Path) -> int:
    return list(TITLES).index(path.stem) if path.stem in TITLES else len(TITLES)


def tables(path: Path) -> list[dict[str, Any]]:
    """The comparisons of a table's CSV, each with caption, columns and cells (number, interval, p)."""
    made = []
    for rows in split(pd.read_csv(path)):
        parts = [
            {
                "columns": [column.title for column in columns],
                "rows": lines(rows, columns),
            }
            for columns in parts_of(rows).values()
        ]
        made.append(
            {
                "title": title_of(rows),
                "message": message(rows),
                "caption": caption(rows),
                "parts": parts,
            }
        )
    return made


def figure(path: Path) -> dict[str, str]:
    """A picture as data URI, with its title and its caption from the CSV beside it."""
    data = path.with_suffix(".csv")
    rows = pd.read_csv(data) if data.is_file() and data.stat().st_size > 2 else pd.DataFrame()
    text = CAPTION[path.stem](rows) if path.stem in CAPTION else ""
    content = path.read_bytes()
    inches = int.from_bytes(content[16:20], "big") / DPI
    uri = "data:image/png;base64," + base64.b64encode(content).decode()
    title = TITLES.get(path.stem, path.stem)
    return {
        "name": path.stem,
        "title": title,
        "caption": text,
        "uri": uri,
        "rem": f"{8.4 * inches:.1f}",
    }


def health(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of every world, by name: its figures with what was needed of them, and whether it was accepted."""
    known = dict.fromkeys(name for report in reports.values() for name in report["figures"])
    columns = sorted(
        known, key=lambda name: FIGURES.index(name) if name in FIGURES else len(FIGURES)
    )
    rows = [
        {
            "name": world,
            "accepted": report["accepted"],
            "cells": [report["figures"].get(name) for name in columns],
        }
        for world, report in reports.items()
    ]
    return {"columns": columns, "rows": rows}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            pair
            for key, item in value.items()
            for pair in _flat(item, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list):
        return [(name, ", ".join(_text(item) for item in value))]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings(
    tuned: Mapping[tuple[str, str, int], Any], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """Per comparison and method: how often each value was chosen, and which choices lie at their grid's edge."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for (model, dataset, _), folds in tuned.items():
        group = found.setdefault((pooled(model), pooled(dataset)), {})
        for chosen in folds.values():
            for method, entry in chosen.items():
                group.setdefault(method, []).append(entry)
    return [
        {
            "title": model if model == dataset else f"{model}, {dataset}",
            "rows": [_setting_row(method, group[method]) for method in methods if method in group],
        }
        for (model, dataset), group in found.items()
    ]


def _setting_row(method: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {
        key: Counter(_text(e["setting"][key]) for e in entries if key in (e.get("setting") or {}))
        for key in KNOBS
    }
    edges = Counter(key for entry in entries for key in entry["edge"])
    edges.update(f"{key} for MC2" for entry in entries for key in entry["edge_mc2"])
    return {
        "method": method,
        "values": {
            key: ", ".join(f"{v} ({n})" for v, n in counts[key].most_common()) or DASH
            for key in KNOBS
        },
        "edges": ", ".join(f"{key}: {n} of {len(entries)}" for key, n in edges.most_common()),
        "n": len(entries),
    }


def answers(sources: Sources, tuned: Mapping[Any, Any]) -> dict[str, Any]:
    """A few answers of the first FASB method, by world and outcome."""
    method = next((m for m in sources.methods if m.startswith("fasb")), None)
    firsts = list(
        {(pooled(c.model), pooled(c.dataset)): c for c in reversed(sources.cells)}.values()
    )[::-1]
    if method is None:
        return {"method": "", "groups": []}
    frames = [
        read_cells(firsts, sources.files, name)
        for name in ("generations.parquet", "judged.parquet")
    ]
    shown = pick(*frames, method, tuned) if len(frames[0]) else []
    groups = [
        {"model": model, "outcome": outcome, "answers": found}
        for model in dict.fromkeys(one.model for one in shown)
        for outcome in OUTCOMES
        if (found := [one for one in shown if (one.model, one.outcome) == (model, outcome)])
    ]
    return {"method": method, "groups": groups}


def provenance(sources: Sources) -> dict[str, Any]:
    """Where the numbers come from: digest of every cell's metrics, and what they were made with."""
    stamps = [
        (cell, path, stamp_of(path))
        for cell, path in files_of(sources.cells, sources.files, "metrics.parquet")
    ]
    made = stamps[0][2]["provenance"] if stamps else {}
    return {
        "made": [
            pair for key in ("versions", "commit", "hardware") for pair in _flat(made.get(key), key)
        ],
        "files": [(cell, str(path), stamp["digest"][:16]) for cell, path, stamp in stamps],
        "commits": sorted({str(stamp["provenance"].get("commit")) for _, _, stamp in stamps}),
    }


def timing(folder: Path | None) -> list[dict[str, Any]]:
    """Jobs, total and longest time, and peak memory of every rule, from its benchmark files."""
    if folder is None or not folder.is_dir():
        return []
    frames = []
    for path in sorted(folder.rglob("*.tsv")):
        frame = pd.read_csv(path, sep="\t", na_values="-")
        if {"s", "max_rss"} <= set(frame.columns):
            frames.append(
                frame[["s", "max_rss"]].assign(
                    rule=path.relative_to(folder).parts[0].removesuffix(".tsv")
                )
            )
    if not frames:
        return []
    found = pd.concat(frames).groupby("rule", sort=False)
    table = found.agg(
        jobs=("s", "size"), total=("s", "sum"), longest=("s", "max"), memory=("max_rss", "max")
    )
    return table.sort_values("total", ascending=False).reset_index().to_dict("records")
