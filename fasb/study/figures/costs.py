"""Costs: what each method gains on test questions, against what it takes.

cost                   what is on the x axis: `decoded`, `harmed`, `kl_policy`
x, value, low, high    the cost; the gain over the unsteered model in points of the first measure
                       that has values, paired
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from fasb.metrics.statistics import differences, estimate, resample
from fasb.study.cells import Cell
from fasb.study.figures.drawing import (
    WIDTH,
    Look,
    groups,
    looks,
    panels,
    side_label,
)
from fasb.study.figures.numbers import Row, bars, named_groups, sizes
from fasb.study.measures import DECODED, HARMED, KL_POLICY, MEASURES, headline
from fasb.study.panels import Comparison, comparisons, read_cells
from fasb.study.styles import MethodStyle, first_unsteered, names_of

TITLE = "What a gain costs"
EMPTY_CAPTION = "Nothing to weigh in this study."
EMPTY_PICTURE = "no gains"
COSTS = {
    DECODED.name: "tokens decoded an answer",
    HARMED.name: "answers harmed (%)",
    KL_POLICY.name: "KL on plain text (nats)",
}
MOST = 16
"""Methods whose numbers find a place beside their points; more have a line each."""
EFFECTS = "side_effects.parquet"
DIGIT = (3.4, 4.8)
"""Width and height of a digit of a number, in points."""


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of all methods; KL where side effects were measured."""
    methods = names_of(styles)
    plain = first_unsteered(styles)
    if plain is None:
        return pd.DataFrame()
    metrics = read_cells(cells, files, "metrics.parquet")
    texts = read_cells([cell for cell in cells if cell.folder / EFFECTS in files], files, EFFECTS)
    effects = {}
    for one in comparisons(texts, methods, [KL_POLICY.name]):
        effects[one.model, one.dataset] = one
    found: list[Row] = []
    for comparison in comparisons(metrics, methods):
        if plain in comparison.panel.methods:
            measured_on = effects.get((comparison.model, comparison.dataset))
            found += _of_comparison(comparison, measured_on, plain)
    return pd.DataFrame(found)


def _of_comparison(comparison: Comparison, texts: Comparison | None, plain: str) -> Iterator[Row]:
    panel = comparison.panel
    known = pd.notna(estimate(panel)).any(axis=0)
    measure = headline(np.array(panel.columns)[known].tolist())
    if measure is None:
        return
    gain = differences(panel, resample(panel), plain)
    for cost in COSTS:
        # where no texts were measured, the panel of questions has no such column either
        where = texts.panel if cost == KL_POLICY.name and texts is not None else panel
        if cost not in where.columns:
            continue
        x = estimate(where)[:, where.columns.index(cost)] * MEASURES[cost].scale
        for i, method in enumerate(panel.methods):
            if method == plain or method not in where.methods:
                continue
            at = (i, panel.columns.index(measure.name))
            yield comparison.about | {
                "method": method,
                "metric": measure.name,
                "cost": cost,
                "x": x[where.methods.index(method)],
                "value": measure.scale * gain.value[at],
                "low": measure.scale * gain.low[at],
                "high": measure.scale * gain.high[at],
            }


def caption(rows: pd.DataFrame) -> str:
    """Return which method gains most in each comparison."""
    told = []
    for title, part in named_groups(rows[rows["cost"] == rows["cost"].iloc[0]]):
        best = part.loc[part["value"].idxmax()]
        told.append(f"{title}: {best['label']} gains most, {best['value']:+.1f} points")
    measures = " or ".join(MEASURES[name].title for name in rows["metric"].unique())
    key = "" if rows["method"].nunique() > MOST else "; numbers name the methods"
    return (
        f"{'; '.join(told)}. Gain in {measures} over the unsteered model on test questions, "
        f"against what it takes{key}. {sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return a line of panels for each comparison: one for each cost, and a key of numbers.

    Of many methods, each has a line, on which the panels show its gain and its costs.
    """
    found = groups(rows)
    methods = looks(rows)
    costs = [cost for cost in COSTS if (rows["cost"] == cost).any()]
    if len(methods) > MOST:
        return _draw_list(found, methods, costs)
    lines = -(-len(methods) // 3)
    key = 0.2 + 0.13 * lines
    figure, grid = panels(1.75 * len(found) + key, len(found), len(costs), WIDTH, sharey="row")
    for (title, part), axes in zip(found, grid, strict=True):
        for cost, axis in zip(costs, axes, strict=True):
            _draw_cost(axis, part[part["cost"] == cost], cost, methods)
        measure = MEASURES[part["metric"].iloc[0]].title
        axes[0].set_ylabel(side_label(title, f"gain in {measure}"))
    for cost, axis in zip(costs, grid[-1], strict=True):
        axis.set_xlabel(COSTS[cost])
    _draw_key(figure, methods)
    figure.draw_without_rendering()  # from here on points have their places
    for (_, part), axes in zip(found, grid, strict=True):
        for cost, axis in zip(costs, axes, strict=True):
            _number_methods(axis, part[part["cost"] == cost], methods)
    return figure


def _draw_list(
    found: list[tuple[str, pd.DataFrame]], methods: dict[str, Look], costs: Sequence[str]
) -> Figure:
    """Return a line for each method, the best first: its gain, then what it takes."""
    heights = [0.45 + 0.13 * part["method"].nunique() for _, part in found]
    figure, grid = panels(
        0.3 + sum(heights),
        len(found),
        1 + len(costs),
        height_ratios=heights,
        sharex="col",
        sharey="row",
    )
    for (title, part), axes in zip(found, grid, strict=True):
        gains = part[part["cost"] == costs[0]].sort_values("value").set_index("method")
        names = [str(name) for name in gains.index]
        for y, (low, high) in enumerate(zip(gains["low"], gains["high"], strict=True)):
            axes[0].hlines(y, low, high, color=methods[names[y]].colour, lw=0.9)
        _draw_column(axes[0], gains["value"], methods)
        axes[0].axvline(0, color="#BBBBBB", linewidth=0.6, zorder=0)
        for cost, axis in zip(costs, axes[1:], strict=True):
            of_cost = part[part["cost"] == cost].set_index("method")["x"]
            _draw_column(axis, of_cost.reindex(gains.index), methods)
        axes[0].set_yticks(range(len(names)), [methods[name].label for name in names])
        for text, name in zip(axes[0].get_yticklabels(), names, strict=True):
            text.set(fontsize=7, color=methods[name].ink)
        measure = MEASURES[part["metric"].iloc[0]].title
        axes[0].set_title(f"{title}, gain in {measure}", fontsize=8.5, loc="left")
    grid[-1][0].set_xlabel("gain")
    # when all panels of a column have their points: limits follow from these
    for cost, axis in zip(costs, grid[-1][1:], strict=True):
        axis.margins(x=0.1)
        _scale(axis, cost)
        axis.set_xlabel(fill(COSTS[cost], 16))
    return figure


def _draw_column(axis: Axes, values: pd.Series, methods: dict[str, Look]) -> None:
    """Draw a point on the line of each method that has a value."""
    if values.isna().all():
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", fontsize=7)
    for y, (name, x) in enumerate(values.items()):
        axis.axhline(y, color="#EEEEEE", linewidth=0.6, zorder=0)
        axis.plot(x, y, "o", color=methods[str(name)].colour, markersize=3)
    axis.set_ylim(-0.7, len(values) - 0.3)
    axis.tick_params(axis="y", length=0)


def _scale(axis: Axes, cost: str) -> None:
    """Set the scale on which a cost is read."""
    if cost == DECODED.name:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    elif cost == KL_POLICY.name:
        # zero is a value here: a gate that never opens on plain text
        axis.set_xscale("symlog", linthresh=1e-3)
        axis.set_xlim(left=-2e-4)


def _draw_cost(axis: Axes, rows: pd.DataFrame, cost: str, methods: dict[str, Look]) -> None:
    """One point a method, its interval behind it."""
    if rows.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center")
        axis.set_xticks([])
        return
    axis.axhline(0, color="#BBBBBB", linewidth=0.6, zorder=0)
    for row in rows.dropna(subset=["x", "value"]).to_dict("records"):
        look = methods[row["method"]]
        axis.vlines(row["x"], row["low"], row["high"], color=look.colour, lw=0.6, alpha=0.5)
        axis.plot(row["x"], row["value"], ".", color=look.colour, markersize=3)
    axis.margins(x=0.1)
    _scale(axis, cost)


def _number_methods(axis: Axes, rows: pd.DataFrame, methods: dict[str, Look]) -> None:
    """Write each method's number beside its point, where no other number and no point is."""
    numbers = {method: i + 1 for i, method in enumerate(methods)}
    rows = rows.dropna(subset=["x", "value"])
    points = axis.transData.transform(rows[["x", "value"]].to_numpy(float))
    points *= 72 / axis.figure.dpi
    taken = [Bbox.from_bounds(x - 1.5, y - 1.5, 3, 3) for x, y in points]
    for row, (x, y) in zip(rows.to_dict("records"), points, strict=True):
        look, text = methods[row["method"]], str(numbers[row["method"]])
        width = DIGIT[0] * len(text)
        right, left, above, below = 2.5, -2.5 - width, 1.5, -1.5 - DIGIT[1]
        places = [(dx, dy) for dy in (above, below, above + 6, below - 6) for dx in (right, left)]
        boxes = [Bbox.from_bounds(x + dx, y + dy, width, DIGIT[1]) for dx, dy in places]
        # where all is full, numbers lie on others
        free = [i for i, box in enumerate(boxes) if not _meets_any(box, taken)]
        place = free[0] if free else 0
        taken.append(boxes[place])
        axis.annotate(
            text,
            (row["x"], row["value"]),
            places[place],
            textcoords="offset points",
            fontsize=6.5,
            color=look.ink,
        )


def _meets_any(box: Bbox, others: Sequence[Bbox]) -> bool:
    return any(box.overlaps(other) for other in others)


def _draw_key(figure: Figure, methods: dict[str, Look]) -> None:
    """Numbers and names in three columns below the panels."""
    names = [f"{i + 1} {look.label}" for i, look in enumerate(methods.values())]
    figure.legend(
        # a legend asks for handles: invisible ones, of length 0, leave the names alone
        [Line2D([], []) for _ in names],
        names,
        loc="outside lower left",
        ncols=3,
        fontsize=7,
        handlelength=0,
        handletextpad=0,
        labelcolor=[look.ink for look in methods.values()],
    )
