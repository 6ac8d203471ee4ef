"""Tables, figures, the report and wandb runs of all cells."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fasb.sourcecode import code_of
from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.measures import TABLES
from fasb.study.stage import DECLARING, ONCE, Paths, Scope, each, stage


def _shown(study: Study, shown: list[Cell]) -> dict[str, Any]:
    """Return what every output depends on: its cells; names, order and looks of methods."""
    methods = []
    for name, method in study.chosen_methods.items():
        # only what is printed of a method: another grid or another alpha draws nothing anew
        printed = method.model_dump(include={"label", "role", "colour", "crossed"})
        methods.append([name, printed, method.steers, method.gated])
    named = {"name": study.run.name, "preset": study.preset}
    return {**named, "cells": [cell.dump() for cell in shown], "methods": methods}


def _sigma_of_all(study: Study, table: str) -> list[str]:
    """Return the datasets of a table whose sigma is taken from all questions."""
    found: dict[str, None] = {}
    for cell in cells.of_table(study, table):
        fitted = cell.fitted_in.dataset
        if study.sections(fitted).vectors.sigma_rows == "all":
            found[fitted] = None
    return list(found)


def _drawn(figures: Iterable[str]) -> list[dict[str, str]]:
    """Return what figures depend on beside their cells: each is found by its name."""
    found = []
    for name in figures:
        code = code_of(f"fasb.study.figures.{name}", without=DECLARING)
        found.append({"use": name, "code": code})
    return found


def _write(paths: Paths, texts: dict[str, str]) -> None:
    """Write a job's texts, then beside them checksum and origin of all that it made."""
    from fasb.artifacts import write_receipt
    from fasb.wholefiles import writing

    for name, text in texts.items():
        with writing(paths[name]) as part:
            part.write_text(text, "utf-8")
    made = [paths[name] for name in paths.outputs if name != "receipt"]
    write_receipt(paths["receipt"], made, paths.made_by())


@stage(
    each("table", cells.tables),
    outputs={
        "csv": "results/tables/{table}.csv",
        "md": "results/tables/{table}.md",
        "tex": "results/tables/{table}.tex",
        "receipt": "results/tables/{table}.json",
    },
    inputs=lambda study, table: {
        "cells": cells.files(cells.of_table(study, table), TABLES[table].files)
    },
    depends=lambda study, table: {
        **_shown(study, cells.of_table(study, table)),
        "sigma_of_all": _sigma_of_all(study, table),
    },
)
def table(study: Study, table: str, paths: Paths) -> None:
    """Write a table of all cells, as CSV, Markdown and LaTeX."""
    from fasb.study import printing
    from fasb.study.agreement import agreement_rows, agreement_tables
    from fasb.study.chosen import chosen_rows, chosen_tables
    from fasb.study.escaping import csv_text
    from fasb.study.styles import styles_of
    from fasb.study.texttables import texts_as_latex, texts_as_markdown

    files, methods = paths.every("cells"), styles_of(study.chosen_methods)
    shown = cells.of_table(study, table)
    if table in ("tuning", "judges"):
        if table == "tuning":
            rows = chosen_rows(shown, files, methods)
            tables = chosen_tables(rows)
        else:
            rows = agreement_rows(shown, files, methods)
            tables = agreement_tables(rows)
        texts = {"md": texts_as_markdown(tables), "tex": texts_as_latex(tables)}
    else:
        rows = _compared(study, table, shown, files)
        texts = {"md": printing.markdown(rows), "tex": printing.latex(rows)}
    _write(paths, {"csv": csv_text(rows), **texts})


def _compared(study: Study, table: str, shown: list[Any], files: list[Path]) -> Any:
    """Return the rows of a table of methods, with what its captions say of judges and sigma."""
    from fasb.study.panels import judges_of, read_cells
    from fasb.study.styles import styles_of
    from fasb.study.tables import table_rows
    from fasb.study.worlds import pooled

    (file,) = TABLES[table].files
    methods = styles_of(study.chosen_methods)
    rows = table_rows(read_cells(shown, files, file), table, methods, study.preset)
    released = [pooled(name) for name in _sigma_of_all(study, table)]
    # in transfer it is the source's, which is of one dataset
    rows["sigma_of_all"] = rows["dataset"].isin(released) | (rows["source"] != "") & bool(released)
    # texts are judged by nobody
    if table != "side_effects":
        judges = judges_of(shown, files)
        # rows of an average over datasets are of no comparison
        rows["judge"] = [judges.get(group, "") for group in zip(rows["model"], rows["dataset"])]
    return rows


@stage(
    each("figure", cells.figures),
    outputs={
        "png": "results/figures/{figure}.png",
        "pdf": "results/figures/{figure}.pdf",
        "csv": "results/figures/{figure}.csv",
        "receipt": "results/figures/{figure}.json",
    },
    inputs=lambda study, figure: {"cells": cells.figure_inputs(study, figure)},
    depends=lambda study, figure: {
        **_shown(study, cells.of_figure(study, figure)),
        "drawn": _drawn([figure]),
    },
)
def figure(study: Study, figure: str, paths: Paths) -> None:
    """Draw a figure of all cells, as PDF and PNG, and write what it shows as CSV."""
    from fasb.study.escaping import csv_text
    from fasb.study.figures import draw, rows_of, save
    from fasb.study.styles import styles_of

    shown = cells.of_figure(study, figure)
    methods = styles_of(study.chosen_methods)
    rows = rows_of(figure, shown, paths.every("cells"), methods)
    save(draw(figure, rows), paths["csv"].with_suffix(""))
    _write(paths, {"csv": csv_text(rows)})


@stage(
    ONCE,
    outputs={"report": "results/report.html", "receipt": "results/report.json"},
    inputs=lambda study: {
        # receipts too: they say of the others whether they are whole
        "shown": [
            path for path in cells.shown_files(study) if path.endswith((".csv", ".png", ".json"))
        ],
        "cells": cells.files(cells.whole(study), cells.REPORTED),
        "health": cells.health_files(study),
    },
    depends=lambda study: {
        **_shown(study, cells.whole(study)),
        "drawn": _drawn(cells.figures(study)),
    },
)
def report(study: Study, paths: Paths) -> None:
    """Write one self-contained HTML page of tables, figures and what the cells answered."""
    from fasb.study.report import Sources, render
    from fasb.study.styles import styles_of

    sources = Sources(
        name=study.run.name,
        preset=study.preset,
        cells=cells.whole(study),
        methods=styles_of(study.chosen_methods),
        files=paths.every(),
        health=paths.every("health"),
        # no declared input: times differ from run to run, and would make every report stale
        timing=Path("results/timing"),
    )
    _write(paths, {"report": render(sources)})


@stage(
    Scope("", lambda study: [] if study.wandb.mode == "disabled" else [{}]),
    outputs={"runs": "results/wandb"},
    inputs=lambda study: {
        "shown": [*cells.shown_files(study), "results/report.html"],
        "cells": cells.files(cells.whole(study), cells.LOGGED),
    },
    depends=lambda study: {
        **_shown(study, cells.whole(study)),
        "wandb": study.wandb.model_dump(mode="json"),
    },
)
def wandb(study: Study, paths: Paths) -> None:
    """Write one Weights & Biases run per cell and method; the folder is replaced."""
    from fasb.study import wandb_runs
    from fasb.study.styles import styles_of

    logged = wandb_runs.LoggedStudy(
        name=study.run.name,
        preset=study.preset,
        cells=cells.whole(study),
        methods=styles_of(study.chosen_methods),
        **study.wandb.model_dump(),
    )
    wandb_runs.write_runs(logged, paths.every(), paths["runs"])
