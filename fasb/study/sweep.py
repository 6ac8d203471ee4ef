"""The sweep: every method's grid on validation questions.

In: folds, splits, questions, unsteered answers, methods with their grids. Out: `sweep.parquet` and
`sweep_mc.parquet`, one row per fold, method, setting and phrasing:

    sweep       fold, method, setting (number in the grid), k, alpha, beta, s, vector (empty where
                they mean nothing), question, phrasing, answer, n_tokens, fired, kept, strength
    sweep_mc    fold, method, setting, question, phrasing, mc1, mc2, mc3, fired (share of its
                reference answers)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fasb.data.protocol import Question, Split
from fasb.fitting.training import Fitted
from fasb.search import Method
from fasb.steering.bundle import Bundle
from fasb.study.panels import KNOBS
from fasb.study.run import ANSWERS, SCORES, Asked, Runner

CELL = ("fold", "method", "setting")
SWEPT = tuple(column for column in ANSWERS if column not in ("decoded", "passes", "ended"))


def knobs(bundle: Bundle) -> dict[str, Any]:
    """Return k, alpha, beta, s and vector of a bundle; None where it does not look at one."""
    policy = bundle.policy
    # a gate that is always open has fired once before the first token
    checks = policy.gate == "answer" or (policy.gate == "always" and policy.backtracks > 1)
    part = bundle.tracker if bundle.edit is None else bundle.edit
    return {
        "k": None if part is None else len(part.heads),
        "alpha": policy.alpha if policy.gate != "never" else None,
        "beta": policy.beta if checks or policy.gate == "question" else None,
        "s": policy.s if checks else None,
        "vector": ((bundle.about or {}).get("settings") or {}).get("vector"),
    }


def knob_table(bundles: Sequence[Bundle]) -> pd.DataFrame:
    """Return setting, k, alpha, beta, s (NaN where they mean nothing) and vector of each bundle."""
    table = pd.DataFrame([knobs(bundle) for bundle in bundles], columns=list(KNOBS))
    numbers = {key: "float64" for key in KNOBS if key != "vector"}
    return table.astype({**numbers, "vector": "object"}).assign(setting=range(len(bundles)))


def sweep_methods(
    runner: Runner,
    folds: Sequence[tuple[Fitted, Split]],
    questions: Sequence[Question],
    traces: pd.DataFrame | None,
    methods: Mapping[str, Method],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return answers (none without `traces`) and multiple-choice metrics of every grid.

    A method `like` another is not swept.
    """
    answers, scores = [], []
    for fitted, split in folds:
        validation = [question for question in questions if question.id in set(split.validation)]
        asked = None if traces is None else Asked.of(questions, split.validation, traces)
        for name, method in methods.items():
            if method.like is not None:
                continue
            bundles = [method.bundle(fitted, point, name) for point in method.points()]
            cell = {"fold": fitted.fold, "method": name}
            what = f"sweep, fold {fitted.fold}, {name}"
            if asked is not None:
                found = runner.answers(asked, bundles, f"{what}, answers")
                settings = knob_table(bundles)
                found = found.merge(settings, on="setting", validate="many_to_one")
                answers.append(found.assign(**cell))
            scores.append(runner.scores(validation, bundles, f"{what}, choices").assign(**cell))
    return joined(answers, [*CELL, *KNOBS, *SWEPT]), joined(scores, [*CELL, *SCORES])


def joined(parts: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Return all rows, with these columns; without rows an empty frame."""
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
