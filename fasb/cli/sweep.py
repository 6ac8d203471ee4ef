"""`fasb sweep`: the settings of a study side by side, in the terminal and on a wandb server."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from fasb.cli.options import command_table
from fasb.errors import ArtifactError

FILES = ("tuned.json", "metrics.json", "grid.parquet")
"""What a finished cell has."""


@click.group("sweep")
def sweep_command() -> None:
    """Compare a study's settings, in the terminal or on a Weights & Biases server."""


@sweep_command.command("show", epilog="Example: fasb sweep show --best 5")
@click.option(
    "--best",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Settings shown of each method.",
)
def show_command(best: int) -> None:
    """Print methods, best settings, and what results hang on, for every finished cell.

    Reads the study in results/study.json. As the view on a server: what was chosen with its test
    results, the best settings of each grid on validation questions, and how much of a method's
    variance over its grid lies between the values of each hyperparameter.
    """
    from fasb.cli.terminal import opened_console
    from fasb.study.escaping import without_controls
    from fasb.study.jobs import read_study

    study = read_study()
    done, shown = _finished(study)
    if not done:
        raise ArtifactError(
            f"results/: none of the {shown} cells is tested yet; run './study', or one cell with "
            "'fasb sweep cell'"
        )
    console = opened_console(highlight=False, emoji=False, markup=False)
    console.print(without_controls(f"{study.run.name}: {len(done)} of {shown} cells tested"))
    for part in _parts(study, done, best):
        console.print(part)


def _finished(study: Any) -> tuple[list[Any], int]:
    """Return the cells whose files are all there, and how many there could be."""
    from fasb.study import cells

    whole = cells.whole(study)
    done = [cell for cell in whole if all(map(Path.exists, _files([cell])))]
    return done, len(whole)


def _files(cells: Sequence[Any]) -> list[Path]:
    """Return the files of finished cells, cell by cell."""
    found = []
    for cell in cells:
        found += [cell.folder / name for name in FILES]
    return found


def _parts(study: Any, done: Sequence[Any], best: int) -> Iterator[Any]:
    from fasb.study import comparing
    from fasb.study.chosen import chosen_rows
    from fasb.study.panels import titled
    from fasb.study.styles import labels_of, styles_of

    styles = styles_of(study.chosen_methods)
    labels, files = labels_of(styles), _files(done)
    chosen = chosen_rows(done, files, styles)
    for (model, dataset), grid in comparing.grids(done, files):
        rows = chosen[(chosen["model"] == model) & (chosen["dataset"] == dataset)]
        title = f"{titled(model, dataset)}: {rows['measure'].iloc[0]}, percent"
        table = command_table(title, "method", "validation", "test", "drop")
        for row in rows.to_dict("records"):
            # rows of `tuning` are percent already, those of `best_settings` shares
            numbers = [_percent(row[key] / 100) for key in ("validation", "test", "drop")]
            table.add_row(row["label"], *numbers)
        yield table
        settings = command_table("Best settings, on validation", "method", "setting", "%")
        parts = command_table("What it hangs on", "method", "key", "best", "variance")
        # results may hold methods that the study does not run any more
        for method in [one for one in dict.fromkeys(grid["method"]) if one in labels]:
            for one in comparing.best_settings(grid, method, best):
                settings.add_row(labels[method], one["setting"], _percent(one["value"]))
            for one in comparing.importance(grid, method):
                share = f"{100 * one['share']:.0f} %"
                parts.add_row(labels[method], one["key"], one["best"], share)
        yield settings
        yield parts


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share == share else ""  # NaN where nothing was measured


@sweep_command.command("view", epilog="Example: fasb sweep view --entity lab")
@click.option("--entity", default="", help="User or team that the report is saved for.")
@click.option("--json", "as_json", is_flag=True, help="Print it instead; asks no server.")
def view_command(entity: str, as_json: bool) -> None:
    """Save a report of the study's runs on the server: parallel coordinates, importance, tables.

    For runs that `wandb sync` has uploaded. Each call saves a new report. Needs wandb-workspaces:
    pip install 'fasb[views]'.
    """
    from fasb.study import cells
    from fasb.study.jobs import read_study
    from fasb.study.wandb_views import as_json as written
    from fasb.study.wandb_views import view

    if not as_json and not entity:
        raise click.UsageError("whose report is it? give --entity, or --json to print it")
    study = read_study()
    where = "" if as_json else entity
    made = view(study.run.name, study.wandb.project, where, _tuned_by(study), cells.tables(study))
    if as_json:
        click.echo(written(made))
        return
    made.save()
    click.echo(made.url)


def _tuned_by(study: Any) -> str:
    """Return the measure that cells with a judge are tuned by; of others, where no cell has one."""
    from fasb.study.measures import MC1, TRUE_INFO

    judged = [study.datasets[cell.dataset].judge is not None for cell in study.run.cells]
    return (TRUE_INFO if any(judged) else MC1).name


@sweep_command.command("define", epilog="Example: fasb sweep define > sweep.yaml")
def define_command() -> None:
    """Print a definition for `wandb sweep`, whose agents run the study's cells one by one.

    Then `wandb sweep sweep.yaml`, and `wandb agent ID` in this folder, on as many machines as see
    it.
    """
    import yaml

    from fasb.study import cells
    from fasb.study.jobs import read_study
    from fasb.study.styles import first_gated, styles_of

    study = read_study()
    method = first_gated(styles_of(study.chosen_methods)) or study.run.methods[-1]
    defined = {
        "name": study.run.name,
        "project": study.wandb.project,
        "program": "fasb",
        "method": "grid",  # every cell once
        "metric": {"name": f"{method}/{_tuned_by(study)}", "goal": "maximize"},
        "parameters": {"cell": {"values": [str(cell) for cell in cells.whole(study)]}},
        # wandb's own list would put `${interpreter}` before a program that is no Python file
        "command": ["${env}", "${program}", "sweep", "cell", "${args}"],
    }
    click.echo(yaml.safe_dump(defined, sort_keys=False), nl=False)


@sweep_command.command("cell", epilog="Example: fasb sweep cell --cell middle-s2/middle-s2/seed0")
@click.option("--cell", "name", required=True, help="Called like its folder below results/.")
def cell_command(name: str) -> None:
    """Run whatever is missing of one cell, in this process, and log it: what `wandb agent` calls.

    Several may run in one folder: what two need is made once. Not while ./study runs there. The
    run's id and its sweep are those in the agent's environment.
    """
    from fasb.errors import ConfigError, did_you_mean
    from fasb.study import cells
    from fasb.study.jobs import read_study
    from fasb.study.verify import make
    from fasb.study.wandb_runs import write_cell

    study = read_study()
    known = {str(cell): cell for cell in cells.whole(study)}
    if name not in known:
        raise ConfigError(f"--cell: the study has no cell {name!r}; {did_you_mean(name, known)}")
    cell = known[name]
    make(study, f"{cell.folder}/metrics.json")
    write_cell(cell, _files([cell]))
