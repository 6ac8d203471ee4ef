"""Data efficiency: test results against the question-and-answer pairs that were fitted on.

metric, pairs          what is measured; pairs are means over folds and seeds
value, low, high       percent
published              the paper's unsteered number, where one corresponds
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasb.data.published import beside
from fasb.fitting.anchors import read_anchors
from fasb.metrics.statistics import intervals, resample
from fasb.study.cells import Cell
from fasb.study.figures.drawing import Look, groups, looks, panels, shade_intervals
from fasb.study.figures.numbers import Row, bars, scaled, sizes
from fasb.study.measures import MEASURES, shown_in
from fasb.study.panels import Comparison, comparisons, files_of, read_cells
from fasb.study.styles import MethodStyle, first_unsteered, names_of

TITLE = "How many training pairs are needed"
EMPTY_CAPTION = "No cell in this study was fitted on a share of its training questions."
EMPTY_PICTURE = "no cells with a share of the training questions"


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the main methods, of every share of the training questions."""
    pairs = dict(_pairs(cells, files))
    made: list[Row] = []
    for suffix in dict.fromkeys(cell.cell_suffix for cell in cells):
        # one share at a time: `comparisons` knows models and datasets only, and would pool them
        held = [cell for cell in cells if cell.cell_suffix == suffix]
        frame = read_cells(held, files, "metrics.parquet")
        for comparison in comparisons(frame, names_of(styles, "main")):
            group = (comparison.model, comparison.dataset)
            mean = np.mean([pairs[cell] for cell in held if cell.group == group])
            for row in _comparison_rows(comparison, styles):
                made.append(row | {"pairs": float(mean)})
    found = pd.DataFrame(made)
    return found[found["value"].notna()] if made else found


def _comparison_rows(comparison: Comparison, styles: Sequence[MethodStyle]) -> Iterator[Row]:
    panel = comparison.panel
    found = intervals(panel, resample(panel, 1000))
    plain = first_unsteered(styles) or ""
    for measure in shown_in("data_efficiency"):
        column = panel.columns.index(measure.name)
        known = beside("main", comparison.model, comparison.dataset, plain, measure.name)
        published = known.value if known else np.nan
        for i, method in enumerate(panel.methods):
            row = {"method": method, "metric": measure.name, "published": published}
            yield comparison.about | row | scaled(found, (i, column), measure.scale)


def _pairs(cells: Sequence[Cell], files: Sequence[Path]) -> Iterator[tuple[Cell, float]]:
    """Pairs that each cell's probes were fitted on, averaged over folds."""
    for cell, path in files_of(cells, files, "anchors.h5"):
        yield cell, float(np.mean([fold.pairs for fold in read_anchors(path)[1]]))


def caption(rows: pd.DataFrame) -> str:
    """Return how the method with the best result on all pairs fares on the fewest."""
    measure = MEASURES[rows["metric"].iloc[0]]
    known = rows[rows["metric"] == measure.name].sort_values("pairs")
    # the message is about the method that is best with all of the data
    best = known[known["pairs"] == known["pairs"].max()]["value"].idxmax()
    same = known[["model", "dataset", "method"]] == known.loc[best, ["model", "dataset", "method"]]
    part = known[same.all(axis=1)]
    few, full = part.iloc[0], part.iloc[-1]
    published = rows["published"].notna().any()
    told = " Dotted: the paper's unsteered number, from another protocol." if published else ""
    return (
        f"{few['label']} on {few['pairs']:.0f} training pairs: {measure.title} {few['value']:.1f}, "
        f"on {full['pairs']:.0f}: {full['value']:.1f}. Test questions; smaller sets lie within "
        f"larger ones.{told} {sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return a panel for each measure, one line for each method."""
    found = groups(rows)
    methods = looks(rows)
    shown = [one for one in shown_in("data_efficiency") if (rows["metric"] == one.name).any()]
    height = 0.5 + 1.8 * len(found)
    figure, grid = panels(height, len(found), len(shown), sharex="row")
    for (title, part), axes in zip(found, grid, strict=True):
        for measure, axis in zip(shown, axes, strict=True):
            _draw_measure(axis, part[part["metric"] == measure.name], methods)
            axis.set_ylabel(f"{measure.title} (%)", labelpad=1)
        axes[0].text(0, 1.03, title, transform=axes[0].transAxes, fontsize=8.5)
    for axis in grid[-1]:
        axis.set_xlabel("training pairs")
    grid[0][-1].legend(fontsize=6.5, frameon=False)
    return figure


def _draw_measure(axis: Axes, rows: pd.DataFrame, methods: dict[str, Look]) -> None:
    for method, part in rows.groupby("method", sort=False):
        look, part = methods[str(method)], part.sort_values("pairs")
        shade_intervals(axis, part["pairs"], part, look.colour, 0.12)
        axis.plot(part["pairs"], part["value"], label=look.label, markersize=3, **look.line)
    if rows["published"].notna().any():
        axis.axhline(
            rows["published"].iloc[0],
            color="#595959",
            linewidth=0.8,
            linestyle=":",
            label="Unsteered, published",
        )
