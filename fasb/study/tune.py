"""Tuning: each method's setting in each fold, chosen on validation questions alone.

In: the sweep's answers with their verdicts, its multiple-choice metrics, and what the folds have
fitted. Out: the whole grid's results, what was chosen, and the bundles of what was chosen.

    grid     fold, method, setting, k, alpha, beta, s, vector, true, info, true_info (product of the means), mc1, mc2,
             mc3, steered (share of answers), steered_mc (share of reference answers), tokens (mean
             length), chosen, chosen_mc2 (bool), n (phrasings)
    tuned    {"fold0": {method: {"setting", "for_mc2": knobs of the chosen bundles, "validation": its grid row,
             "edge", "edge_mc2": grid keys of which each has the lowest or highest of three or more
             values}}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.artifacts import writing_folder
from fasb.data.protocol import Question
from fasb.errors import ConfigError, DataError
from fasb.fitting.training import Fitted
from fasb.metrics.answers import verdict
from fasb.steering.bundle import Bundle
from fasb.study.panels import KNOBS
from fasb.study.sweep import CELL, Method, Point, joined, knob_table, knobs

METRICS = ("true", "info", "true_info", "mc1", "mc2", "mc3", "steered", "steered_mc", "tokens", "n")
PURPOSES = {"generation": "", "mc2": "-mc2"}
"""What a bundle is tuned for, and what its file's name ends with."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The whole grid's results, what was chosen, and its bundles by (method, fold, purpose)."""

    grid: pd.DataFrame
    chosen: dict[str, Any]
    bundles: dict[tuple[str, int, str], Bundle]

    def save_bundles(self, folder: Path, made_by: dict[str, Any]) -> None:
        """`{method}-fold{i}.safetensors` and `{method}-fold{i}-mc2.safetensors`."""
        with writing_folder(folder) as part:
            for (method, fold, purpose), bundle in self.bundles.items():
                bundle.save(bundle_path(part, method, fold, purpose), made_by)


def bundle_path(folder: Path, method: str, fold: int, purpose: str = "generation") -> Path:
    """Where the bundle that was tuned for `purpose` (generation, mc2) is kept."""
    return folder / f"{method}-fold{fold}{PURPOSES[purpose]}.safetensors"


def tune(
    folds: Sequence[Fitted],
    methods: Mapping[str, Method],
    questions: Sequence[Question],
    sweep: pd.DataFrame,
    sweep_mc: pd.DataFrame,
    judged: pd.DataFrame,
) -> Tuned:
    """Choose by True*Info, or by MC1 where nothing was generated; and once more by MC2.

    Ties: fewer steered answers, then smaller strength, then the earlier point of the grid. A method
    `like` another takes the values chosen for that one.

    Raises:
        ConfigError: a method is `like` one that is not tuned here.
        DataError: an answer was not judged, a method's results are of another grid, or a fold was
            fitted on questions
            that are not among these.
    """
    _check(folds, methods, questions)
    measured = _measured(sweep, sweep_mc, judged)
    swept = sweep.reindex(columns=[*CELL, *KNOBS]).drop_duplicates(list(CELL))
    keys = {question.id: question.key for question in questions}
    grids, chosen, bundles = [], {}, {}
    for fitted in folds:
        entries: dict[str, Any] = {}
        points: dict[tuple[str, str], Point] = {}
        for name, method in sorted(methods.items(), key=lambda item: item[1].like is not None):
            if method.like is None:
                found = _choose(fitted, name, method, measured, swept)
                grids.append(found.grid)
                points |= {(name, purpose): point for purpose, point in found.points.items()}
                entries[name] = {"validation": found.validation, **found.edges}
            else:
                points |= {(name, purpose): points[method.like, purpose] for purpose in PURPOSES}
                entries[name] = {"like": method.like, "validation": {}, "edge": [], "edge_mc2": []}
            for purpose, key in (("generation", "setting"), ("mc2", "for_mc2")):
                bundle = method.fit(fitted, points[name, purpose], name)
                entries[name][key] = {k: v for k, v in knobs(bundle).items() if v is not None}
                about = {
                    "tuned_for": purpose,
                    "questions": {"seen": [keys[i] for i in fitted.seen]},
                }
                bundles[name, fitted.fold, purpose] = replace(
                    bundle, about={**(bundle.about or {}), **about}
                )
        chosen[f"fold{fitted.fold}"] = {name: entries[name] for name in methods}
    grid = joined(grids, [*CELL, *KNOBS, *METRICS[:-1], "chosen", "chosen_mc2", "n"])
    return Tuned(grid, chosen, bundles)


def _check(
    folds: Sequence[Fitted], methods: Mapping[str, Method], questions: Sequence[Question]
) -> None:
    for name, method in methods.items():
        if method.like is not None and (
            method.like not in methods or methods[method.like].like is not None
        ):
            raise ConfigError(
                f"methods.{name}.like: {method.like!r} is not tuned here; name a method that is"
            )
    known = {question.id for question in questions}
    for fitted in folds:
        if unknown := sorted(set(fitted.seen) - known):
            raise DataError(
                f"questions: {unknown[0]!r}, which fold {fitted.fold} was fitted on, is not among them; "
                "give those that 'fasb splits' divided"
            )


@dataclass(frozen=True, slots=True)
class _Choice:
    grid: pd.DataFrame
    points: dict[str, Point]
    validation: dict[str, float]
    edges: dict[str, list[str]]


def _choose(
    fitted: Fitted, name: str, method: Method, measured: pd.DataFrame, swept: pd.DataFrame
) -> _Choice:
    points = method.points()
    table = knob_table([method.fit(fitted, point, name) for point in points])
    where = f"sweep: fold {fitted.fold}, {name}"
    rows = _of(measured, fitted, name)
    if sorted(rows["setting"]) != list(range(len(points))):
        raise DataError(
            f"{where}: results of {len(rows)} settings, but its grid has {len(points)}; run 'fasb sweep' again"
        )
    _check_grid(_of(swept, fitted, name), table, where)
    grid = table.merge(rows, on="setting", validate="one_to_one")
    best = (
        best_setting(grid, "true_info")
        if grid["true_info"].notna().any()
        else best_setting(grid, "mc1")
    )
    best_mc2 = best_setting(grid, "mc2") if grid["mc2"].notna().any() else best
    grid = grid.assign(chosen=grid["setting"] == best, chosen_mc2=grid["setting"] == best_mc2)
    row = grid[grid["chosen"]].iloc[0]
    validation = {key: float(row[key]) for key in METRICS if pd.notna(row[key])}
    edges = {
        "edge": at_edge(points[best], method.grid),
        "edge_mc2": at_edge(points[best_mc2], method.grid),
    }
    return _Choice(grid, {"generation": points[best], "mc2": points[best_mc2]}, validation, edges)


def _of(frame: pd.DataFrame, fitted: Fitted, name: str) -> pd.DataFrame:
    return frame[(frame["fold"] == fitted.fold) & (frame["method"] == name)]


def _check_grid(swept: pd.DataFrame, table: pd.DataFrame, where: str) -> None:
    """Refuse answers that were written under other values than the grid's."""
    both = swept.merge(table, on="setting", suffixes=("", "_grid"))
    for key in KNOBS:
        ran, given = both[key], both[f"{key}_grid"]
        if (differ := (ran != given) & (ran.notna() | given.notna())).any():
            at = differ.idxmax()
            raise DataError(
                f"{where}: ran with {key} {ran[at]}, but its grid has {given[at]}; run 'fasb sweep' again"
            )


def best_setting(grid: pd.DataFrame, by: str) -> int:
    """The number of the best setting; ties: fewer steered, then smaller strength, then the earlier one.

    For multiple choice, it is the reference answers steered that count.
    """
    steered = "steered_mc" if by.startswith("mc") else "steered"
    strength = grid["alpha"].abs().fillna(0.0)
    worse = -grid[by].round(9)  # products of equal shares may differ in the last digit
    order = grid.assign(worse=worse, strength=strength).sort_values(
        ["worse", steered, "strength", "setting"]
    )
    return int(order["setting"].iloc[0])


def at_edge(point: Point, grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """Keys whose value in `point` is the lowest or highest of three or more numbers: of two, each is one of both."""
    numbers = {
        key: {v for v in values if not isinstance(v, str | bool)} for key, values in grid.items()
    }
    return [
        key
        for key, tried in numbers.items()
        if len(tried) > 2 and point[key] in (min(tried), max(tried))
    ]


def _measured(sweep: pd.DataFrame, sweep_mc: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """One row of metrics per fold, method and setting."""
    parts = [
        part for part in (_of_answers(sweep, judged), _of_choices(sweep_mc)) if part is not None
    ]
    if not parts:
        raise DataError(
            "tune: the sweep has neither answers nor choices; give the dataset a judge or false answers"
        )
    both = (
        parts[0]
        if len(parts) == 1
        else parts[0].merge(parts[1], on=list(CELL), how="outer", suffixes=("", "_mc"))
    )
    missing = {column: np.nan for column in METRICS if column not in both}
    return both.assign(**missing)[[*CELL, *METRICS]]


def _of_answers(sweep: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame | None:
    if sweep.empty:
        return None
    kinds = [kind for kind in ("true", "info") if kind in judged]
    rows = sweep.merge(judged, on=["question", "answer"], how="left", validate="many_to_one")
    if not kinds or rows[kinds].isna().any(axis=None):
        raise DataError(
            "sweep_judged: some answers of the sweep have no verdict; run 'fasb judge' on them again"
        )
    for kind in kinds:
        rows[kind] = verdict(rows[kind].to_numpy(np.float64)).astype(np.float64)
    means = rows.assign(steered=rows["fired"].astype(np.float64), tokens=rows["n_tokens"], n=1.0)
    columns = {**dict.fromkeys((*kinds, "steered", "tokens"), "mean"), "n": "sum"}
    found = means.groupby(list(CELL), as_index=False, sort=False).agg(columns)
    return found.assign(true_info=found[kinds].prod(axis=1))


def _of_choices(sweep_mc: pd.DataFrame) -> pd.DataFrame | None:
    if sweep_mc.empty:
        return None
    rows = sweep_mc.assign(steered_mc=sweep_mc["fired"], n=1.0)
    names = ["mc1", "mc2", "mc3", "steered_mc"]
    return rows.groupby(list(CELL), as_index=False, sort=False).agg(
        {**dict.fromkeys(names, "mean"), "n": "sum"}
    )
