"""Cells of a study as panels: which files belong together, and per-question values side by side.

In: paths, the cells of the study, `metrics.parquet` frames. Out: one `Panel` per comparison. A
comparison pools worlds of one kind (`tradeoff-s3`, `tradeoff-s4`, …: seeds of `tradeoff`) and never
mixes models.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.artifacts import read_parquet, stamp_of
from fasb.errors import ArtifactError
from fasb.metrics.statistics import Panel
from fasb.study.cells import is_ablation as is_ablation

METRICS = (
    "true", "info", "mc1", "mc2", "mc3", "mc1_tuned", "mc2_tuned", "mc3_tuned", "exact",
    "steered", "harmed", "helped", "tokens", "decoded", "passes", "steered_mc",
)  # fmt: skip
"""Columns of `metrics.parquet` that are averaged; True*Info follows from the first two."""
EFFECTS = ("ce", "kl", "ce_gated", "kl_gated", "steered_gated", "unrelated")
"""Columns of `side_effects.parquet` that are averaged."""
KNOBS = ("k", "alpha", "beta", "s", "vector")
"""What is tuned, and stands beside results; the last is no number."""

LABELS = {
    "iti": "ITI", "caa": "CAA", "fasb": "FASB", "fasb-probe": "FASB-Probe", "fasb-prototype": "FASB-Prototype",
}  # fmt: skip
"""How methods are written where `label` would not guess it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one dataset under one split seed, and the folder of its files."""

    model: str
    dataset: str
    seed: int
    folder: Path
    source: str = ""
    """The cell whose bundles were used, as "model, dataset"; empty for its own."""

    @classmethod
    def of(cls, given: Iterable[dict[str, Any]]) -> "list[Cell]":
        """The cells of a settings mapping's list `cells`."""
        return [
            cls(
                c["model"],
                c["dataset"],
                int(c["seed"]),
                Path(c["folder"]),
                ", ".join(c.get("source", ())),
            )
            for c in given
        ]

    @property
    def group(self) -> tuple[str, str]:
        """Model and dataset without a world's seed: what is compared and pooled together."""
        return pooled(self.model), pooled(self.dataset)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on the same model and dataset, or on worlds of the same kind."""

    model: str
    dataset: str
    panel: Panel
    n_cells: int
    n_seeds: int
    n_questions: int
    source: str = ""

    @property
    def group(self) -> tuple[str, str]:
        """Model and dataset, as a cell's."""
        return self.model, self.dataset

    @property
    def sizes(self) -> dict[str, int]:
        """Questions, worlds and split seeds."""
        return {"n": self.n_questions, "worlds": self.n_cells, "seeds": self.n_seeds}


def pooled(name: str) -> str:
    """`name` without a final `-s<digits>`, a world's seed."""
    return re.sub(r"-s\d+$", "", name)


def label(method: str) -> str:
    """A method's name in print: `without-backtracking-same` is "w/o backtracking (same setting)"."""
    if method.endswith("-same"):
        return f"{label(method.removesuffix('-same'))} (same setting)"
    if method in LABELS:
        return LABELS[method]
    if method.startswith("without-"):
        return "w/o " + method.removeprefix("without-").replace("-", " ")
    return method[:1].upper() + method[1:].replace("-", " ")


def files_of(
    cells: Sequence[Cell], files: Sequence[Path], name: str
) -> Iterator[tuple[Cell, Path]]:
    """Each cell with its file called `name`, among the files given.

    Raises:
        ArtifactError: a cell has no such file.
    """
    found = {file.parent: file for file in files if file.name == name}
    for cell in cells:
        if cell.folder not in found:
            raise ArtifactError(f"{cell.folder / name}: not among the files given; add it")
        yield cell, found[cell.folder]


def read_cells(cells: Sequence[Cell], files: Sequence[Path], name: str) -> pd.DataFrame:
    """The cells' Parquet files below one another, with columns model, dataset, seed, source in front."""
    frames = []
    for cell, file in files_of(cells, files, name):
        frame = read_parquet(file)
        for i, key in enumerate(("model", "dataset", "seed", "source")):
            frame.insert(i, key, getattr(cell, key))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def judges_of(cells: Sequence[Cell], files: Sequence[Path]) -> dict[tuple[str, str], str]:
    """Who judged each comparison, and how often that judge is wrong, in a sentence; `files` are `metrics.parquet`.

    Raises:
        ArtifactError: two cells of one comparison were judged by different judges, or versions of
            one.
    """
    seen: dict[tuple[str, str], tuple[Path, Any]] = {}
    for cell, file in files_of(cells, files, "metrics.parquet"):
        judge = stamp_of(file)["provenance"].get("judge")
        first, other = seen.setdefault(cell.group, (file, judge))
        if judge != other:
            raise ArtifactError(
                f"{file}: judged by {judge}, but {first} by {other}; judge both by the same before they share a table"
            )
    return {group: judge_note(judge) for group, (_, judge) in seen.items()}


def judge_note(judge: Any) -> str:
    """A judge in print, with its error on answers it had not seen where that is known; nothing without a judge."""
    if not isinstance(judge, dict) or not judge.get("use"):
        return ""
    error = judge.get("error")
    if not error:
        return f"Judge: {judge['use']}, whose error is not known."
    if not any(error.values()):
        return f"Judge: {judge['use']}, exact."
    told = " and ".join(
        f"{100 * share:.1f} % ({kind.capitalize()})" for kind, share in error.items()
    )
    return f"Judge: {judge['use']}, wrong on {told} of answers it had not seen."


def comparisons(
    frame: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str] = METRICS
) -> list[Comparison]:
    """One per pair of pooled model and dataset, in order of appearance; methods without rows are left out."""
    made = []
    keys = [frame["model"].map(pooled), frame["dataset"].map(pooled), frame["source"]]
    for (model, dataset, source), rows in frame.groupby(keys, sort=False):
        present = tuple(method for method in methods if (rows["method"] == method).any())
        sizes = (len(rows[["model", "dataset"]].drop_duplicates()), rows["seed"].nunique())
        panel = panel_of(rows, present, metrics)
        made.append(Comparison(model, dataset, panel, *sizes, len(panel.unit), source))
    return made


def panel_of(rows: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str] = METRICS) -> Panel:
    """The values of one comparison.

    Units are the cells; of a single cell its folds, unless a question is tested in several.
    """
    rows = rows[rows["method"].isin(list(methods))]
    question = pd.MultiIndex.from_frame(rows[["model", "dataset", "question"]])
    at, questions = question.factorize()
    part, parts = pd.MultiIndex.from_frame(rows[["seed", "fold"]]).factorize()
    method = pd.Index(list(methods)).get_indexer(rows["method"])
    values = np.full((len(methods), len(metrics), len(questions), len(parts)), np.nan)
    for i, metric in enumerate(metrics):
        if metric in rows:
            values[method, i, at, part] = rows[metric].to_numpy(np.float64)
    first = rows.drop_duplicates(["model", "dataset", "question"])
    return Panel(
        tuple(methods),
        tuple(metrics),
        values,
        _unit(rows, first),
        _codes(first, "model", "dataset", "group"),
    )


def _unit(rows: pd.DataFrame, first: pd.DataFrame) -> np.ndarray:
    cell = _codes(first, "model", "dataset")
    if cell.max(initial=0) > 0 or rows.groupby("question")["fold"].nunique().gt(1).any():
        return cell
    return _codes(first, "fold")


def _codes(rows: pd.DataFrame, *columns: str) -> np.ndarray:
    return rows.groupby(list(columns), sort=False).ngroup().to_numpy(np.int64)
