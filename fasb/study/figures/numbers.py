"""What figures' numbers and captions share: grouping, sizes, intervals, tracked answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from fasb.metrics.answers import verdict
from fasb.metrics.calibration import auc, question_weights
from fasb.metrics.statistics import (
    DEFINED,
    ENOUGH_WORLDS,
    Interval,
    mean_of_known,
    t_interval,
)
from fasb.study.cells import Cell
from fasb.study.measures import TRUE
from fasb.study.panels import (
    HYPERPARAMETERS,
    best_setting,
    codes,
    read_cells,
    titled,
    tuned_by,
)
from fasb.study.styles import MethodStyle, first_gated
from fasb.study.worlds import pooled

BARS = {
    "worlds": "over worlds (t)",
    "questions": "over questions (bootstrap), these worlds and what was fitted held fixed",
}
"""What an interval is about, by the column `over`; empty where there is none."""
SHARE = (0.0, 1.0)
"""All that figures show lies in here; a t interval may reach beyond."""
PARTS = (
    "AUC and calibration are taken inside each fold of each split seed, whose probes are its own, "
    "then averaged over folds, seeds and worlds."
)
"""In captions of numbers that `TrackedAnswers.mean_over_parts` gives (`parts_told`)."""
Row = dict[str, Any]
OfPart = Callable[
    [Int[np.ndarray, " state"], Float[np.ndarray, "draw state"]],
    Float[np.ndarray, "draw number"],
]
"""What is reckoned of one part's states: which they are, and how often each counts."""


def by_group(rows: pd.DataFrame) -> list[tuple[Row, pd.DataFrame]]:
    """Return each comparison's rows with what all made of them say: model, dataset and sizes."""
    if rows.empty:
        return []
    keys = [rows["model"].map(pooled), rows["dataset"].map(pooled)]
    found = []
    for (model, dataset), part in rows.groupby(keys, sort=False):
        worlds = len(part[["model", "dataset"]].drop_duplicates())
        sizes = {"worlds": worlds, "seeds": part["seed"].nunique()}
        found.append(({"model": model, "dataset": dataset} | sizes, part))
    return found


def named_groups(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return each comparison's rows with its name; one model may be asked several datasets."""
    found = []
    for (model, dataset), part in rows.groupby(["model", "dataset"], sort=False):
        found.append((titled(str(model), str(dataset)), part))
    return found


def mean_over_worlds(rows: pd.DataFrame, metric: str, scale: float = 1.0) -> Row:
    """Return the mean of worlds' means over seeds and folds, with a t interval from three on.

    All are multiplied by `scale`, for print.
    """
    each = rows.groupby(["model", "dataset", "seed", "fold"])[metric].mean()
    # seeds share their test questions, so they are no sample: averaged first
    worlds = each.groupby(level=[0, 1]).mean().dropna().to_numpy(np.float64)
    if not len(worlds):
        return {"value": np.nan, "low": np.nan, "high": np.nan, "over": ""}
    ((low,), (high,)) = scale * np.clip(t_interval(worlds[:, None]), *SHARE)
    over = "worlds" if len(worlds) >= ENOUGH_WORLDS else ""
    return {"value": scale * worlds.mean(), "low": low, "high": high, "over": over}


def drawn(draws: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """Return an estimate, the first, with the interval of its bootstrap, the others.

    There is no interval where many are undefined.
    """
    known = draws[1:][np.isfinite(draws[1:])]
    enough = len(known) >= DEFINED * (len(draws) - 1)
    low, high = np.quantile(known, [0.025, 0.975]) if enough else (np.nan, np.nan)
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}


def scaled(found: Interval, at: tuple[int, int], scale: float = 1.0) -> dict[str, float]:
    """Return one estimate of a share with its interval, multiplied for print."""
    low, high = np.clip([found.low[at], found.high[at]], *SHARE)
    return {"value": scale * found.value[at], "low": scale * low, "high": scale * high}


def along(grid: pd.DataFrame, knob: str) -> pd.DataFrame:
    """Return of every cell and fold the grid points that differ in `knob` from its best one.

    That is the chosen one; where not to steer was chosen, the best that steers: a mean over the
    others would be of folds in which steering helps.
    """
    keys = ["model", "dataset", "seed", "fold"]
    if knob not in grid or grid[knob].isna().all():
        return grid.iloc[:0]
    known = [key for key in HYPERPARAMETERS if key in grid]
    steers, by = grid[grid[known].notna().any(axis=1)], tuned_by(grid).name
    found = []
    for _, part in steers.groupby(keys, sort=False):
        chosen = part[part["chosen"].astype(bool)]
        found.append(part[part["setting"] == best_setting(part, by)] if chosen.empty else chosen)
    others = [other for other in known if other != knob]
    best = pd.concat(found)[[*keys, *others]]
    # pandas merges NaN with NaN, so what means nothing to both settings is equal
    return grid[grid[knob].notna()].merge(best, on=[*keys, *others])


def tracked(
    cells: Sequence[Cell], files: Sequence[Path], styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the unsteered test answers with p of the study's first gated method and verdicts."""
    generations = read_cells(cells, files, "generations.parquet")
    return with_verdicts(generations, read_cells(cells, files, "judged.parquet"), styles)


@dataclass(frozen=True, slots=True)
class TrackedAnswers:
    """One comparison's unsteered answers: p of every state, whose probes made it, and the verdict.

    part: a fold of a split seed of a world, whose probes are its own: p of two parts is on two
    scales, and never ranked or binned together. group: of questions that are drawn together inside
    a world. wrong: judged false.
    """

    about: Row
    p: list[Float[np.ndarray, " _"]]
    world: Int[np.ndarray, " answer"]
    part: Int[np.ndarray, " answer"]
    group: Int[np.ndarray, " answer"]
    wrong: Bool[np.ndarray, " answer"]

    @classmethod
    def of(cls, about: Row, rows: pd.DataFrame) -> "TrackedAnswers":
        """Return the answers of one comparison's rows."""
        world = codes(rows, "model", "dataset")
        part = codes(rows, "model", "dataset", "seed", "fold")
        group = codes(rows, "model", "dataset", "group")
        p = [np.asarray(states, dtype=np.float64) for states in rows["p"]]
        return cls(about, p, world, part, group, ~rows[TRUE.name].to_numpy(bool))

    @property
    def n_parts(self) -> int:
        """Return how many parts there are."""
        return len(np.unique(self.part))

    def mean_over_parts(self, at: Int[np.ndarray, " state"], of: OfPart, n_draws: int) -> list[Row]:
        """Return numbers of states as means over each world's parts, then over worlds.

        at: whose state each one is. of: takes the numbers of one part's states and their weights,
        and gives its numbers. Intervals are t over worlds from three on; else groups of questions
        are drawn inside each world, the same for its parts. `folds`: parts of which a number is the
        mean; `left_out`: those that have none, as an AUC of answers of one verdict.
        """
        worlds = np.unique(self.world)
        over = "worlds" if len(worlds) >= ENOUGH_WORLDS else "questions"
        found, values = [], []
        for world in worlds:
            group = np.unique(self.group[self.world == world], return_inverse=True)[1]
            drawn_groups = question_weights(group, 0 if over == "worlds" else n_draws, int(world))
            weight = np.zeros((len(drawn_groups), len(self.world)))
            weight[:, self.world == world] = drawn_groups
            parts = []
            for part in np.unique(self.part[self.world == world]):
                inside = np.flatnonzero(self.part[at] == part)
                if len(inside):
                    parts.append(of(inside, weight[:, at[inside]]))
            if parts:
                found.append(mean_of_known(np.stack(parts), 0))
                values += [part[0] for part in parts]
        # [world, draw, number]
        numbers = np.stack(found)
        if over == "questions":
            made = pd.DataFrame([drawn(one) for one in mean_of_known(numbers, 0).T])
        else:
            low, high = np.clip(t_interval(numbers[:, 0]), *SHARE)
            made = pd.DataFrame(
                {"value": mean_of_known(numbers[:, 0], 0), "low": low, "high": high}
            )
        undefined = np.isnan(np.stack(values)).sum(0)
        made = made.assign(over=over, folds=len(values) - undefined, left_out=undefined)
        return made.to_dict("records")


def parts_told(rows: pd.DataFrame) -> str:
    """Return how the numbers of parts were taken together, and which are left out, in a caption."""
    told = []
    # a figure of nothing else has no column `part`
    areas = rows[rows["part"] == "auc"] if "part" in rows else rows
    for title, part in named_groups(areas[areas["left_out"] > 0]):
        most = part.loc[part["left_out"].idxmax()]
        told.append(f"{title}: {most['left_out']:.0f} of {most['left_out'] + most['folds']:.0f}")
    if not told:
        return PARTS
    return (
        f"{PARTS} A fold whose answers have all one verdict has no AUC and is not in its mean "
        f"(at most, {'; '.join(told)})."
    )


def area_of(p: Float[np.ndarray, " state"], wrong: Bool[np.ndarray, " state"]) -> OfPart:
    """Return what reckons the area under the ROC curve of a part's states."""
    return lambda inside, weight: auc(p[inside], wrong[inside], weight)[:, None]


def tracked_answers(frame: pd.DataFrame) -> Iterator[TrackedAnswers]:
    """Yield each comparison of one method's unsteered answers (`with_verdicts`)."""
    for about, part in by_group(frame):
        about |= {"method": part["method"].iloc[0], "answers": len(part)}
        yield TrackedAnswers.of(about, part)


def with_verdicts(
    generations: pd.DataFrame, judged: pd.DataFrame, styles: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the answers of the first gated method that has p, with their verdict `true`."""
    keys = ["model", "dataset", "seed", "question"]
    has_p = generations[generations["p"].map(len) > 0]
    known = set(has_p["method"])
    method = first_gated([style for style in styles if style.name in known])
    if method is None or TRUE.name not in judged:
        return pd.DataFrame(columns=[*keys, "group", "method", "fold", "p", TRUE.name])
    said = judged.drop_duplicates([*keys, "answer"])[[*keys, "answer", TRUE.name]]
    # beside a dataset with such a judge another may have none
    said = said.dropna(subset=[TRUE.name]).rename(columns={"answer": "trace_answer"})
    found = has_p[has_p["method"] == method].merge(said, on=[*keys, "trace_answer"])
    return found.assign(**{TRUE.name: verdict(found[TRUE.name].to_numpy(np.float64))})


def bars(rows: pd.DataFrame) -> str:
    """Return what bars and bands hold, in a caption."""
    told = [text for over, text in BARS.items() if (rows["over"] == over).any()]
    if not told:
        return f"No intervals: there are fewer than {ENOUGH_WORLDS} worlds."
    return f"Bars and bands: 95 % intervals {'; or '.join(told)}."


def sizes(rows: pd.DataFrame) -> str:
    """Return worlds and split seeds of each comparison, and its n where the rows have it."""
    told = []
    for title, part in named_groups(rows):
        first = part.iloc[0]
        counts = [_count(int(first["worlds"]), "world"), _count(int(first["seeds"]), "split seed")]
        for what in ("answers", "questions"):
            if pd.notna(first.get(what)):
                counts.insert(0, f"{int(first[what])} {what}")
        told.append(f"{title}: {', '.join(counts)}")
    return "; ".join(told) + "." if told else ""


def _count(n: int, name: str) -> str:
    return f"{n} {name}" if n == 1 else f"{n} {name}s"
