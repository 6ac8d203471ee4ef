"""Cells of a study as panels: which files belong together, and per-question values side by side.

In: paths, the cells of the study, `metrics.parquet` frames. Out: one `Panel` per comparison. A
comparison pools worlds of one level (`middle-s3`, `middle-s4`, …: seeds of `middle`) and never
mixes models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.artifacts import stamp_of
from fasb.errors import ArtifactError
from fasb.metrics.statistics import Panel
from fasb.search import Tried, index_of_best
from fasb.study.cells import Cell
from fasb.study.frames import read_table
from fasb.study.measures import MC1, MEASURES, TRUE_INFO, Measure, columns_of
from fasb.study.worlds import pooled

HYPERPARAMETERS = ("k", "layer", "alpha", "beta", "s", "after", "vector", "other")
"""What is tuned, and stands beside results.

other: what else the method's own grid crosses, as text: "clusters 4, last False".
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on the same model and dataset, or on worlds of the same kind."""

    model: str
    dataset: str
    source: str
    panel: Panel
    n_worlds: int
    n_seeds: int

    @property
    def about(self) -> dict[str, Any]:
        """What every row made of it says: of what, of how much, and what intervals are over."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "source": self.source,
            "questions": len(self.panel.unit),
            "worlds": self.n_worlds,
            "seeds": self.n_seeds,
            "over": self.panel.over,
        }


def titled(model: str, dataset: str) -> str:
    """Return model and dataset in print; one name where both have the same, as in a world."""
    return model if model == dataset else f"{model}, {dataset}"


def files_of(
    cells: Sequence[Cell], files: Sequence[Path], name: str
) -> Iterator[tuple[Cell, Path]]:
    """Yield each cell with its file called `name`, among the files given.

    Raises:
        ArtifactError: a cell has no such file.
    """
    found = {file.parent: file for file in files if file.name == name}
    for cell in cells:
        if cell.folder not in found:
            raise ArtifactError(f"{cell.folder / name}: not among the files given; add it")
        yield cell, found[cell.folder]


def read_cells(cells: Sequence[Cell], files: Sequence[Path], name: str) -> pd.DataFrame:
    """Return the cells' Parquet files below one another, with model, dataset, seed, source.

    source: in transfer the cell whose bundles were used, as "model, dataset"; else empty.
    """
    frames = []
    for cell, file in files_of(cells, files, name):
        frame = read_table(file)
        source = ", ".join(cell.source or ())
        about = {"model": cell.model, "dataset": cell.dataset, "seed": cell.seed, "source": source}
        for i, (key, value) in enumerate(about.items()):
            frame.insert(i, key, value)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def judges_of(cells: Sequence[Cell], files: Sequence[Path]) -> dict[tuple[str, str], str]:
    """Return who judged each comparison, and how often that judge is wrong, in a sentence.

    `files` are `metrics.parquet`.

    Raises:
        ArtifactError: two cells of one comparison were judged by different judges, or versions of
            one.
    """
    seen: dict[tuple[str, str], tuple[Path, Any]] = {}
    for cell, file in files_of(cells, files, "metrics.parquet"):
        judge = stamp_of(file)["provenance"].get("judge")
        # the first cell of a comparison says by whom all of it must be judged
        first, other = seen.setdefault(cell.group, (file, judge))
        if judge != other:
            raise ArtifactError(
                f"{file}: judged by {judge}, but {first} by {other}; "
                "judge both by the same before they share a table"
            )
    return {group: judge_note(judge) for group, (_, judge) in seen.items()}


def judge_note(judge: Any) -> str:
    """Return a judge in print, with its error on answers it had not seen where that is known."""
    if not isinstance(judge, dict) or not judge.get("use"):
        return ""
    error = judge.get("error")
    if not error:
        return f"Judge: {judge['use']}, whose error is not known."
    if not any(error.values()):
        return f"Judge: {judge['use']}, exact."
    shares = [f"{100 * share:.1f} % ({MEASURES[kind].title})" for kind, share in error.items()]
    return f"Judge: {judge['use']}, wrong on {' and '.join(shares)} of answers it had not seen."


def tuned_by(grid: pd.DataFrame) -> Measure:
    """Return the measure that a grid's settings are chosen by: True*Info, without answers MC1."""
    # the column is there without answers too, and empty then
    return TRUE_INFO if grid[TRUE_INFO.name].notna().any() else MC1


def best_setting(grid: pd.DataFrame, by: str) -> int:
    """Return the number of the best setting (`search.index_of_best`).

    For multiple choice, it is the reference answers steered that count.
    """
    steered = "steered_mc" if by.startswith("mc") else "steered"
    # not to steer has no alpha, and the smallest strength there is
    rows = grid.sort_values("setting").fillna({"alpha": 0.0})
    values = rows[[by, steered, "alpha"]].to_numpy(np.float64).tolist()
    tried = [Tried(*row) for row in values]
    return int(rows["setting"].iloc[index_of_best(tried)])


def comparisons(
    frame: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str] = ()
) -> list[Comparison]:
    """Return one per pair of pooled model and dataset, in order of appearance.

    Methods without rows are left out, and there is none of no rows at all. Without `metrics` all of
    `metrics.parquet` are taken.
    """
    if frame.empty:
        return []
    metrics = metrics or columns_of("metrics.parquet")
    keys = [frame["model"].map(pooled), frame["dataset"].map(pooled), frame["source"]]
    made = []
    for (model, dataset, source), rows in frame.groupby(keys, sort=False):
        present = [method for method in methods if (rows["method"] == method).any()]
        panel = panel_of(rows, present, metrics)
        n_worlds = len(rows[["model", "dataset"]].drop_duplicates())
        made.append(Comparison(model, dataset, source, panel, n_worlds, rows["seed"].nunique()))
    return made


def panel_of(rows: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str]) -> Panel:
    """Return the values of one comparison; its units are the worlds."""
    rows = _defined(rows[rows["method"].isin(list(methods))], metrics)
    question = pd.MultiIndex.from_frame(rows[["model", "dataset", "question"]])
    at, questions = question.factorize()
    part, parts = pd.MultiIndex.from_frame(rows[["seed", "fold"]]).factorize()
    method = pd.Index(list(methods)).get_indexer(rows["method"])
    # a fold tests a part of the questions: the others stay NaN in it
    values = np.full((len(methods), len(metrics), len(questions), len(parts)), np.nan)
    for i, metric in enumerate(metrics):
        if metric in rows:
            values[method, i, at, part] = rows[metric].to_numpy(np.float64)
    # in order of appearance, as `factorize` numbers them: codes fit the axis of questions
    first = rows.drop_duplicates(["model", "dataset", "question"])
    world, group = codes(first, "model", "dataset"), codes(first, "model", "dataset", "group")
    return Panel(tuple(methods), tuple(metrics), values, world, group)


def _defined(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return rows without the metrics that have no value in a whole fold of their method.

    A mean over the other folds would stand beside means over all: where not to steer was chosen, a
    gate at the question's end leaves plain text alone, and elsewhere its effect is not known.
    """
    known = [metric for metric in metrics if metric in rows]
    of_fold = rows.groupby(["method", "model", "dataset", "seed", "fold"], observed=True)
    lacking = of_fold[known].count().eq(0).groupby("method").any()
    return rows.assign(
        **{one: rows[one].mask(rows["method"].map(lacking[one]).astype(bool)) for one in known}
    )


def codes(rows: pd.DataFrame, *columns: str) -> np.ndarray:
    """Return numbers of rows: equal where these columns are, from 0 in order of appearance."""
    return rows.groupby(list(columns), sort=False).ngroup().to_numpy(np.int64)
