"""A sweep compared: which settings did well on validation questions, and what they hang on.

In: `grid.parquet` of cells. Out: tidy rows by comparison and method. What is chosen, and what came
of it on test questions, is in `chosen.py`.

    settings      value (mean over folds and cells of the measure that is tuned by), setting (text)
    importance    key, share (of the variance over the grid that lies between the key's values:
                  the mean over folds and cells), best (its value with the highest mean)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.search import DIGITS
from fasb.study.cells import Cell
from fasb.study.frames import read_table
from fasb.study.panels import HYPERPARAMETERS, files_of, tuned_by


def grids(
    cells: Sequence[Cell], files: Sequence[Path]
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield each comparison's model and dataset, and the grids of its cells below one another.

    Raises:
        ArtifactError: a cell has no `grid.parquet` among the files.
    """
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for number, (cell, path) in enumerate(files_of(cells, files, "grid.parquet")):
        grid = read_table(path)
        # grids of before a key was known have no column for it
        columns = dict.fromkeys([*grid.columns, *HYPERPARAMETERS])
        found.setdefault(cell.group, []).append(grid.reindex(columns=columns).assign(cell=number))
    for group, parts in found.items():
        yield group, pd.concat(parts, ignore_index=True)


def best_settings(grid: pd.DataFrame, method: str, n: int) -> list[dict[str, Any]]:
    """Return the n best settings of a method, best first; equal ones in the grid's order."""
    rows, measure = grid[grid["method"] == method], tuned_by(grid)
    means = rows.groupby("setting")[measure.name].mean()
    found = []
    for setting, value in means.sort_values(ascending=False, kind="stable").head(n).items():
        told = written(rows[rows["setting"] == setting].iloc[0])
        found.append({"method": method, "setting": told, "value": float(value)})
    return found


def importance(grid: pd.DataFrame, method: str) -> list[dict[str, Any]]:
    """Return how much of a method's results hangs on each hyperparameter, most important first."""
    rows, measure = grid[grid["method"] == method], tuned_by(grid).name
    found = []
    for key in HYPERPARAMETERS:
        if rows[key].nunique() > 1:
            # not to steer is a setting of every grid, and has no values
            steered = rows[rows[key].notna()]
            means = steered.groupby(key)[measure].mean()
            about = {"method": method, "key": key, "best": _text(means.idxmax())}
            found.append({**about, "share": _between(steered, key, measure)})
    return sorted(found, key=lambda row: -row["share"])


def _between(rows: pd.DataFrame, key: str, measure: str) -> float:
    """Return the share of variance between the key's values; 0 where nothing varies."""
    shares = []
    # a product of equal shares may differ in its last digit, which would be all that varies
    rows = rows.assign(**{measure: rows[measure].round(DIGITS)})
    for _, part in rows.groupby(["cell", "fold"]):
        total = part[measure].var(ddof=0)
        between = part.groupby(key)[measure].transform("mean").var(ddof=0)
        shares.append(between / total if total > 0 else 0.0)
    return float(np.mean(shares))


def written(row: "pd.Series[Any]") -> str:
    """Return a setting in one line, without what means nothing to it."""
    known = {key: _text(row[key]) for key in HYPERPARAMETERS if pd.notna(row[key])}
    # what has no column of its own says by itself what it is
    told = [text if key == "other" else f"{key} {text}" for key, text in known.items()]
    return ", ".join(told) or "not steered"


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.4g}"
