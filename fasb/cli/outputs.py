"""Commands that turn results into what people read: metrics, tables, figures, the report, wandb runs."""

from pathlib import Path
from typing import Any

import click

from fasb.cli.options import out_option, settings_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("files", nargs=4, type=FILE, metavar="QUESTIONS GENERATIONS JUDGED SCORES")
@settings_option
@out_option
@click.option(
    "--summary",
    "summary_out",
    required=True,
    type=FILE,
    help="JSON file for the means of each method.",
)
def metrics_command(
    files: tuple[Path, ...], settings: dict[str, Any], out: Path, summary_out: Path
) -> None:
    """One row of metrics per test question, and the means of each method.

    Example: fasb metrics questions.parquet generations.parquet judged.parquet scores.parquet
    --settings '{"methods": ["unsteered", "iti"]}' --out metrics.parquet --summary metrics.json
    """
    from fasb.artifacts import read_parquet, stamp_of, write_json, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.judging import named
    from fasb.study.metrics import question_metrics, summary

    tables = map(read_parquet, files[1:])
    frame = question_metrics(read_questions(files[0]), *tables, exact=settings.get("exact", False))
    judge = named(stamp_of(files[2])["provenance"])
    made_by = {"stage": "metrics", "settings": settings, "judge": judge}
    write_parquet(out, frame, made_by)
    write_json(summary_out, summary(frame, settings["methods"], judge), made_by)


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=FILE)
@settings_option
@out_option
def table_command(name: str, files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """A table (main, ablation, models, tasks, transfer, side_effects) of the cells' FILES: OUT.csv, OUT.md, OUT.tex.

    Example: fasb table main results/*/*/seed*/metrics.parquet --settings table.json --out
    results/tables/main
    """
    from fasb.study.cells import of_cell
    from fasb.study.panels import Cell, judges_of, read_cells
    from fasb.study.printing import latex, markdown
    from fasb.study.tables import chosen_methods, table_rows

    cells = Cell.of(settings["cells"])
    chosen_methods(name, settings["methods"])
    frame = read_cells(cells, files, of_cell(name))
    rows = table_rows(frame, name, settings["methods"], settings.get("preset", "default"))
    rows["sigma_of_all"] = bool(settings.get("sigma_of_all"))
    if name != "side_effects":
        judges = judges_of(cells, files)
        rows["judge"] = [judges.get(group, "") for group in zip(rows["model"], rows["dataset"])]
    _write_table(out, {"csv": rows.to_csv(index=False), "md": markdown(rows), "tex": latex(rows)})


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@settings_option
@out_option
def agreement_command(files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """How far two judges agree on the cells' test answers: OUT.csv, OUT.md and OUT.tex.

    Example: fasb agreement results/*/*/seed*/{generations,judged,judged_second}.parquet --settings
    table.json --out results/tables/judges
    """
    from fasb.study.agreement import agreement_rows, latex, markdown
    from fasb.study.panels import Cell

    rows = agreement_rows(Cell.of(settings["cells"]), files)
    _write_table(out, {"csv": rows.to_csv(index=False), "md": markdown(rows), "tex": latex(rows)})


@click.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=FILE)
@settings_option
@out_option
def figure_command(name: str, files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """A figure of the cells' FILES: OUT.csv, .pdf and .png.

    NAME: figure_1, calibration, figure_4, sensitivity, tradeoff, data_efficiency.

    Example: fasb figure sensitivity results/*/*/seed*/grid.parquet --settings figure.json --out
    results/figures/sensitivity
    """
    from fasb.artifacts import writing
    from fasb.study.figures import draw, rows_of, save
    from fasb.study.panels import Cell

    rows = rows_of(name, Cell.of(settings["cells"]), files, settings["methods"])
    with writing(out.with_name(f"{out.name}.csv")) as part:
        rows.to_csv(part, index=False)
    save(draw(name, rows), out)


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@settings_option
@out_option
def report_command(files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """One self-contained HTML page of tables, figures and the cells' FILES.

    Example: fasb report results/tables/*.csv results/figures/* results/*/*/seed*/* --settings
    report.json --out results/report.html
    """
    from fasb.artifacts import writing
    from fasb.study.panels import Cell
    from fasb.study.report import Sources, render

    sources = Sources(
        name=settings["name"],
        preset=settings["preset"],
        cells=Cell.of(settings["cells"]),
        methods=settings["methods"],
        files=list(files),
        health=[Path(path) for path in settings.get("health", [])],
        timing=Path(settings["timing"]) if settings.get("timing") else None,
    )
    with writing(out) as part:
        part.write_text(render(sources))


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@settings_option
@out_option
def wandb_command(files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """One Weights & Biases run per cell and method, from the cells' FILES; the folder OUT is replaced.

    Tables, figures and the report, where they are among the FILES, are kept with a run of their
    own.

    Example: fasb wandb results/*/*/seed*/{metrics.json,tuned.json,grid.parquet} --settings
    wandb.json --out results/wandb
    """
    from fasb.study.panels import Cell
    from fasb.study.wandb_runs import Study, write_runs

    study = Study(
        name=settings["name"],
        preset=settings["preset"],
        cells=Cell.of(settings["cells"]),
        methods=settings["methods"],
        **settings["wandb"],
    )
    write_runs(study, files, out)


def _write_table(out: Path, texts: dict[str, str]) -> None:
    from fasb.artifacts import writing

    for suffix, text in texts.items():
        with writing(out.with_name(f"{out.name}.{suffix}")) as part:
            part.write_text(text)
