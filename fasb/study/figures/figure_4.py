"""Figure 4: validation accuracy of every head, sorted by layer, averaged over folds and worlds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from fasb.fitting.anchors import read_anchors
from fasb.study.cells import Cell
from fasb.study.figures.drawing import WIDTH, groups, panels, side_label
from fasb.study.panels import files_of
from fasb.study.styles import MethodStyle
from fasb.study.worlds import pooled

TITLE = "Which heads know truth (Figure 4)"
EMPTY_CAPTION = "No heads in this study."
EMPTY_PICTURE = "no heads"
KINDS = {"logistic": "logistic probe", "cosine": "prototypes"}
"""Classifiers of heads, and what they are called."""
WEAK = 0.6
Accuracy = tuple[str, str, str, Float[np.ndarray, "layer head"]]
"""Model, dataset, kind of classifier, and the validation accuracy of each head in one fold."""


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of all cells; no method has any part in them."""
    return head_rows(list(_accuracies(cells, files)))


def _accuracies(cells: Sequence[Cell], files: Sequence[Path]) -> Iterator[Accuracy]:
    for cell, path in files_of(cells, files, "anchors.h5"):
        for fold in read_anchors(path)[1]:
            for kind, accuracy in fold.accuracy.items():
                yield cell.model, cell.dataset, kind, accuracy


def head_rows(heads: Sequence[Accuracy]) -> pd.DataFrame:
    """Return the accuracy at each rank of each layer; n: folds, seeds and worlds."""
    frames = []
    for model, dataset, kind, accuracy in heads:
        layer, rank = np.indices(accuracy.shape).reshape(2, -1)
        # sorted before averaging: worlds do not agree on which head is which
        value = -np.sort(-accuracy, axis=1).ravel()
        about = {"model": pooled(model), "dataset": pooled(dataset), "kind": kind}
        frames.append(pd.DataFrame({**about, "layer": layer, "rank": rank, "value": value}))
    if not frames:
        return pd.DataFrame()
    keys = ["model", "dataset", "kind", "layer", "rank"]
    found = pd.concat(frames).groupby(keys, as_index=False, sort=False)
    return found.agg(value=("value", "mean"), n=("value", "size"))


def caption(rows: pd.DataFrame) -> str:
    """Return how good the best head is, and how many know next to nothing."""
    best = rows.loc[rows["value"].idxmax()]
    return (
        f"The best head of a layer reaches {best['value']:.2f} ({best['model']}, layer "
        f"{best['layer']}), and {(rows['value'] < WEAK).mean():.0%} of all heads stay below "
        f"{WEAK:.2f}. Validation accuracy, heads sorted within each layer, averaged over "
        f"{rows['n'].iloc[0]} folds, seeds and worlds."
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return layers by heads, one panel a classifier, in colours that diverge about chance."""
    found = groups(rows)
    kinds = [kind for kind in KINDS if (rows["kind"] == kind).any()]
    height = 0.45 + len(found) * (0.55 + min(0.14 * (1 + rows["layer"].max()), 2.6))
    width = WIDTH if len(kinds) > 1 else 3.6
    figure, grid = panels(height, len(found), len(kinds), width, sharex="col")
    span = max(abs(rows["value"] - 0.5).max(), 0.05)
    norm = TwoSlopeNorm(0.5, 0.5 - span, 0.5 + span)
    for (title, part), axes in zip(found, grid, strict=True):
        for kind, axis in zip(kinds, axes, strict=True):
            image = _draw_heads(axis, part[part["kind"] == kind], norm)
        axes[0].set_ylabel(side_label(title, "layer"))
    for kind, axis in zip(kinds, grid[-1], strict=True):
        axis.set_xlabel(f"heads, best first ({KINDS[kind]})")
    # all panels share one norm, so the last image stands for all
    bar = figure.colorbar(image, ax=grid, shrink=0.85, aspect=25 * len(found), pad=0.02)
    bar.set_label("validation accuracy")
    # colours are symmetric about chance; the bar shows those that occur
    bar.ax.set_ylim(min(rows["value"].min(), 0.5), rows["value"].max())
    bar.outline.set_linewidth(0.5)
    return figure


def _draw_heads(axis: Axes, rows: pd.DataFrame, norm: TwoSlopeNorm) -> Any:
    table = rows.pivot_table(index="layer", columns="rank", values="value").to_numpy()
    image = axis.imshow(
        table, cmap="RdBu", norm=norm, aspect="auto", interpolation="nearest", origin="lower"
    )
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    axis.yaxis.set_major_locator(_whole(table.shape[0]))
    axis.xaxis.set_major_locator(_whole(table.shape[1]))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x + 1:.0f}")
    return image


def _whole(n: int) -> FixedLocator:
    """Ticks at whole numbers from 0: all of a few, else every second, every fourth, and so on."""
    step = 1
    while n / step > 8:
        step *= 2
    return FixedLocator(list(range(0, n, step)))
