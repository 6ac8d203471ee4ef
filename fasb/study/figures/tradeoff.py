"""Trade-off: True against Info along alpha on validation questions, and as tuned on test questions.

part                                `validation`, `test`
alpha                               of validation; the other settings as in `numbers.along`
true, true_low, true_high, info, …  percent; over worlds from three on, on test questions else
                                    over questions
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from fasb.metrics.statistics import intervals, resample
from fasb.study.cells import Cell
from fasb.study.figures.drawing import WIDTH, Keywords, Look, groups, looks, panels
from fasb.study.figures.numbers import (
    Row,
    along,
    bars,
    by_group,
    mean_over_worlds,
    named_groups,
    scaled,
    sizes,
)
from fasb.study.measures import INFO, TRUE, TRUE_INFO
from fasb.study.panels import Comparison, comparisons, read_cells
from fasb.study.styles import MethodStyle, names_of

TITLE = "True against Info"
EMPTY_CAPTION = "No generated answers in this study."
EMPTY_PICTURE = "no answers"
AXES = (TRUE, INFO)
BOTH = [measure.name for measure in AXES]
MOST = 8
"""Methods that can be told apart in one plane; more have a plane each."""
COLUMNS = 5


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the main methods."""
    grid = read_cells(cells, files, "grid.parquet")
    metrics = read_cells(cells, files, "metrics.parquet")
    return plane_rows(grid, metrics, names_of(styles, "main"))


def plane_rows(
    grid: pd.DataFrame, metrics: pd.DataFrame, methods: Sequence[str], n_draws: int = 1000
) -> pd.DataFrame:
    """Return the rows of some methods, from all cells' grids and metrics."""
    found: list[Row] = []
    for about, of_group in by_group(grid):
        for method in methods:
            # what tuning looked at when it weighed strength, all else as it chose
            line = along(of_group[of_group["method"] == method], "alpha")
            for alpha, there in line.groupby("alpha"):
                row = about | {"method": method, "part": "validation", "alpha": alpha}
                for measure in AXES:
                    mean = mean_over_worlds(there, measure.name, measure.scale)
                    row |= _named(measure.name, mean) | {"over": mean["over"]}
                found.append(row)
    for comparison in comparisons(metrics, methods):
        found += _test_rows(comparison, n_draws)
    frame = pd.DataFrame(found)
    # of a dataset without a judge, or whose judge gives one score, nothing lies in the plane
    return frame.dropna(subset=BOTH) if found else frame


def _test_rows(comparison: Comparison, n_draws: int) -> Iterator[Row]:
    panel = comparison.panel
    found = intervals(panel, resample(panel, n_draws))
    for i, method in enumerate(panel.methods):
        row = comparison.about | {"method": method, "part": "test", "alpha": np.nan}
        for measure in AXES:
            at = (i, panel.columns.index(measure.name))
            row |= _named(measure.name, scaled(found, at, measure.scale))
        yield row


def _named(name: str, mean: Row) -> Row:
    return {name: mean["value"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}


def caption(rows: pd.DataFrame) -> str:
    """Return where the tuned methods end."""
    test = rows[rows["part"] == "test"]
    told = []
    for title, part in named_groups(test):
        points = []
        for row in part.to_dict("records"):
            points.append(f"{row['label']} {row[TRUE.name]:.0f} / {row[INFO.name]:.0f}")
        told.append(f"{title}: {', '.join(points)}")
    others = " Grey points: the other methods." if _is_crowded(test) else ""
    return (
        f"True / Info on test questions: {'; '.join(told)}. Small markers: along alpha on "
        "validation questions, the other settings as tuned, or as is best there among what steers; "
        f"large markers: tuned, on test questions. Grey lines: equal {TRUE_INFO.title}."
        f"{others} {sizes(test)} {bars(test)}"
    )


def _is_crowded(rows: pd.DataFrame) -> bool:
    """Return whether a comparison tests more methods than one plane can hold."""
    tested = rows[rows["part"] == "test"]
    return bool((tested.groupby(["model", "dataset"])["method"].nunique() > MOST).any())


def draw(rows: pd.DataFrame) -> Figure:
    """Return a plane for each comparison, or where there are many methods for each of them."""
    found = groups(rows)
    if _is_crowded(rows):
        return _draw_each(found, looks(rows), [_limits(rows, name) for name in BOTH])
    methods, n = looks(rows), len(found)
    n_lines, width = -(-n // 2), WIDTH if n > 1 else 3.6
    figure, grid = panels(2.5 * n_lines, n_lines, min(n, 2), width, sharex=True, sharey=True)
    flat = list(grid.ravel())
    limits = [_limits(rows, name) for name in BOTH]
    for (title, part), axis in zip(found, flat, strict=False):
        _draw_plane(axis, part, limits, methods)
        axis.text(0.02, 1.02, title, transform=axis.transAxes, fontsize=8.5)
        axis.set_xlabel("True (%)")
    tested = set(rows[rows["part"] == "test"]["method"])
    _draw_key(flat[0], [look for name, look in methods.items() if name in tested])
    for axis in flat[n:]:
        axis.set_axis_off()
    for line in grid:
        line[0].set_ylabel("Info (%)")
    return figure


def _draw_each(
    found: list[tuple[str, pd.DataFrame]],
    methods: dict[str, Look],
    limits: list[tuple[float, float]],
) -> Figure:
    """Return small planes of one method each, five side by side, the other methods in grey."""
    planes = []
    for title, part in found:
        tested = set(part[part["part"] == "test"]["method"])
        planes += [(title, part, name) for name in methods if name in tested]
    n_lines = -(-len(planes) // COLUMNS)
    figure, grid = panels(0.3 + 1.1 * n_lines, n_lines, COLUMNS, sharex=True, sharey=True)
    flat = list(grid.ravel())
    for (title, part, name), axis in zip(planes, flat, strict=False):
        others = part[(part["part"] == "test") & (part["method"] != name)]
        axis.plot(others[TRUE.name], others[INFO.name], ".", color="#BBBBBB", markersize=2)
        _draw_plane(axis, part[part["method"] == name], limits, methods, step=20)
        label = f"{title}\n{methods[name].label}" if title else methods[name].label
        axis.set_title(label, fontsize=7, color=methods[name].ink)
    for i, axis in enumerate(flat):
        if i >= len(planes):
            axis.set_axis_off()
        # the lowest of its column
        elif i + COLUMNS >= len(planes):
            axis.tick_params(labelbottom=True)
    figure.supxlabel("True (%)", fontsize=9)
    figure.supylabel("Info (%)", fontsize=9)
    return figure


def _limits(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Limits that hold every point and interval, the same for all panels."""
    held = rows[[name, f"{name}_low", f"{name}_high"]].to_numpy(np.float64)
    return max(np.nanmin(held) - 5, 0.0), min(np.nanmax(held) + 4, 101.5)


def _draw_plane(
    axis: Axes,
    rows: pd.DataFrame,
    limits: list[tuple[float, float]],
    methods: dict[str, Look],
    step: int = 10,
) -> None:
    axis.set(xlim=limits[0], ylim=limits[1])
    _draw_products(axis, step)
    for method, part in rows.groupby("method", sort=False):
        look = methods[str(method)]
        line = part[part["part"] == "validation"].sort_values("alpha")
        thin: Keywords = {"alpha": 0.5, "linewidth": 1.0, "markersize": 2.5}
        axis.plot(line[TRUE.name], line[INFO.name], **look.line, **thin)
        for test in part[part["part"] == "test"].to_dict("records"):
            _draw_cross(axis, test, look)


def _draw_cross(axis: Axes, at: dict[str, Any], look: Look) -> None:
    """Draw a tuned method's test result with its intervals in both directions."""
    x, y = at[TRUE.name], at[INFO.name]
    bar: Keywords = {"color": look.colour, "linewidth": 0.9}
    axis.hlines(y, at[f"{TRUE.name}_low"], at[f"{TRUE.name}_high"], **bar)
    axis.vlines(x, at[f"{INFO.name}_low"], at[f"{INFO.name}_high"], **bar)
    axis.plot(x, y, look.marker, color=look.colour, markersize=6, markeredgecolor="white", zorder=5)


def _draw_products(axis: Axes, step: int) -> None:
    """Lines of equal True*Info, named where they leave the plane on the right."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    # from 1 on: at 0 a product's line has no place
    true = np.linspace(max(left, 1), right, 200)
    for product in range(step, 100, step):
        info = 100 * product / true
        axis.plot(true, info, color="#DDDDDD", lw=0.6, zorder=0, scalex=False, scaley=False)
        if bottom + 2 < info[-1] < top - 2:
            axis.annotate(
                str(product),
                (right, info[-1]),
                (2, 0),
                textcoords="offset points",
                fontsize=6.5,
                color="#767676",
                va="center",
                annotation_clip=False,
            )


def _draw_key(axis: Axes, methods: Sequence[Look]) -> None:
    """Markers and names in the lower left; the points lie too close together to be named there."""
    for i, look in enumerate(reversed(methods)):
        y = 8 + 10.5 * i
        axis.annotate(
            look.label,
            (0, 0),
            (16, y),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8,
            color=look.ink,
            va="center",
        )
        # in points from the corner, like the names beside them, however large the plane is
        offset = ScaledTranslation(9 / 72, y / 72, axis.figure.dpi_scale_trans)
        axis.plot(
            0,
            0,
            look.marker,
            color=look.colour,
            markersize=5,
            markeredgecolor="white",
            transform=axis.transAxes + offset,
            scalex=False,
            scaley=False,
        )
