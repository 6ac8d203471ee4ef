"""Commands about a study as a whole: what it would run and cost, and how its config is written."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fasb.cli.options import command_table

CONFIGS = click.option(
    "--configfile",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="As for snakemake; said again for each further file.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """The work of a rule for one model and dataset, and how long all its jobs take together.

    basis: what that rests on, as `fasb.study.rates.seconds` has it.
    """

    work: Any
    seconds: float
    basis: str


@click.command("plan")
@CONFIGS
@click.option(
    "--check",
    is_flag=True,
    help="Instead, ask for every model, dataset and judge, and name settings that can never fire.",
)
def plan_command(configs: tuple[Path, ...], check: bool) -> None:
    """Print a study's cells, jobs, work, time, disk and memory.

    Merges config/models.yaml, config/config.yaml and each --configfile, as snakemake does; writes
    nothing. The configuration is checked. Hours are those of jobs that ran here (results/timing),
    else by the rates that `make bench` measured, else lower bounds.

    Example: fasb plan --configfile config/evidence.yaml
    """
    from fasb.study.config import load_study

    study = load_study(configs, prompts=False)
    if check:
        _check(study)
        return
    from rich.console import Console

    console = Console(width=110, highlight=False, emoji=False)
    for part in _plan(study):
        console.print(part, soft_wrap=isinstance(part, str))


def _check(study: Any) -> None:
    """One line for each thing the study needs; exit code 2 if any is missing."""
    from fasb.study.check import needs

    missing = 0
    for kind, name, said, fine in needs(study):
        missing += not fine
        click.echo(f"{'ok     ' if fine else 'MISSING'}  {kind:8} {name:24} {said}")
    if missing:
        raise click.exceptions.Exit(2)


def _plan(study: Any) -> Iterable[Any]:
    from rich.markup import escape

    from fasb.study import celljobs, plan, rates

    # a plan reads no prompt, it only counts its characters: one that is not here stops nothing
    promptless = study.do_without_missing_prompts()
    pairs, works, known = plan.pairs(study), plan.works(study), rates.rates()
    # by (rule, model, dataset); a name is empty where the rule is not run for one
    rows = {}
    for names, work in works.items():
        pair, entry = pairs.get(names[1:]), study.models.get(names[1])
        held = None
        if pair is not None and pair.shape is not None:
            kind, batch = rates.kind_of(entry.device), pair.sections.decoding.batch
            held = rates.Held(pair.shape.parameters, entry.dtype, kind, batch)
        rows[names] = Row(work, *rates.seconds(names, work, held, known))
    n_cells = len(study.run.cells) * len(study.run.seeds)
    in_cells = study.run.jobs == "cells"
    n_jobs = celljobs.count(study) if in_cells else sum(work.jobs for work in works.values())
    counted = "1 cell" if n_cells == 1 else f"{n_cells} cells"
    yield f"\n[bold]{escape(study.run.name)}[/]: {counted}, {n_jobs:,} jobs"
    yield _cells_table(study, pairs)
    yield _rules_table(rows)
    yield _models_table(study, pairs, rows)
    yield from _notes(study, pairs, rows)
    for dataset, missing in promptless.items():
        told = escape(missing)
        yield f"Without the instruction and primer of {dataset}, which are not here: {told}"


def _cells_table(study: Any, pairs: dict[Any, Any]) -> Any:
    from fasb.study import cells

    table = command_table(
        "Questions",
        "model",
        "dataset",
        "tuned on",
        "tested on",
        "answers",
        "seeds",
        "settings a fold",
    )
    fitting = {(cell.model, cell.dataset) for cell in cells.fitting(study)}
    for (model, dataset), pair in pairs.items():
        tuned_on, n_settings = 0, 0
        # what is only tested (transfer) is tuned on none, and gets a dash
        if (model, dataset) in fitting:
            tuned_on = pair.tuned_on
            for method in pair.methods:
                if method.like is None:
                    n_settings += math.prod(map(len, method.grid.values()))
        n_seeds = len(study.run.seeds)
        counts = (tuned_on, pair.tested_on, pair.size.answers, n_seeds, n_settings)
        table.add_row(model, dataset, *(f"{n:,}" if n else "-" for n in counts))
    return table


def _rules_table(rows: dict[Any, Row]) -> Any:
    from fasb.study.jobs import STAGES
    from fasb.study.plan import Work

    table = command_table(
        "Work", "rule", "jobs", "tokens read", "written", "answers judged", "disk", "time"
    )
    total, spent = Work(), []
    for rule in STAGES:
        of_rule = [row for names, row in rows.items() if names[0] == rule]
        if of_rule:
            work = sum((row.work for row in of_rule), Work())
            table.add_row(rule, *_numbers(work), _time(of_rule))
            total += work
            spent += of_rule
    table.add_section()
    table.add_row("all", *_numbers(total), _time(spent))
    return table


def _models_table(study: Any, pairs: dict[Any, Any], rows: dict[Any, Row]) -> Any:
    from fasb.study.plan import memory

    columns = (
        "model",
        "device",
        "parameters",
        "weights",
        "keys, values",
        "host memory",
        "GPU-hours",
    )
    table = command_table("Memory of a job", *columns)
    spent: list[Row] = []
    for model in dict.fromkeys(names[0] for names in pairs):
        entry = study.models[model]
        held = [pair for (name, _), pair in pairs.items() if name == model]
        # a job asks one dataset: the one that takes most counts
        most = max((memory(pair) for pair in held), key=sum)
        in_bytes = [_bytes(n) for n in (*most, 1e6 * entry.job.mem_mb)]
        shape = held[0].shape
        size = "-" if shape is None or entry.world is not None else f"{shape.parameters:.3g} B"
        hours = "-"
        if entry.gpu:
            of_model = []
            for names, row in rows.items():
                if names[1] == model:
                    of_model.append(replace(row, seconds=row.seconds * entry.gpu))
            hours = _time(of_model, hours=True)
            spent += of_model
        table.add_row(model, entry.device, size, *in_bytes, hours)
    if table.row_count > 1 and spent:
        table.add_section()
        table.add_row("all", *[""] * 5, _time(spent, hours=True))
    return table


def _notes(study: Any, pairs: dict[Any, Any], rows: dict[Any, Row]) -> Iterable[str]:
    from fasb.study.rates import MACHINES, MEASURED, TIMING, kind_of
    from fasb.study.templates import MESSAGE

    yield (
        "\nTokens are characters over four; written tokens, judged answers and disk but for banks "
        "are upper bounds."
    )
    if study.run.jobs == "cells":
        yield "Work and times are those of the rules, of which a cell's are one job (run.jobs)."
    bases = {row.basis for row in rows.values()}
    if "timed" in bases:
        yield f"Times without a mark: the mean of such jobs in {TIMING}."
    if "rate" in bases:
        yield f"~ by the rates in {MEASURED}, in proportion to parameters."
    if "bound" in bases:
        bounded = [names[1] for names, row in rows.items() if row.basis == "bound"]
        for kind in sorted({kind_of(study.models[model].device) for model in bounded}):
            yield (
                f"≥ no measured rate for {kind}, run `make bench` there: the least that so much "
                "work takes on"
            )
            yield f"  {MACHINES[kind].name}, reading all weights for every batch of tokens written."
    if any(row.basis == "unknown" and row.work.judged for row in rows.values()):
        yield "Without the time of judges, and of other rules without a time: none has run here."
    untold = sorted({dataset for (_, dataset), pair in pairs.items() if not pair.size.question})
    if untold:
        named = ", ".join(untold)
        yield f"Without the texts of {named}, whose length is not known before they are loaded."
    chats = {model for (model, _), pair in pairs.items() if pair.around and not pair.around.known}
    if chats:
        yield (
            f"Without the chat template of {', '.join(sorted(chats))}, which is not at hand: "
            f"{MESSAGE} tokens for each message."
        )
    unsized = sorted({model for (model, _), pair in pairs.items() if pair.shape is None})
    if unsized:
        yield f"Without memory, banks and time of {', '.join(unsized)}: give models.NAME.size."


def _numbers(work: Any) -> list[str]:
    disk = _bytes(work.disk) if work.disk else ""
    return [f"{work.jobs:,}", *(_count(n) for n in (work.read, work.written, work.judged)), disk]


def _time(rows: Iterable[Row], hours: bool = False) -> str:
    """Return the sum, marked by the weakest of what it rests on."""
    seconds, bases = 0.0, set()
    for row in rows:
        if row.basis != "unknown":
            seconds += row.seconds
            bases.add(row.basis)
    if not bases:
        return ""
    mark = "≥ " if "bound" in bases else "~ " if "rate" in bases else ""
    if hours:
        return f"{mark}{seconds / 3600:.2g}"
    unit, size = "s", 1
    if seconds >= 60:
        unit, size = ("h", 3600) if seconds >= 3600 else ("min", 60)
    n = seconds / size
    return f"{mark}{n:.2g} {unit}" if n < 100 else f"{mark}{n:,.0f} {unit}"


def _count(n: int) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n}" if n else ""


def _bytes(n: int | float) -> str:
    from rich.filesize import decimal

    return decimal(round(n)) if n == n else "-"  # unknown


@click.command("study")
@CONFIGS
def study_command(configs: tuple[Path, ...]) -> None:
    """Write results/study.json, which `fasb run` reads; the workflow does so by itself.

    Example: fasb study --configfile config/evidence.yaml
    """
    from fasb.study.config import load_study
    from fasb.study.jobs import STUDY, write_study

    write_study(load_study(configs))
    click.echo(f"{STUDY}: written", err=True)


@click.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a study's configuration.

    Example: fasb schema > config/schema.json
    """
    from fasb.study.config import Study

    click.echo(json.dumps(Study.model_json_schema(), indent=1, sort_keys=True))
