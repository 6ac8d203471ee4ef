"""Results as Weights & Biases runs: a view of what is on disk, never the store of it.

In: `metrics.json`, `tuned.json` and `grid.parquet` of all cells; tables, figures and the report if
given. Out: a folder with one run per cell and method, with `sweep` one per grid setting too, and
one for the study as a whole. All are written from one process, after the results exist. The only
module that imports wandb.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fasb.provenance import content_hash
from fasb.study.frames import read_mapping, read_table
from fasb.study.panels import HYPERPARAMETERS, Cell, files_of, pooled
from fasb.study.styles import MethodStyle, names_of
from fasb.wholefiles import writing_folder

DOCUMENTS = (".csv", ".md", ".tex", ".pdf", ".html")
"""Files that the study's own run keeps, beside pictures."""


@dataclass(frozen=True, slots=True)
class Study:
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
    """One run: its kind, a flat config to filter and group by, and its final numbers."""

    kind: str
    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    table: pd.DataFrame | None = None
    pictures: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same cell of a study, so that a run logged again replaces itself."""
        return content_hash([self.config["study"], self.kind, self.name])

    @property
    def tags(self) -> list[str]:
        """What the server's list is filtered by."""
        known = [key for key in ("model_group", "method") if key in self.config]
        return [self.kind, *(str(self.config[key]) for key in known)]


def runs(study: Study, files: Sequence[Path]) -> Iterator[Run]:
    """Yield all runs of a study, in order of cells and methods, the study's own run last."""
    metrics_files = dict(files_of(study.cells, files, "metrics.json"))
    tuned_files = dict(files_of(study.cells, files, "tuned.json"))
    methods = names_of(study.methods)
    for cell, grid_file in files_of(study.cells, files, "grid.parquet"):
        metrics, tuned = read_mapping(metrics_files[cell]), read_mapping(tuned_files[cell])
        grid = read_table(grid_file)
        for method in methods:
            about, name = _about(study, cell, method), _name(cell, method)
            of_method = grid[grid["method"] == method]
            if method in metrics:
                config = about | _tuned(tuned, method)
                yield Run("test", name, config, metrics[method], of_method)
            if study.sweep:
                yield from _settings(name, about, of_method)
    about = {"study": study.name, "preset": study.preset, "methods": methods}
    yield Run(
        "study",
        study.name,
        about | {"cells": len(study.cells)},
        {},
        pictures=tuple(file for file in files if file.suffix == ".png"),
        files=tuple(file for file in files if file.suffix in DOCUMENTS),
    )


def write_runs(study: Study, files: Sequence[Path], out: Path) -> int:
    """Log all runs; the folder `out` is replaced as a whole. Return the number of runs.

    Online, runs go to the server too; disabled, the folder stays empty.
    """
    import wandb

    n = 0
    with writing_folder(out) as folder:
        for run in runs(study, files):
            _log(wandb, study, run, folder)
            n += 1
    return n


def _log(wandb: Any, study: Study, run: Run, folder: Path) -> None:
    settings = wandb.Settings(
        silent=True, disable_git=True, disable_code=True, console="off", x_disable_stats=True
    )
    logged = wandb.init(
        mode=study.mode,
        dir=str(folder),
        id=run.id,
        resume="allow",
        project=study.project,
        group=study.name,
        job_type=run.kind,
        name=run.name,
        tags=run.tags,
        config=run.config,
        settings=settings,
    )
    try:
        if run.table is not None and len(run.table):
            plain = run.table.astype(object).where(run.table.notna(), None)
            data = plain.to_numpy().tolist()
            logged.log({"grid": wandb.Table(columns=list(plain.columns), data=data)})
        if run.pictures:
            logged.log({picture.stem: wandb.Image(str(picture)) for picture in run.pictures})
        for file in run.files:
            # a link would break when the folder takes its place
            copy = shutil.copy(file, logged.dir)
            logged.save(copy, base_path=logged.dir, policy="now")
        known = {key: value for key, value in run.summary.items() if value is not None}
        logged.summary.update(known)
    finally:
        logged.finish()


def _settings(name: str, about: dict[str, Any], grid: pd.DataFrame) -> Iterator[Run]:
    """One run per fold and grid setting, with its validation results."""
    for row in grid.to_dict("records"):
        known = {key: value for key, value in row.items() if not pd.isna(value)}
        config = about | {
            key: known[key] for key in ("fold", "setting", *HYPERPARAMETERS) if key in known
        }
        results = {key: value for key, value in known.items() if key not in config}
        yield Run("validation", f"{name}-fold{row['fold']}-{row['setting']}", config, results)


def _about(study: Study, cell: Cell, method: str) -> dict[str, Any]:
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
