"""The report: one HTML file with everything a reader asks of a study, readable offline.

In: tables and figures as CSV and PNG, the cells' files, health and timing files if there are any.
Out: the text of a page that loads nothing: style inline, pictures as data URIs. Layout is
`report.html`, which escapes all that it is given; looks are `report.css`.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fasb.artifacts import read_json, stamp_of
from fasb.study.agreement import agreement_tables
from fasb.study.answers import OUTCOMES, pick
from fasb.study.cells import Cell
from fasb.study.chosen import chosen_tables
from fasb.study.escaping import without_controls
from fasb.study.figures import FIGURES, caption, figure
from fasb.study.panels import files_of, read_cells
from fasb.study.printing import conditions, lines, message, parts_of, split, title_of
from fasb.study.rates import read_timing
from fasb.study.styles import MethodStyle, first_gated, labels_of

FOLDER = Path(__file__).parent
DPI = 250
"""Of the pictures, as in `paper.mplstyle`; they are shown larger than in print, in proportion."""
HEALTH = ("known", "tag", "context", "grammar", "head")
"""Order of a world's health figures; others stand behind."""
ABOUT_TABLES = {
    "main": "Main methods; differences are to the unsteered model.",
    "differences": "The claims that matter: each gated method minus every other main method, on "
    "the same questions.",
    "ablation": "The full method against itself with one part taken away, and controls; "
    "differences are to the full method.",
    "crossing": "Every vector under every gate, with and without going back, each tuned over as "
    "many settings; differences are to the unsteered model.",
    "models": "The same questions asked of several models; each is fitted and tuned on its own.",
    "tasks": "Accuracy by option likelihood (MC1) on the choice tasks, and its mean over them.",
    "side_effects": "What tuned methods do to text that answers no test question. In a world such "
    "texts are by careful and by credulous authors, so some cross-entropy is what steering is for.",
    "transfer": "Questions or models steered with bundles that were fitted and tuned on others.",
}
"""What stands above each table, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a report is made of. `files` are the declared inputs; `timing` may be absent."""

    name: str
    preset: str
    cells: list[Cell]
    methods: Sequence[MethodStyle]
    files: list[Path]
    health: list[Path]
    timing: Path | None = None

    def named(self, suffix: str, folder: str) -> dict[str, Path]:
        """Return inputs of one kind from one folder, by name."""
        found = [file for file in self.files if file.suffix == suffix]
        return {file.stem: file for file in found if file.parent.name == folder}


def render(sources: Sources) -> str:
    """Return the page. The same sources give the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    csvs, pictures = sources.named(".csv", "tables"), sources.named(".png", "figures")
    return environment.get_template("report.html").render(
        css=(FOLDER / "report.css").read_text("utf-8"),
        sources=sources,
        styles=sources.methods,
        worlds=bool(sources.health),
        tables={name: tables(csvs[name]) for name in ABOUT_TABLES if name in csvs},
        about_tables=ABOUT_TABLES,
        judges=agreement_tables(_table(csvs["judges"])) if "judges" in csvs else [],
        figures=[picture(name, pictures[name]) for name in FIGURES if name in pictures],
        health=health({path.stem: read_json(path) for path in sources.health}),
        chosen=chosen_tables(_table(csvs["tuning"])) if "tuning" in csvs else [],
        answers=answers(sources),
        outcomes=OUTCOMES,
        provenance=provenance(sources),
        timing=timing(sources.timing),
    )


def _without_controls(value: Any) -> Any:
    """Return what an expression of the template gives, plain text without control characters."""
    # not of Markup, a subclass of str: that has been escaped, and stays what it is
    return without_controls(value) if type(value) is str else value


def _table(path: Path) -> pd.DataFrame:
    """Return a CSV's rows; a method may be called "None", and only an empty field is none."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def tables(path: Path) -> list[dict[str, Any]]:
    """Return the comparisons of a table's CSV, each with its caption, columns and lines."""
    made = []
    for rows in split(_table(path)):
        parts = [(columns, lines(rows, columns)) for columns in parts_of(rows).values()]
        made.append(
            {
                "title": title_of(rows),
                "message": message(rows),
                "conditions": conditions(rows),
                "parts": parts,
            }
        )
    return made


def picture(name: str, path: Path) -> dict[str, str]:
    """Return a picture as data URI, with its title and its caption from the CSV beside it."""
    data = path.with_suffix(".csv")
    # a frame without columns leaves nothing that `read_csv` could read
    rows = _table(data) if data.is_file() and data.stat().st_size > 2 else pd.DataFrame()
    content = path.read_bytes()
    # a PNG's header holds its width in pixels
    inches = int.from_bytes(content[16:20], "big") / DPI
    return {
        "name": name,
        "title": figure(name).TITLE,
        "caption": caption(name, rows),
        "uri": "data:image/png;base64," + base64.b64encode(content).decode(),
        "rem": f"{8.4 * inches:.1f}",
    }


def health(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return every world's figures with what was needed of them, and whether it was accepted."""
    known = dict.fromkeys(name for report in reports.values() for name in report["figures"])
    columns = [name for name in HEALTH if name in known]
    columns += [name for name in known if name not in HEALTH]
    rows = []
    for world, report in reports.items():
        cells = [report["figures"].get(name) for name in columns]
        rows.append({"name": world, "accepted": report["accepted"], "cells": cells})
    return {"columns": columns, "rows": rows}


def answers(sources: Sources) -> dict[str, Any]:
    """Return a few answers of the first gated method, by world and outcome."""
    method = first_gated(sources.methods)
    # one cell of each comparison is enough to look at
    firsts: dict[tuple[str, str], Cell] = {}
    for cell in sources.cells:
        firsts.setdefault(cell.group, cell)
    cells = list(firsts.values())
    generations = read_cells(cells, sources.files, "generations.parquet")
    if method is None or generations.empty:
        return {"method": "", "groups": []}
    shown = pick(generations, read_cells(cells, sources.files, "judged.parquet"), method)
    groups = []
    for model in dict.fromkeys(one.model for one in shown):
        for outcome in OUTCOMES:
            found = [one for one in shown if (one.model, one.outcome) == (model, outcome)]
            if found:
                groups.append({"model": model, "outcome": outcome, "answers": found})
    return {"method": labels_of(sources.methods)[method], "groups": groups}


def provenance(sources: Sources) -> dict[str, Any]:
    """Return where numbers come from: digests of the cells' metrics, and what made them."""
    found = list(files_of(sources.cells, sources.files, "metrics.parquet"))
    stamps = [stamp_of(path) for _, path in found]
    made = stamps[0]["provenance"] if stamps else {}
    shown = {key: made.get(key) for key in ("versions", "commit", "hardware")}
    files = []
    for (cell, path), stamp in zip(found, stamps, strict=True):
        files.append((cell, str(path), stamp["digest"][:16]))
    return {
        "made": list(_flat(shown)),
        "files": files,
        "commits": sorted({str(stamp["provenance"].get("commit")) for stamp in stamps}),
    }


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        yield name, str(value)


def timing(folder: Path | None) -> list[dict[str, Any]]:
    """Return jobs, total and longest time, and peak memory of every rule, from its benchmarks."""
    if folder is None or not folder.is_dir():
        return []
    frames = []
    for path in sorted(folder.rglob("*.tsv")):
        one = read_timing(path)
        if one is not None:
            frames.append(one | {"rule": path.relative_to(folder).parts[0].removesuffix(".tsv")})
    if not frames:
        return []
    found = pd.DataFrame(frames).groupby("rule", sort=False)
    table = found.agg(
        jobs=("s", "size"), total=("s", "sum"), longest=("s", "max"), memory=("max_rss", "max")
    )
    return table.sort_values("total", ascending=False).reset_index().to_dict("records")
