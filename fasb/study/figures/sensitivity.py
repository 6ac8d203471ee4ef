"""Sensitivity: validation results along each of k, alpha, beta, s, the others as tuned.

knob, x, metric       what is varied, its value, and what is measured
value, low, high      in percent; over worlds from three on
chosen                share of folds and seeds that tuning put at x
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from fasb.study.cells import Cell
from fasb.study.figures.drawing import (
    Look,
    empty,
    end_labels,
    groups,
    looks,
    panels,
    side_label,
)
from fasb.study.figures.numbers import Row, along, bars, by_group, mean_over_worlds, sizes
from fasb.study.measures import MEASURES
from fasb.study.panels import read_cells, tuned_by
from fasb.study.styles import MethodStyle, names_of

TITLE = "Sensitivity to k, alpha, beta and s"
EMPTY_CAPTION = "No method with a grid in this study."
EMPTY_PICTURE = "no grid"
NAMES = {
    "k": "anchors $k$",
    "alpha": r"strength $\alpha$",
    "beta": r"threshold $\beta$",
    "s": "step back $s$",
}
PANEL = 1.05
"""Inches of a panel's height within its axes."""


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the main methods that are gated."""
    gated = names_of([style for style in styles if style.gated], "main")
    found: list[Row] = []
    for about, of_group in by_group(read_cells(cells, files, "grid.parquet")):
        measure = tuned_by(of_group)
        for method in gated:
            of_method = of_group[of_group["method"] == method]
            for knob in NAMES:
                for x, there in along(of_method, knob).groupby(knob):
                    row = about | {"method": method, "knob": knob, "x": x, "metric": measure.name}
                    mean = mean_over_worlds(there, measure.name, measure.scale)
                    found.append(row | mean | {"chosen": float(there["chosen"].mean())})
    return pd.DataFrame(found)


def caption(rows: pd.DataFrame) -> str:
    """Return which setting moves the result most."""
    # two comparisons differ in level, which is no setting's doing
    values = rows.groupby(["model", "dataset", "method", "knob"])["value"]
    spans = (values.max() - values.min()).groupby("knob").mean().sort_values(ascending=False)
    told = [f"{knob} {points:.0f}" for knob, points in spans.items()]
    return (
        f"{spans.index[0]} matters most: points between the best and the worst value, "
        f"{', '.join(told)}. Validation results along each setting, the others as tuned for that "
        f"fold, or as is best there among what steers. {sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return one panel for each setting that was varied, one line for each method."""
    found = groups(rows)
    n_values = rows.groupby("knob")["x"].nunique()
    hyperparameters = [knob for knob in NAMES if n_values.get(knob, 0) > 1]
    if not hyperparameters:
        return empty(EMPTY_PICTURE)
    methods = looks(rows)
    height = 0.4 + 1.45 * len(found)
    figure, grid = panels(height, len(found), len(hyperparameters), sharey="row")
    for (title, part), axes in zip(found, grid, strict=True):
        for knob, axis in zip(hyperparameters, axes, strict=True):
            _draw_knob(axis, part[part["knob"] == knob], knob, methods)
            axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        measure = MEASURES[part["metric"].iloc[0]]
        axes[0].set_ylabel(side_label(title, f"{measure.title} (%)"))
        last = part[part["knob"] == hyperparameters[-1]].sort_values("x")
        ends = last.groupby("method")["value"].last().to_dict()
        end_labels(axes[-1], ends, methods, PANEL)
        # a method without the last setting is named where its last line ends
        others = part[~part["method"].isin(list(ends))]
        for knob, axis in zip(hyperparameters, axes, strict=True):
            here = others[others["knob"] == knob]
            later = hyperparameters[hyperparameters.index(knob) + 1 :]
            ended = set(here["method"]) - set(others[others["knob"].isin(later)]["method"])
            _name_ends(axis, here[here["method"].isin(list(ended))], methods)
    for knob, axis in zip(hyperparameters, grid[-1], strict=True):
        axis.set_xlabel(NAMES[knob])
    return figure


def _name_ends(axis: Axes, rows: pd.DataFrame, methods: dict[str, Look]) -> None:
    """Write the names of methods above the right ends of their lines."""
    ends = rows.sort_values("x").groupby("method", sort=False).last()
    for method, x, y in zip(ends.index, ends["x"], ends["value"], strict=True):
        look = methods[str(method)]
        axis.annotate(
            look.label,
            (x, y),
            (3, 4),
            textcoords="offset points",
            fontsize=8,
            color=look.ink,
            ha="right",
        )


def _draw_knob(axis: Axes, rows: pd.DataFrame, knob: str, methods: dict[str, Look]) -> None:
    for method, part in rows.groupby("method", sort=False):
        look, part = methods[str(method)], part.sort_values("x")
        known = part[part["low"].notna()]
        axis.vlines(known["x"], known["low"], known["high"], color=look.colour, linewidth=0.6)
        axis.plot(part["x"], part["value"], markerfacecolor=look.face, clip_on=False, **look.line)
    axis.margins(x=0.12)
    if rows.empty:
        return
    ticks = sorted(set(rows["x"]))
    # no logarithm shows a strength of 0, or one that steers the other way
    logarithmic = knob in ("k", "alpha") and ticks[0] > 0
    if logarithmic:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if logarithmic and knob == "alpha":
        # strengths of several methods lie close together; powers of two do not
        powers = [2.0**i for i in range(-12, 13)]
        ticks = [x for x in powers if 0.9 * ticks[0] <= x <= 1.1 * ticks[-1]] or ticks
    axis.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 5)]))
