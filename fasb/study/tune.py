"""Tuning: each method's setting in each fold, chosen on validation questions alone.

In: the sweep's answers with their verdicts, its multiple-choice metrics, and what the folds have
fitted. Out: the whole grid's results, what was chosen, and the bundles of what was chosen.

    grid     fold, method, setting, hyperparameters as in `sweep`, true, info, true_info (product of
             the means), mc1, mc2, mc3, steered (share of answers), steered_mc (share of reference
             answers), tokens (mean length), chosen, chosen_mc2 (bool), n (phrasings)
    tuned    {"fold0": {method: {"setting", "for_mc2": hyperparameters of the chosen bundles,
             "validation": its grid row, "steers": {purpose: false where not to steer was best},
             "edge", "edge_mc2": grid keys of which each has the lowest or highest of three or more
             values, "tried": number of settings, "different": number of different ones}}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.data.protocol import Question
from fasb.errors import ConfigError, DataError
from fasb.fitting.fold import FittedFold
from fasb.metrics.answers import verdict
from fasb.search import Method, Point, at_edge
from fasb.steering.bundle import Bundle
from fasb.study.panels import HYPERPARAMETERS, best_setting, tuned_by
from fasb.study.sweep import SETTING, hyperparameter_table, hyperparameters, joined
from fasb.wholefiles import writing_folder

METRICS = ("true", "info", "true_info", "mc1", "mc2", "mc3", "steered", "steered_mc", "tokens", "n")
PURPOSES = {"generation": "", "mc2": "-mc2"}
"""What a bundle is tuned for, and what its file's name ends with."""
ENTRIES = {"generation": ("setting", "edge"), "mc2": ("for_mc2", "edge_mc2")}
"""Where `tuned.json` has what was chosen for each purpose, and which of it lies at the edge."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The whole grid's results, what was chosen, and its bundles by (method, fold, purpose)."""

    grid: pd.DataFrame
    chosen: dict[str, Any]
    bundles: dict[tuple[str, int, str], Bundle]

    def save_bundles(self, folder: Path, made_by: dict[str, Any]) -> None:
        """Write `{method}-fold{i}.safetensors` and `{method}-fold{i}-mc2.safetensors`."""
        with writing_folder(folder) as part:
            for (method, fold, purpose), bundle in self.bundles.items():
                bundle.save(bundle_path(part, method, fold, purpose), made_by)


def bundle_path(folder: Path, method: str, fold: int, purpose: str = "generation") -> Path:
    """Return where the bundle that was tuned for `purpose` (generation, mc2) is kept."""
    return folder / f"{method}-fold{fold}{PURPOSES[purpose]}.safetensors"


def tune(
    folds: Sequence[FittedFold],
    methods: Mapping[str, Method],
    questions: Sequence[Question],
    sweep: pd.DataFrame,
    sweep_mc: pd.DataFrame,
    judged: pd.DataFrame,
) -> Tuned:
    """Choose by True*Info, or by MC1 where nothing was generated; and once more by MC2.

    Ties: fewer steered answers, then smaller strength, then the earlier point of the grid. So a
    method does not steer where no setting is better than the model as it is. A method `like`
    another takes the values chosen for that one.

    Raises:
        ConfigError: a method is `like` one that is not tuned here.
        DataError: an answer was not judged, a method's results are of another grid, or a fold was
            fitted on questions that are not among these.
    """
    _check(folds, methods, questions)
    results = Results(
        metrics_by_setting(sweep, sweep_mc, judged),
        sweep.reindex(columns=[*SETTING, *HYPERPARAMETERS]).drop_duplicates(list(SETTING)),
    )
    keys = {question.id: question.keys for question in questions}
    grids: list[pd.DataFrame] = []
    tuned: dict[str, Any] = {}
    bundles: dict[tuple[str, int, str], Bundle] = {}
    for fitted in folds:
        chosen: dict[str, TunedMethod] = {}
        # a method `like` another needs that one's choice
        for name in sorted(methods, key=lambda name: methods[name].like is not None):
            method = methods[name]
            if method.like is None:
                chosen[name] = _choose(fitted, name, method, results)
                grids.append(chosen[name].grid)
            else:
                points = chosen[method.like].points
                if method.mean_strength:
                    points = _at_mean_strength(fitted, methods[method.like], method, points, sweep)
                chosen[name] = TunedMethod(pd.DataFrame(), points)
        entries = {}
        for name, method in methods.items():
            made = _bundles(fitted, name, method, chosen[name], keys)
            bundles |= {(name, fitted.fold, purpose): one for purpose, one in made.items()}
            entries[name] = _entry(method, chosen[name], made)
        tuned[f"fold{fitted.fold}"] = entries
    grid = joined(grids, [*SETTING, *HYPERPARAMETERS, *METRICS[:-1], "chosen", "chosen_mc2", "n"])
    return Tuned(grid, tuned, bundles)


def _check(
    folds: Sequence[FittedFold], methods: Mapping[str, Method], questions: Sequence[Question]
) -> None:
    for name, method in methods.items():
        if method.like is None:
            continue
        other = methods.get(method.like)
        if other is None or other.like is not None:
            raise ConfigError(
                f"methods.{name}.like: {method.like!r} is not tuned here; name a method that is"
            )
    known = {question.id for question in questions}
    for fitted in folds:
        if unknown := sorted(set(fitted.seen) - known):
            raise DataError(
                f"questions: {unknown[0]!r}, which fold {fitted.fold} was fitted on, is not among "
                "them; give those that the folds were made of"
            )


@dataclass(frozen=True, slots=True)
class Results:
    """Of each fold, method and setting: what it came to, and under which values it ran."""

    metrics: pd.DataFrame
    swept: pd.DataFrame


@dataclass(frozen=True, slots=True)
class TunedMethod:
    """A method's grid in one fold with its results, and the point chosen for each purpose.

    different: how many of its bundles differ; depths, say, may be one layer in a small model.
    """

    grid: pd.DataFrame
    points: dict[str, Point]
    different: int = 0

    @property
    def validation(self) -> dict[str, float]:
        """The results of the setting chosen for generation."""
        if self.grid.empty:
            return {}
        row = self.grid[self.grid["chosen"]].iloc[0]
        return {key: float(row[key]) for key in METRICS if pd.notna(row[key])}


def _choose(fitted: FittedFold, name: str, method: Method, results: Results) -> TunedMethod:
    points = method.points()
    where = f"sweep: fold {fitted.fold}, {name}"
    rows = _of(results.metrics, fitted, name)
    if sorted(rows["setting"]) != list(range(len(points))):
        raise DataError(
            f"{where}: results of {len(rows)} settings, but its grid has {len(points)}; run "
            "the stage 'sweep' again"
        )
    bundles = [method.bundle(fitted, point, name) for point in points]
    table = hyperparameter_table(bundles, method.grid)
    _check_grid(_of(results.swept, fitted, name), table, where)
    grid = table.merge(rows, on="setting", validate="one_to_one")
    best = best_setting(grid, tuned_by(grid).name)
    best_mc2 = best_setting(grid, "mc2") if grid["mc2"].notna().any() else best
    grid = grid.assign(chosen=grid["setting"] == best, chosen_mc2=grid["setting"] == best_mc2)
    different = len({bundle.key() for bundle in bundles})
    return TunedMethod(grid, {"generation": points[best], "mc2": points[best_mc2]}, different)


def _at_mean_strength(
    fitted: FittedFold,
    other: Method,
    method: Method,
    points: Mapping[str, Point],
    sweep: pd.DataFrame,
) -> dict[str, Point]:
    """Return the other's points at a constant alpha: its mean strength over all answers (C2)."""
    rows = sweep[(sweep["fold"] == fitted.fold) & (sweep["method"] == method.like)]
    found = {}
    for purpose, point in points.items():
        # answers that did not fire have strength 0, and count (C2)
        of_point = rows[rows["setting"] == other.points().index(point)]
        if of_point.empty:
            raise DataError(
                f"sweep: no answers of {method.like!r}, whose mean strength is asked for; leave "
                "out `mean_strength`, or give the dataset a judge"
            )
        found[purpose] = {**point, "alpha": float(of_point["strength"].mean())}
    return found


def _bundles(
    fitted: FittedFold,
    name: str,
    method: Method,
    tuned: TunedMethod,
    keys: Mapping[str, frozenset[str]],
) -> dict[str, Bundle]:
    """Return the bundles of a method's chosen points by purpose; they know what was seen."""
    made = {}
    seen: set[str] = set()
    for i in fitted.seen:
        seen |= keys[i]
    for purpose, point in tuned.points.items():
        bundle = method.bundle(fitted, point, name)
        about = {"tuned_for": purpose, "questions": {"seen": sorted(seen)}}
        made[purpose] = replace(bundle, about={**(bundle.about or {}), **about})
    return made


def _entry(method: Method, tuned: TunedMethod, made: Mapping[str, Bundle]) -> dict[str, Any]:
    """Return what `tuned.json` says of a method in one fold."""
    entry: dict[str, Any] = {"validation": tuned.validation}
    entry["steers"] = {purpose: bundle.policy.when != "never" for purpose, bundle in made.items()}
    if method.like is not None:
        entry["like"] = method.like
    for purpose, (setting, edge) in ENTRIES.items():
        found = hyperparameters(made[purpose], tuned.points[purpose])
        entry[setting] = {key: value for key, value in found.items() if value is not None}
        entry[edge] = at_edge(tuned.points[purpose], method.grid)
    return entry | {"tried": len(tuned.grid), "different": tuned.different}


def _of(frame: pd.DataFrame, fitted: FittedFold, name: str) -> pd.DataFrame:
    return frame[(frame["fold"] == fitted.fold) & (frame["method"] == name)]


def _check_grid(swept: pd.DataFrame, table: pd.DataFrame, where: str) -> None:
    """Refuse answers that were written under other values than the grid's."""
    both = swept.merge(table, on="setting", suffixes=("", "_grid"))
    for key in HYPERPARAMETERS:
        ran, given = both[key], both[f"{key}_grid"]
        # NaN differs from itself, and here says on both sides that a value means nothing
        differ = (ran != given) & (ran.notna() | given.notna())
        if differ.any():
            at = differ.idxmax()
            raise DataError(
                f"{where}: ran with {key} {ran[at]}, but its grid has {given[at]}; run the stage "
                "'sweep' again"
            )


def metrics_by_setting(
    sweep: pd.DataFrame, sweep_mc: pd.DataFrame, judged: pd.DataFrame
) -> pd.DataFrame:
    """Return one row of metrics per fold, method and setting.

    Raises:
        DataError: there are neither answers nor choices, or an answer was not judged.
    """
    parts = [*_of_answers(sweep, judged), *_of_choices(sweep_mc)]
    if not parts:
        raise DataError(
            "tune: the sweep has neither answers nor choices; give the dataset a judge or false "
            "answers"
        )
    both = parts[0]
    if len(parts) > 1:
        # both count phrasings: `n` stays that of answers
        both = both.merge(parts[1], on=list(SETTING), how="outer", suffixes=("", "_mc"))
    missing = {column: np.nan for column in METRICS if column not in both}
    return both.assign(**missing)[[*SETTING, *METRICS]]


def _of_answers(sweep: pd.DataFrame, judged: pd.DataFrame) -> list[pd.DataFrame]:
    if sweep.empty:
        return []
    kinds = [kind for kind in ("true", "info") if kind in judged]
    rows = sweep.merge(judged, on=["question", "answer"], how="left", validate="many_to_one")
    if not kinds or rows[kinds].isna().any(axis=None):
        raise DataError(
            "sweep_judged: some answers of the sweep have no verdict; run the stage 'judge-sweep' "
            "again"
        )
    for kind in kinds:
        rows[kind] = verdict(rows[kind].to_numpy(np.float64)).astype(np.float64)
    means = rows.assign(steered=rows["fired"].astype(np.float64), tokens=rows["n_tokens"], n=1.0)
    columns = {**dict.fromkeys((*kinds, "steered", "tokens"), "mean"), "n": "sum"}
    found = means.groupby(list(SETTING), as_index=False, sort=False).agg(columns)
    # a product of means (Q9); of a judge that gives one score, that score
    return [found.assign(true_info=found[kinds].prod(axis=1))]


def _of_choices(sweep_mc: pd.DataFrame) -> list[pd.DataFrame]:
    if sweep_mc.empty:
        return []
    rows = sweep_mc.assign(steered_mc=sweep_mc["fired"], n=1.0)
    columns = {**dict.fromkeys(("mc1", "mc2", "mc3", "steered_mc"), "mean"), "n": "sum"}
    return [rows.groupby(list(SETTING), as_index=False, sort=False).agg(columns)]
