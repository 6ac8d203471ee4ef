"""Lookahead: how early p tells that an unsteered answer will be judged false.

written        tokens of the answer that are there: `0` (the question alone), `1`, `2`, …, `end`
auc: value, low, high, n      area under the ROC curve, a mean over folds, split seeds and worlds;
                              of the n answers that are so long; `folds` is how many are in it,
                              `left_out` how many are not: their answers have one verdict
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fasb.study.cells import Cell
from fasb.study.figures.drawing import (
    DASHES,
    MARKERS,
    chance_line,
    groups,
    panels,
    readable,
    shade_intervals,
)
from fasb.study.figures.numbers import (
    Row,
    area_of,
    bars,
    named_groups,
    parts_told,
    sizes,
    tracked,
    tracked_answers,
)
from fasb.study.styles import MethodStyle

TITLE = "How early p knows"
EMPTY_CAPTION = "No tracked answers in this study."
EMPTY_PICTURE = "no tracked answers"
WRITTEN = (0, 1, 2, 4, 8, 16, 32)
END = "end"
ENOUGH = 20
"""Answers that a place needs to be shown, on average in a fold of a split seed."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")


def rows(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of the study's first gated method."""
    return answer_rows(tracked(cells, files, styles))


def answer_rows(frame: pd.DataFrame, n_draws: int = 500) -> pd.DataFrame:
    """Return the rows of one method's unsteered answers (`numbers.with_verdicts`)."""
    made: list[Row] = []
    for found in tracked_answers(frame):
        for order, (written, at) in enumerate(_places(found.p)):
            if len(at) < ENOUGH * found.n_parts:
                continue
            # state j is that of j written tokens
            p = np.array([found.p[i][-1 if written == END else int(written)] for i in at])
            (area,) = found.mean_over_parts(at, area_of(p, found.wrong[at]), n_draws)
            made.append(found.about | {"written": written, "order": order, "n": len(at)} | area)
    return pd.DataFrame(made)


def _places(states: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each number of tokens with the answers that are longer; last, all at their end."""
    # states are one more than tokens; an answer that ends at n is counted at `end` alone
    length = np.array([len(p) - 1 for p in states])
    for n in WRITTEN:
        yield str(n), np.flatnonzero(length > n)
    yield END, np.arange(len(states))


def caption(rows: pd.DataFrame) -> str:
    """Return what is known before the answer and at its end."""
    told = []
    for title, part in named_groups(rows):
        value = part.set_index(part["written"].astype(str))["value"]
        known = [value.get(written, np.nan) for written in ("0", END)]
        told.append(f"{title}: {known[0]:.2f} before the answer, {known[1]:.2f} at its end")
    return (
        f"How well p of {rows['label'].iloc[0]}'s tracker tells unsteered test answers that the "
        f"judge finds false from others, by the tokens that are written (AUC; {'; '.join(told)}). "
        "Before the end only answers that go on are counted: the places differ in their answers. "
        f"{parts_told(rows)} "
        f"{sizes(rows)} {bars(rows)}"
    )


def draw(rows: pd.DataFrame) -> Figure:
    """Return one line for each comparison."""
    found = groups(rows)
    places = rows.drop_duplicates("order").sort_values("order")["written"].astype(str).tolist()
    figure, ((axis,),) = panels(2.2, 1, 1, 3.6)
    for i, (title, part) in enumerate(found):
        colour, part = COLOURS[i % len(COLOURS)], part.sort_values("order")
        x = part["written"].astype(str).map(places.index)
        shade_intervals(axis, x, part, colour, 0.15)
        axis.plot(
            x,
            part["value"],
            color=colour,
            linestyle=DASHES[i % len(DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=3.5,
            label=title,
        )
    chance_line(axis)
    axis.set_xticks(range(len(places)), places)
    axis.set(ylim=(0.3, 1.02), xlabel="tokens of the answer", ylabel="AUC")
    if len(found) > 1:
        key = axis.legend(fontsize=7, frameon=False, loc="lower right")
        for i, text in enumerate(key.get_texts()):
            text.set_color(readable(COLOURS[i % len(COLOURS)]))
    return figure
