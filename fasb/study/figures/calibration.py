"""Calibration: how often answers end up false where p says so, by position in the unsteered answer.

position                  `question` (its end), `1-5`, `6-10`, … (tokens), `answer` (its end)
part: `bin`               x: mean p of a tenth of a fold's states (of fewer than 100, of a tenth
                          as many bins as states), value: share of false answers
part: `ece`, `auc`        expected calibration error, area under the ROC curve
part: `middle`            share of states whose p lies where the paper's Figure 1 finds it
n                         answers that reach the position
All are means over folds, split seeds and worlds: `folds` says over how many, `left_out` how many
have no such number, as an AUC of answers of one verdict.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasb.metrics.calibration import reliability
from fasb.study.cells import Cell
from fasb.study.escaping import DASH
from fasb.study.figures.drawing import (
    DASHED,
    chance_line,
    groups,
    panels,
    readable,
    shade_intervals,
    side_label,
)
from fasb.study.figures.numbers import (
    Row,
    TrackedAnswers,
    area_of,
    bars,
    named_groups,
    parts_told,
    sizes,
    tracked,
    tracked_answers,
)
from fasb.study.styles import MethodStyle

TITLE = "Whether p is a probability"
EMPTY_CAPTION = "No tracked answers in this study."
EMPTY_PICTURE = "no tracked answers"
WINDOW = 5
"""Tokens that are looked at together along an answer."""
MOST_BINS = 10
MIDDLE = (0.3, 0.5)
"""Where the paper's Figure 1 finds p before the answer."""
ENOUGH = 20
"""Answers that a window needs to be shown, on average in a fold of a split seed."""
IN_BIN = 10
"""States that a bin holds at least, so that few answers are cut into fewer than ten bins."""
ENDS = ("question", "answer")
SHADES = {
    "question": ("question", "#9ECAE1", "o"),
    "1-5": (f"tokens 1{DASH}5", "#4A98C9", "s"),
    "answer": ("answer's end", "#08306B", "^"),
}
"""Positions of the left panel, from light to dark as the answer grows."""
CURVES = {"auc": ("AUC", "#0072B2", "o", "-"), "ece": ("ECE", "#D55E00", "s", DASHED)}


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the study's first gated method."""
    return answer_rows(tracked(cells, files, styles))


def answer_rows(frame: pd.DataFrame, n_draws: int = 500) -> pd.DataFrame:
    """Return the rows of one method's unsteered answers (`numbers.with_verdicts`)."""
    made: list[Row] = []
    for found in tracked_answers(frame):
        for order, (position, at, p) in enumerate(_positions(found.p)):
            n = len(np.unique(at))
            # few answers are that long, and they are not like the others
            if n < ENOUGH * found.n_parts and position not in ENDS:
                continue
            for row in _calibration(found, at, p, n_draws):
                made.append(found.about | {"position": position, "order": order, "n": n} | row)
    return pd.DataFrame(made)


def _positions(
    answers: Sequence[Float[np.ndarray, " _"]],
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each position with its states: number of the answer, and p."""
    # p[0] is the state of the question's end, p[j] that of token j
    number = np.arange(len(answers))
    yield "question", number, np.array([p[0] for p in answers])
    for first in range(1, max(map(len, answers)), WINDOW):
        windows = [p[first : first + WINDOW] for p in answers]
        at = np.repeat(number, [len(window) for window in windows])
        yield f"{first}-{first + WINDOW - 1}", at, np.concatenate(windows)
    yield "answer", number, np.array([p[-1] for p in answers])


def _calibration(
    found: TrackedAnswers,
    at: Int[np.ndarray, " state"],
    p: Float[np.ndarray, " state"],
    n_draws: int,
) -> Iterator[Row]:
    wrong = found.wrong[at]
    fewest = np.unique(found.part[at], return_counts=True)[1].min()
    n_bins = int(np.clip(fewest // IN_BIN, 1, MOST_BINS))

    def of(
        inside: Int[np.ndarray, " state"], weight: Float[np.ndarray, "draw state"]
    ) -> np.ndarray:
        bins = reliability(p[inside], wrong[inside], weight, n_bins)
        middle = (p[inside] >= MIDDLE[0]) & (p[inside] <= MIDDLE[1])
        # a draw may leave out all of a part's answers that are so long
        with np.errstate(invalid="ignore"):
            share = weight @ middle / weight.sum(1)
            return np.column_stack([bins.p, bins.wrong, bins.error, share])

    *numbers, error, middle = found.mean_over_parts(at, of, n_draws)
    for x, share in zip(numbers[:n_bins], numbers[n_bins:], strict=True):
        yield {"part": "bin", "x": x["value"], **share}
    yield {"part": "ece", **error}
    (area,) = found.mean_over_parts(at, area_of(p, wrong), n_draws)
    yield {"part": "auc", **area}
    yield {"part": "middle", **middle}


def caption(rows: pd.DataFrame) -> str:
    """Return how far p is from how often answers go wrong, before and after they are written."""
    ends = rows[rows["position"].isin(ENDS) & (rows["part"] != "bin")]
    told = []
    for title, part in named_groups(ends):
        value = part.set_index(["part", "position"])["value"]
        ece = [value.get(("ece", end), np.nan) for end in ENDS]
        middle = [value.get(("middle", end), np.nan) for end in ENDS]
        told.append(
            f"{title}: ECE {ece[0]:.2f} and {ece[1]:.2f}, p between .3 and .5 for "
            f"{middle[0]:.0%} and {middle[1]:.0%}"
        )
    return (
        f"What p of {rows['label'].iloc[0]}'s tracker is worth as a probability, at the question's "
        f"and the answer's end ({'; '.join(told)}). Left: share of unsteered test answers that the "
        "judge finds false, in at most ten bins of equal count; the diagonal is calibrated. Right: "
        f"AUC (solid) and ECE (dashed) by position. {parts_told(rows)} {sizes(rows)} {bars(rows)} "
        "ECE is never negative, so it and its interval lie too high where bins are small, as a "
        "fold's are."
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return two panels for each comparison: reliability, and AUC and ECE along the answer."""
    found = groups(rows)
    height = 0.4 + 1.9 * len(found)
    figure, grid = panels(height, len(found), 2, width_ratios=(1, 1.6))
    for (title, part), axes in zip(found, grid, strict=True):
        _draw_reliability(axes[0], part)
        _draw_positions(axes[1], part)
        axes[0].set_ylabel(side_label(title, "share of false answers"))
    grid[-1][0].set_xlabel("$p$")
    grid[-1][1].set_xlabel("tokens of the answer")
    return figure


def _draw_reliability(axis: Axes, rows: pd.DataFrame) -> None:
    axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.6, zorder=0)
    bins = rows[rows["part"] == "bin"]
    for position, (name, shade, marker) in SHADES.items():
        part = bins[bins["position"] == position].sort_values("x")
        axis.vlines(part["x"], part["low"], part["high"], color=shade, linewidth=0.5)
        axis.plot(
            part["x"],
            part["value"],
            color=shade,
            marker=marker,
            markersize=3,
            linewidth=1.0,
            label=name,
        )
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.legend(fontsize=7, frameon=False, loc="lower right", handlelength=1.2, borderaxespad=0.1)


def _draw_positions(axis: Axes, rows: pd.DataFrame) -> None:
    positions = rows.drop_duplicates("order").sort_values("order")["position"].tolist()
    for name, (title, shade, marker, dash) in CURVES.items():
        part = rows[rows["part"] == name].sort_values("order")
        x = part["position"].map(positions.index)
        shade_intervals(axis, x, part, shade, 0.18)
        axis.plot(x, part["value"], color=shade, marker=marker, linestyle=dash)
        known = part["value"].notna()
        if known.any():
            axis.annotate(
                title,
                (x[known].iloc[-1], part["value"][known].iloc[-1]),
                (5, 0),
                textcoords="offset points",
                fontsize=8,
                color=readable(shade),
                va="center",
                annotation_clip=False,
            )
    chance_line(axis)
    axis.set(ylim=(0, 1.02), yticks=[0, 0.5, 1], xlim=(-0.3, len(positions) - 0.7))
    names = [name.replace("-", DASH) for name in positions]
    axis.set_xticks(range(len(names)), names, fontsize=7, rotation=30 if len(names) > 6 else 0)
