"""Figure 1: p at the question's end, along the answer, and at its end, by the answer's verdict.

part: `question_end`, `answer_end`    value: share of the verdict's answers in the bin at x
part: `along`                         value: mean p at position x of the answer
part: `auc`                           x: 0 the question's end, 1 the answer's; `folds`: in the mean,
                                      `left_out`: not, as their answers have one verdict
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fasb.metrics.statistics import intervals, resample
from fasb.study.cells import Cell
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
    by_group,
    named_groups,
    parts_told,
    scaled,
    sizes,
    tracked,
)
from fasb.study.measures import TRUE
from fasb.study.panels import panel_of
from fasb.study.styles import MethodStyle

TITLE = "What the tracker sees (Figure 1)"
EMPTY_CAPTION = "No tracked answers in this study."
EMPTY_PICTURE = "no tracked answers"
POSITIONS = np.linspace(0, 1, 11)
"""Where along an answer p is averaged: 0 is the end of the question, 1 the end of the answer."""
BINS = np.linspace(0, 1, 21)
ENDS = {"question_end": 0, "answer_end": -1}
"""The outer panels, and the state whose p they show."""
VERDICTS = {"true": ("#0072B2", "-"), "false": ("#D55E00", DASHED)}


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the study's first gated method."""
    return answer_rows(tracked(cells, files, styles))


def answer_rows(frame: pd.DataFrame, n_draws: int = 1000) -> pd.DataFrame:
    """Return the rows of one method's unsteered answers (`numbers.with_verdicts`)."""
    made: list[Row] = []
    for about, part in by_group(frame):
        about |= {"method": part["method"].iloc[0], "answers": len(part)}
        for row in _group_rows(part, n_draws):
            made.append(about | row)
    return pd.DataFrame(made)


def _group_rows(rows: pd.DataFrame, n_draws: int) -> Iterator[Row]:
    found = TrackedAnswers.of({}, rows)
    for name, state in ENDS.items():
        at = rows["p"].map(lambda p, state=state: p[state])
        yield from _histograms(at, rows[TRUE.name], name)
        of = area_of(at.to_numpy(np.float64), found.wrong)
        (area,) = found.mean_over_parts(np.arange(len(rows)), of, n_draws)
        # state 0 is the question's end, state -1 the answer's
        yield {"part": "auc", "verdict": "all", "x": -state, **area}
    yield from _means_along(rows, n_draws)


def _histograms(p: pd.Series, true: pd.Series, part: str) -> Iterator[Row]:
    centres = (BINS[:-1] + BINS[1:]) / 2
    for name, mask in (("true", true), ("false", ~true)):
        count, _ = np.histogram(p[mask], BINS)
        for x, share in zip(centres, count / max(count.sum(), 1), strict=True):
            yield {"part": part, "verdict": name, "x": x, "value": share}


def _means_along(rows: pd.DataFrame, n_draws: int) -> Iterator[Row]:
    """Mean p at each position, of answers that are true and of those that are false."""
    at = np.empty((len(rows), len(POSITIONS)))
    for i, p in enumerate(rows["p"]):
        at[i] = np.interp(POSITIONS, np.linspace(0, 1, len(p)), p) if len(p) > 1 else p[0]
    names = [f"at{i}" for i in range(len(POSITIONS))]
    keyed = rows[["model", "dataset", "seed", "fold", "question", "group"]].assign(
        method=np.where(rows[TRUE.name], "true", "false")
    )
    wide = pd.concat([keyed, pd.DataFrame(at, columns=names, index=rows.index)], axis=1)
    values = wide.groupby(list(keyed.columns), as_index=False, sort=False).mean()
    present = [name for name in VERDICTS if (values["method"] == name).any()]
    panel = panel_of(values, present, names)
    found = intervals(panel, resample(panel, n_draws))
    for i, name in enumerate(present):
        for j, x in enumerate(POSITIONS):
            place = {"part": "along", "verdict": name, "x": x, "over": panel.over}
            yield place | scaled(found, (i, j))


def caption(rows: pd.DataFrame) -> str:
    """Return how well p tells false from true answers before and after they are written."""
    told, clear = [], True
    for title, part in named_groups(rows[rows["part"] == "auc"]):
        before, behind = part.set_index("x")["value"].reindex([0, 1])
        clear &= bool(behind > 0.75 and before < 0.65)
        if pd.notna(before) and pd.notna(behind):
            told.append(f"{title}: AUC {before:.2f} and {behind:.2f}")
    clear &= bool(told)
    opening = (
        "Whether an answer will be false shows while it is written, hardly before"
        if clear
        else "What the tracker knows at the end of the question and at the end of the answer"
    )
    return (
        f"{opening} ({'; '.join(told) or 'no AUC: answers of one verdict only'}). p of "
        f"{rows['label'].iloc[0]}'s tracker over unsteered test answers that the judge finds true "
        "(blue, solid) and false (red, dashed); middle: mean along the answer. "
        f"{parts_told(rows)} {sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return three panels for each comparison: before, along, after the answer."""
    found = groups(rows)
    height = 0.35 + 1.45 * len(found)
    figure, grid = panels(height, len(found), 3, width_ratios=(1, 1.25, 1))
    # both outer panels share their scale: the change from one to the other is the point
    top = 1.12 * rows[rows["part"].isin(ENDS)]["value"].max()
    for (title, part), axes in zip(found, grid, strict=True):
        _draw_shares(axes[0], part, "question_end", top)
        _draw_along(axes[1], part)
        _draw_shares(axes[2], part, "answer_end", top)
        axes[0].set_ylabel(side_label(title, "share of answers"))
    grid[-1][0].set_xlabel("$p$ at the question's end")
    grid[-1][1].set_xlabel("position in the answer")
    grid[-1][2].set_xlabel("$p$ at the answer's end")
    return figure


def _draw_shares(axis: Axes, rows: pd.DataFrame, panel: str, top: float) -> None:
    """Two outlined histograms on one axis, the area under the curve written above them."""
    for verdict, (colour, dash) in VERDICTS.items():
        part = rows[(rows["part"] == panel) & (rows["verdict"] == verdict)]
        edges = np.linspace(0, 1, len(part) + 1)
        axis.stairs(part["value"], edges, fill=True, color=colour, alpha=0.18)
        axis.stairs(part["value"], edges, color=colour, linestyle=dash, linewidth=1.0)
    at = rows[(rows["part"] == "auc") & (rows["x"] == -ENDS[panel])].iloc[0]
    axis.text(
        0.5,
        0.97,
        _area_text(at),
        transform=axis.transAxes,
        fontsize=7.5,
        color="#333333",
        ha="center",
        va="top",
    )
    axis.set(xlim=(0, 1), ylim=(0, top * 1.12), xticks=[0, 0.5, 1])


def _area_text(at: pd.Series) -> str:
    if np.isnan(at["value"]):
        return ""
    text = f"AUC {at['value']:.2f}"
    return text if np.isnan(at["low"]) else f"{text} [{at['low']:.2f}, {at['high']:.2f}]"


def _draw_along(axis: Axes, rows: pd.DataFrame) -> None:
    ends = {}
    for verdict, (colour, dash) in VERDICTS.items():
        part = rows[(rows["part"] == "along") & (rows["verdict"] == verdict)]
        if part.empty:
            continue
        shade_intervals(axis, part["x"], part, colour, 0.2)
        axis.plot(part["x"], part["value"], color=colour, linestyle=dash)
        ends[verdict] = part["value"].iloc[-1]
    chance_line(axis)
    # room for a name below 0
    axis.set(xlim=(0, 1), ylim=(-0.16, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.set_ylabel("mean $p$", labelpad=1)
    for verdict, y in ends.items():
        above = y == max(ends.values())
        axis.annotate(
            verdict,
            (1, y),
            (-1, 5 if above else -5),
            textcoords="offset points",
            color=readable(VERDICTS[verdict][0]),
            fontsize=8,
            ha="right",
            va="bottom" if above else "top",
        )
