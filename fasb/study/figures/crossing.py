"""Crossing: what each vector gains under each gate, as a plane of numbers.

row, column            the vector and the gate, as a method's `crossed` names them
metric, value, low, high, difference, p_holm, baseline_value    as in the table `crossing`, percent
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from fasb.study.cells import Cell
from fasb.study.escaping import DAGGER
from fasb.study.figures.drawing import WIDTH, groups, literal, panels, side_label
from fasb.study.figures.numbers import bars, named_groups, sizes
from fasb.study.measures import MEASURES, headline
from fasb.study.panels import read_cells
from fasb.study.printing import SIGNIFICANT
from fasb.study.styles import MethodStyle
from fasb.study.tables import table_rows

TITLE = "Every vector under every gate"
EMPTY_CAPTION = "No crossing in this study."
EMPTY_PICTURE = "no crossing"
COLOURS = "RdBu"
"""Worse than unsteered is red, better blue, equal white."""


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of all methods in a crossing, of each comparison's first measure with values.

    Where nothing is judged, that is accuracy.
    """
    places = {style.name: style.crossed for style in styles if style.crossed is not None}
    if not places or not cells:
        return pd.DataFrame()
    found = table_rows(read_cells(cells, files, "metrics.parquet"), "crossing", styles, "")
    known = found[found["value"].notna()]
    known = pd.concat([_headline(part) for _, part in known.groupby(["model", "dataset"])])
    known = known.sort_index()
    shown = known[known["method"].isin(list(places))]
    plain = known[known["method"] == known["baseline"]]
    base = plain.set_index(["model", "dataset"])["value"]
    at = pd.MultiIndex.from_frame(shown[["model", "dataset"]])
    columns = ["model", "dataset", "questions", "worlds", "seeds", "over", "method", "metric"]
    columns += ["value", "low", "high", "difference", "p_holm", "baseline_label"]
    return shown[columns].assign(
        baseline_value=base.reindex(at).to_numpy(),
        row=[places[name][0] for name in shown["method"]],
        column=[places[name][1] for name in shown["method"]],
    )


def _headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one comparison's first measure."""
    measure = headline(set(rows["metric"]))
    return rows[:0] if measure is None else rows[rows["metric"] == measure.name]


def caption(rows: pd.DataFrame) -> str:
    """Return the best place of each comparison, and how many differ from the unsteered model."""
    titles, told = [MEASURES[name].title for name in rows["metric"].unique()], []
    for title, part in named_groups(rows):
        best = part.loc[part["value"].idxmax()]
        marked = int((part["p_holm"] < SIGNIFICANT).sum())
        measure = f"{MEASURES[best['metric']].title}, " if len(titles) > 1 else ""
        told.append(
            f"{title}: {measure}best {best['row']}, {best['column']} ({best['value']:.1f}; "
            f"unsteered {best['baseline_value']:.1f}), {marked} of {len(part)} marked"
        )
    return (
        f"{' or '.join(titles)} of every vector (rows) under every gate (columns) on test "
        f"questions, each tuned on validation questions: {'; '.join(told)}. Small: 95 % interval. "
        f"{DAGGER}: differs from the unsteered model, p < {SIGNIFICANT} after Holm's correction "
        f"over all of it. Blue is better than unsteered, red worse. {sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return a plane of numbers for each comparison."""
    found = groups(rows)
    sources, gates = (rows[key].drop_duplicates().tolist() for key in ("row", "column"))
    # one scale for all planes; at least a point, as matplotlib refuses a norm without width
    gaps = (rows["value"] - rows["baseline_value"]).abs().max()
    norm = TwoSlopeNorm(0.0, -max(gaps, 1.0), max(gaps, 1.0))
    height = 0.75 + len(found) * (0.15 + 0.36 * len(sources))
    figure, grid = panels(height, len(found), 1, WIDTH)
    for (title, part), (axis,) in zip(found, grid, strict=True):
        _draw_plane(axis, part, sources, gates, norm)
        axis.set_ylabel(side_label(title, "vector" + _measure_of(part, rows)))
    grid[0][0].xaxis.tick_top()
    heads = [literal(gate).replace(", ", "\n") for gate in gates]
    grid[0][0].set_xticks(range(len(gates)), heads)
    return figure


def _measure_of(part: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Return a plane's measure in brackets, where planes have several."""
    if rows["metric"].nunique() == 1:
        return ""
    return f" ({MEASURES[part['metric'].iloc[0]].title})"


def _draw_plane(
    axis: Axes, rows: pd.DataFrame, sources: list[str], gates: list[str], norm: TwoSlopeNorm
) -> None:
    gain = np.full((len(sources), len(gates)), np.nan)
    for row in rows.to_dict("records"):
        y, x = sources.index(row["row"]), gates.index(row["column"])
        gain[y, x] = row["value"] - row["baseline_value"]
        mark = DAGGER if row["p_holm"] < SIGNIFICANT else ""
        # both ends of the colour map are too dark for black
        dark = abs(norm(gain[y, x]) - 0.5) > 0.35
        ink = "white" if dark else "black"
        axis.text(x, y - 0.16, f"{row['value']:.0f}{mark}", ha="center", va="center", color=ink)
        if pd.notna(row["low"]):
            between = f"{row['low']:.0f} to {row['high']:.0f}"
            axis.text(x, y + 0.25, between, ha="center", va="center", color=ink, fontsize=6.5)
    axis.imshow(gain, cmap=COLOURS, norm=norm, aspect="auto")
    axis.set_yticks(range(len(sources)), [literal(source) for source in sources])
    axis.set_xticks([])
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
