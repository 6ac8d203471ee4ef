"""Results as Weights & Biases runs: a view of what is on disk, never the store of it.

In: `metrics.json`, `tuned.json` and `grid.parquet` of all cells; tables, figures and the report if
given. Out: a folder with one run per cell and method, with `sweep` one per grid setting too, and
one for the study as a whole. All are written from one process, after the results exist. The only
module that imports wandb.

A run's id is a hash of all that it shows and of the settings that made it: an equal result has the
same id wherever it is logged again, and another result never takes its place.
"""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fasb.artifacts import stamp_of
from fasb.provenance import content_hash
from fasb.study.cells import Cell
from fasb.study.frames import read_mapping, read_table
from fasb.study.panels import HYPERPARAMETERS, files_of
from fasb.study.styles import MethodStyle, names_of
from fasb.study.worlds import pooled
from fasb.wholefiles import writing_folder

DOCUMENTS = (".csv", ".md", ".tex", ".pdf", ".png", ".html")
"""Files that the artifact of the study's own run holds."""


@dataclass(frozen=True, slots=True)
class LoggedStudy:
    """A study and how it is logged; `group` of every run is its name."""

    name: str
    preset: str
    cells: list[Cell]
    methods: Sequence[MethodStyle]
    mode: str = "offline"
    project: str = "fasb"
    sweep: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its kind, a flat config to filter and group by, and its final numbers.

    made_of: what its result depends on beside what it shows.
    """

    kind: str
    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    made_of: Any = None
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def id(self) -> str:
        """The same for an equal result, and another for any other."""
        rows = [[name, _json(table)] for name, table in self.tables.items()]
        shown = [self.kind, self.name, self.config, self.summary, rows]
        return content_hash([shown, self.made_of])

    @property
    def tags(self) -> list[str]:
        """What the server's list is filtered by."""
        known = [key for key in ("model_group", "method") if key in self.config]
        return [self.kind, *(str(self.config[key]) for key in known)]


def runs(study: LoggedStudy, files: Sequence[Path]) -> Iterator[Run]:
    """Yield all runs of a study, in order of cells and methods, the study's own run last."""
    metrics_files = dict(files_of(study.cells, files, "metrics.json"))
    tuned_files = dict(files_of(study.cells, files, "tuned.json"))
    methods, made = names_of(study.methods), []
    for cell, grid_file in files_of(study.cells, files, "grid.parquet"):
        metrics, tuned = read_mapping(metrics_files[cell]), read_mapping(tuned_files[cell])
        grid, made_with = read_table(grid_file), _made_with(tuned_files[cell])
        for method in methods:
            about, name = _about(study, cell, method), _name(cell, method)
            of_method, settings = grid[grid["method"] == method], made_with(method)
            if method in metrics:
                config = {"kind": "test", **about, **_tuned(tuned, method)}
                tables = {"grid": of_method} if len(of_method) else {}
                run = Run("test", name, config, metrics[method], settings, tables)
                # the study's own run gets another id where any result is another
                made.append(run.id)
                yield run
            if study.sweep:
                yield from _settings(name, about, of_method, settings)
    # what is shown of cells that have no run of their own too: of transfer, or of side effects
    shown = [file for file in files if file.suffix == ".csv"]
    made += [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in shown]
    about = {"study": study.name, "preset": study.preset, "methods": methods}
    yield Run(
        "study",
        study.name,
        {"kind": "study", **about, "cells": len(study.cells)},
        {},
        made,
        # the report's times differ from run to run, so no id may depend on the files themselves
        files=tuple(file for file in files if file.suffix in DOCUMENTS),
    )


def write_runs(study: LoggedStudy, files: Sequence[Path], out: Path) -> int:
    """Log all runs; the folder `out` is replaced as a whole. Return the number of runs.

    Online, runs go to the server too; disabled, the folder stays empty.
    """
    import wandb

    n = 0
    with _staged(out), writing_folder(out) as folder:
        for run in runs(study, files):
            _log(wandb, study, run, folder)
            n += 1
    return n


def write_cell(cell: Cell, files: Sequence[Path]) -> None:
    """Log one cell, with every method, as the run that `wandb agent` has begun.

    Which run and sweep that is, is in the agent's environment variables.
    """
    import wandb

    ((_, metrics_file),) = files_of([cell], files, "metrics.json")
    ((_, grid_file),) = files_of([cell], files, "grid.parquet")
    config = {"model": cell.model, "dataset": cell.dataset, "seed": cell.seed}
    logged = wandb.init(config=config, settings=quiet(wandb))
    try:
        logged.log({"grid": _table(wandb, read_table(grid_file))})
        for method, measures in read_mapping(metrics_file).items():
            known = {key: value for key, value in measures.items() if value is not None}
            logged.summary.update({f"{method}/{key}": value for key, value in known.items()})
    finally:
        logged.finish()


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[None]:
    """Keep what artifacts hold beside `out`: offline runs name their files by absolute path.

    Within `out` the paths would end with the folder's renaming, and wandb's own place is in the
    home of whoever ran the job, on a disk that others may not see.
    """
    beside = out.with_name(f".{out.name}-files")
    own, before = beside / uuid.uuid4().hex, os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(own.absolute())
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR")
        if before is not None:
            os.environ["WANDB_DATA_DIR"] = before
    # not reached after an error: until then the runs of before need their files
    for old in beside.glob("*"):
        if old != own:
            shutil.rmtree(old)


def _log(wandb: Any, study: LoggedStudy, run: Run, folder: Path) -> None:
    logged = wandb.init(
        mode=study.mode,
        dir=str(folder),
        id=run.id,
        resume="allow",  # the id may be there already, of an equal result
        project=study.project,
        group=study.name,
        job_type=run.kind,
        name=run.name,
        tags=run.tags,
        config=run.config,
        settings=quiet(wandb),
    )
    try:
        for name, table in run.tables.items():
            logged.log({name: _table(wandb, table)})
        _log_files(wandb, logged, run)
        known = {key: value for key, value in run.summary.items() if value is not None}
        logged.summary.update(known)
    finally:
        logged.finish()


def quiet(wandb: Any) -> Any:
    """Return the settings of a run that says nothing, and records neither code nor machine.

    No name of a host, no path of Python or program, and no load go to a server; the hardware stands
    in the provenance of the files that a run is made of.
    """
    return wandb.Settings(
        silent=True,
        disable_git=True,
        disable_code=True,
        console="off",
        host="",  # unset, it would be asked of the system
        x_disable_meta=True,
        x_disable_stats=True,
    )


def _log_files(wandb: Any, logged: Any, run: Run) -> None:
    """Pictures and tables to look at, and all files as one artifact, which versions them."""
    if not run.files:
        return
    # wandb refuses other signs in an artifact's name
    artifact = wandb.Artifact(
        re.sub(r"[^a-zA-Z0-9_.-]", "-", f"{run.name}-results"), type="results"
    )
    for file in run.files:
        artifact.add_file(str(file), name=f"{file.parent.name}/{file.name}")
        if file.suffix == ".png":
            logged.log({f"{file.parent.name}/{file.stem}": wandb.Image(str(file))})
        if file.suffix == ".csv" and file.parent.name == "tables":
            # a method may be called None or NA
            table = pd.read_csv(file, keep_default_na=False, na_values=[""])
            logged.log({f"tables/{file.stem}": _table(wandb, table)})
    logged.log_artifact(artifact)


def _table(wandb: Any, table: pd.DataFrame) -> Any:
    # as objects first: in a column of floats pandas would turn None into NaN again
    plain = table.astype(object).where(table.notna(), None)
    return wandb.Table(columns=list(plain.columns), data=plain.to_numpy().tolist())


def _json(table: pd.DataFrame) -> str:
    text: str = table.to_json(orient="split", index=False, double_precision=15)
    return text


def _made_with(tuned_file: Path) -> Callable[[str], dict[str, Any]]:
    """Return what tuning depended on, by method: others of the run change nothing of its result."""
    settings = dict(stamp_of(tuned_file)["provenance"].get("settings", {}))
    methods = settings.pop("methods", {})
    return lambda method: {**settings, "method": methods.get(method)}


def _settings(name: str, about: dict[str, Any], grid: pd.DataFrame, made_of: Any) -> Iterator[Run]:
    """One run per fold and grid setting, with its validation results."""
    for row in grid.to_dict("records"):
        known = {key: value for key, value in row.items() if not pd.isna(value)}
        config = {"kind": "validation", **about}
        config |= {key: known[key] for key in ("fold", "setting", *HYPERPARAMETERS) if key in known}
        results = {key: value for key, value in known.items() if key not in config}
        called = f"{name}-fold{row['fold']}-{row['setting']}"
        yield Run("validation", called, config, results, made_of)


def _about(study: LoggedStudy, cell: Cell, method: str) -> dict[str, Any]:
    return {
        "study": study.name,
        "preset": study.preset,
        "model": cell.model,
        "dataset": cell.dataset,
        "model_group": pooled(cell.model),
        "dataset_group": pooled(cell.dataset),
        "seed": cell.seed,
        "method": method,
    }


def _tuned(tuned: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Chosen settings: `k`, `alpha`, … where all folds agree, `fold0.k`, … always."""
    flat: dict[str, Any] = {}
    chosen: dict[str, list[Any]] = {}
    for fold, methods in sorted(tuned.items()):
        setting = (methods.get(method) or {}).get("setting") or {}
        for key, value in setting.items():
            flat[f"{fold}.{key}"] = value
            chosen.setdefault(key, []).append(value)
    for key in HYPERPARAMETERS:
        values = chosen.get(key, [])
        if len(values) == len(tuned) and all(value == values[0] for value in values):
            flat[key] = values[0]
    return flat


def _name(cell: Cell, method: str) -> str:
    parts = [cell.model] if cell.model == cell.dataset else [cell.model, cell.dataset]
    return "-".join([*parts, f"seed{cell.seed}", method])
