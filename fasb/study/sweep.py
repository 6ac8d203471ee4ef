"""The sweep: every method's grid on validation questions.

In: folds, splits, questions, unsteered answers, methods with their grids. Out: `sweep.parquet` and
`sweep_mc.parquet`, one row per fold, method, setting and phrasing:

    sweep       fold, method, setting (number in the grid, whose last does not steer), k, layer,
                alpha, beta, s, after, vector, other (empty where they mean nothing), question,
                phrasing, answer, n_tokens, fired, kept, strength
    sweep_mc    fold, method, setting, question, phrasing, mc1, mc2, mc3, fired (share of its
                reference answers)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fasb.data.protocol import Question, Split, with_ids
from fasb.fitting.fold import FittedFold
from fasb.search import Method
from fasb.steering.bundle import Bundle
from fasb.study.panels import HYPERPARAMETERS
from fasb.study.run import ANSWERS, SCORES, Asked, Runner
from fasb.study.shards import ordered, units

SETTING = ("fold", "method", "setting")
"""Columns that say which setting a row is of."""
TEXTS = ("vector", "other")
"""Hyperparameters that are no numbers."""
SWEPT = tuple(column for column in ANSWERS if column not in ("decoded", "passes", "ended"))


def hyperparameters(bundle: Bundle, crossed: Iterable[str]) -> dict[str, Any]:
    """Return what is tuned of a bundle; None where it does not look at one.

    crossed: the keys of its method's grid; those without a column of their own share one.
    """
    policy, about = bundle.policy, bundle.about or {}
    settings = about.get("settings") or {}
    # somebody's own method may call its layer "last", and have many vectors
    own = {key: settings[key] for key in ("k", "layer") if _is_number(settings.get(key))}
    own |= {"vector": settings["vector"]} if isinstance(settings.get("vector"), str) else {}
    elsewhere = {*HYPERPARAMETERS} - ({"k", "layer", "vector"} - own.keys())
    further = [key for key in crossed if key in settings and key not in elsewhere]
    # a prompt's instruction may have several lines
    told = [" ".join(f"{key} {settings[key]}".split()) for key in further]
    found = {**dict.fromkeys(HYPERPARAMETERS), "other": ", ".join(told) or None}
    if policy.when == "never":
        # what neither edits nor tracks can have a prompt of its own; else nothing is looked at
        plain = about.get("use") is None and about.get("gate") is None
        return found if plain else dict.fromkeys(HYPERPARAMETERS)
    looks_back = policy.checks_tokens or policy.resample > 0
    return found | {
        **own,
        "alpha": policy.alpha if bundle.edit is not None else None,
        "beta": policy.beta if policy.checks_tokens or policy.when == "prompt" else None,
        "s": policy.s if looks_back or policy.when == "oracle" else None,
        "after": policy.after or None,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def hyperparameter_table(bundles: Sequence[Bundle], crossed: Iterable[str]) -> pd.DataFrame:
    """Return setting and hyperparameters of each bundle of a grid; NaN where they mean nothing."""
    keys = list(crossed)
    rows = [hyperparameters(bundle, keys) for bundle in bundles]
    table = pd.DataFrame(rows, columns=list(HYPERPARAMETERS))
    # a column of nothing but None would be of objects, not of numbers
    types = {key: "object" if key in TEXTS else "float64" for key in HYPERPARAMETERS}
    return table.astype(types).assign(setting=range(len(bundles)))


def sweep_methods(
    runner: Runner,
    folds: Sequence[tuple[FittedFold, Split]],
    questions: Sequence[Question],
    traces: pd.DataFrame | None,
    methods: Mapping[str, Method],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return answers (none without `traces`) and multiple-choice metrics of every grid.

    A method `like` another is not swept.
    """
    answers, scores = [], []
    swept = [name for name, method in methods.items() if method.like is None]
    splits = [split for _, split in folds]
    for unit in units(splits, swept, lambda split: split.validation, runner.shard):
        fitted, method = folds[unit.fold][0], methods[unit.method]
        validation = with_ids(questions, unit.ids)
        bundles = [method.bundle(fitted, point, unit.method) for point in method.points()]
        cell = {"fold": fitted.fold, "method": unit.method}
        if traces is not None:
            asked = Asked.of(questions, unit.ids, traces)
            found = runner.answers(asked, bundles, f"sweep, {unit.what}, answers")
            settings = hyperparameter_table(bundles, method.grid)
            found = found.merge(settings, on="setting", validate="many_to_one")
            answers.append(found.assign(**cell))
        found = runner.scores(validation, bundles, f"sweep, {unit.what}, choices")
        scores.append(found.assign(**cell))
    answered = joined(answers, [*SETTING, *HYPERPARAMETERS, *SWEPT])
    scored = joined(scores, [*SETTING, *SCORES])
    return ordered(answered, questions, swept), ordered(scored, questions, swept)


def joined(parts: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Return all rows, with these columns; without rows an empty frame."""
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
