"""What pictures share: the page's style, how a method looks, panels, and names at lines' ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from fasb.study.figures.numbers import named_groups

STYLE = Path(__file__).parents[1] / "paper.mplstyle"
WIDTH = 5.5
"""Inches: the text width of the conference's page."""
MARKERS = "os^DvPX"
DASHED, DOTTED = (0, (4, 1.5)), (0, (1.5, 1.2))
DASHES = ("-", DASHED, "-", DOTTED, (0, (4, 1.5, 1, 1.5)))
"""Marker and dash follow the place in the config, so a method looks the same in all figures."""
READABLE = 4.5
"""Contrast that text on white needs."""
Keywords = dict[str, Any]
"""Looks that are handed to matplotlib."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a method is drawn, and what it is called."""

    label: str
    colour: str
    marker: str
    dash: Any

    @property
    def ink(self) -> str:
        """The colour of its name, dark enough to be read on white."""
        return readable(self.colour)

    @property
    def face(self) -> str:
        """The filling of its markers: white where its line is dashed, to tell two that meet."""
        return self.colour if self.dash == "-" else "white"

    @property
    def line(self) -> Keywords:
        """What makes a line its own."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker}


def looks(rows: pd.DataFrame) -> dict[str, Look]:
    """Return the looks of the methods in some rows, in the config's order."""
    found = {}
    for row in rows.drop_duplicates("method").sort_values("place").to_dict("records"):
        place = int(row["place"])
        marker, dash = MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)]
        found[row["method"]] = Look(literal(row["label"]), row["colour"], marker, dash)
    return found


def literal(text: str) -> str:
    """Return text that matplotlib writes as it is: between two dollars it would read formulas."""
    return text.replace("$", r"\$")


def readable(colour: str) -> str:
    """Return a colour darkened, in its own hue, until text in it can be read on white."""
    darker = to_hex(colour)
    while contrast_on_white(darker) < READABLE:
        red, green, blue = (0.97 * channel for channel in to_rgb(darker))
        darker = to_hex((red, green, blue))
    return darker


def contrast_on_white(colour: str) -> float:
    """Return the contrast ratio of a colour on white (WCAG 2)."""
    rgb = np.asarray([*to_rgb(colour)])
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05))


def panels(
    height: float, n_rows: int, n_columns: int, width: float = WIDTH, **keywords: Any
) -> tuple[Figure, Any]:
    """Return a figure of so many inches, and its axes [row, column]."""
    # not by pyplot, which keeps every figure in memory until it is closed
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **keywords)


def groups(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return each comparison's rows; where there are several, with its name."""
    named = named_groups(rows)
    return named if len(named) > 1 else [("", rows)]


def side_label(title: str, text: str) -> str:
    """Return the label of a row of panels: its comparison above what the axis shows."""
    return f"{title.replace(', ', f',{chr(10)}')}\n{text}" if title else text


def empty(text: str) -> Figure:
    """Return a figure that says that its study has nothing to show in it."""
    figure = Figure(figsize=(WIDTH, 1.5))
    figure.text(0.5, 0.5, f"({text} in this study)", ha="center", va="center")
    return figure


def chance_line(axis: Axes) -> None:
    """Draw what would be without any knowledge: one half."""
    axis.axhline(0.5, color="#999999", linewidth=0.5, zorder=0)


def shade_intervals(
    axis: Axes, x: pd.Series, rows: pd.DataFrame, colour: str, alpha: float
) -> None:
    """Shade the band of a line's intervals."""
    axis.fill_between(x, rows["low"], rows["high"], color=colour, alpha=alpha, linewidth=0)


def end_labels(
    axis: Axes, ends: Mapping[str, float], methods: Mapping[str, Look], height: float
) -> None:
    """Write names right of the lines' ends, moved apart so that none overlaps.

    `height` is the axis' in inches.
    """
    low, high = axis.get_ylim()
    # 9.5 points, a line of text, in units of the axis
    gap = (high - low) * 9.5 / (72 * height)
    y = -np.inf
    for method, value in sorted(ends.items(), key=lambda item: item[1]):
        if np.isnan(value):
            continue
        # from below upwards, each name at least a line above the last
        y = max(value, y + gap)
        axis.annotate(
            methods[method].label,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color=methods[method].ink,
            va="center",
            annotation_clip=False,
        )
