"""The sweep: every method's grid on validation questions.

In: folds, splits, questions, unsteered answers, methods with their grids. Out: `sweep.parquet` and
`sweep_mc.parquet`, one row per fold, method, setting and phrasing:

    sweep       fold, method, setting (number in the grid), k, alpha, beta, s, vector (empty where they mean nothing),
                question, phrasing, answer, n_tokens, fired, kept, strength
    sweep_mc    fold, method, setting, question, phrasing, mc1, mc2, mc3, fired (share of its reference answers)
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from pydantic import Field

from fasb.data.protocol import Question, Split
from fasb.extensions import find, settings_of
from fasb.fitting.training import Fitted
from fasb.steering.bundle import Bundle
from fasb.study.config import MethodEntry
from fasb.study.panels import KNOBS
from fasb.study.run import ANSWERS, SCORES, Asked, Runner

CELL = ("fold", "method", "setting")
SWEPT = tuple(column for column in ANSWERS if column not in ("decoded", "passes", "ended"))

Point = dict[str, Any]
"""Values of a method's settings at one point of its grid."""


class Method(MethodEntry):
    """A method of the study: its module, the settings that stay, and those that are swept."""

    code: str = Field(
        "", description="Hash of the module's file; only there so that an edited method runs again"
    )

    def points(self) -> list[Point]:
        """The grid's points, the last key varying fastest; one without values where there is no grid."""
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]

    def fit(self, fitted: Fitted, point: Mapping[str, Any], name: str) -> Bundle:
        """The bundle of one point; keys that the method's settings do not have are left out for `like` alone.

        Raises:
            ConfigError: a value is wrong, or k is larger than the number of heads.
        """
        module = find("methods", self.use)
        if self.like is not None:
            point = {
                key: value for key, value in point.items() if key in module.Settings.model_fields
            }
        settings = settings_of("methods", self.use, {**self.settings, **point}, f"methods.{name}")
        bundle: Bundle = module.fit(fitted, settings)
        about = {
            **(bundle.about or {}),
            "method": name,
            "use": self.use,
            "settings": settings.model_dump(mode="json"),
        }
        return replace(bundle, about=about)


def knobs(bundle: Bundle) -> dict[str, Any]:
    """k, alpha, beta, s and vector of a bundle; None where it has none or does not look at it."""
    policy, parts = (
        bundle.policy,
        [part for part in (bundle.edit, bundle.tracker) if part is not None],
    )
    # a gate that is always open has fired once before the first token
    checks = policy.when == "token" or (policy.when == "always" and policy.backtracks > 1)
    return {
        "k": len(parts[0].heads) if parts else None,
        "alpha": policy.alpha if policy.when != "never" else None,
        "beta": policy.beta if checks or policy.when == "prompt" else None,
        "s": policy.s if checks else None,
        "vector": ((bundle.about or {}).get("settings") or {}).get("vector"),
    }


def sweep_methods(
    runner: Runner,
    folds: Sequence[tuple[Fitted, Split]],
    questions: Sequence[Question],
    traces: pd.DataFrame | None,
    methods: Mapping[str, Method],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers (none without `traces`) and multiple-choice metrics; a method `like` another is not swept."""
    answers, scores = [], []
    for fitted, split in folds:
        validation = [question for question in questions if question.id in set(split.validation)]
        asked = None if traces is None else Asked.of(questions, split.validation, traces)
        for name, method in methods.items():
            if method.like is not None:
                continue
            bundles = [method.fit(fitted, point, name) for point in method.points()]
            cell = {"fold": fitted.fold, "method": name}
            what = f"sweep, fold {fitted.fold}, {name}"
            if asked is not None:
                found = runner.answers(asked, bundles, f"{what}, answers")
                answers.append(_with_knobs(found, bundles).assign(**cell))
            scores.append(runner.scores(validation, bundles, f"{what}, choices").assign(**cell))
    return joined(answers, [*CELL, *KNOBS, *SWEPT]), joined(scores, [*CELL, *SCORES])


def joined(parts: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """All rows, these columns; a frame without rows where there are none."""
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _with_knobs(found: pd.DataFrame, bundles: Sequence[Bundle]) -> pd.DataFrame:
    return found.merge(knob_table(bundles), on="setting", validate="many_to_one")


def knob_table(bundles: Sequence[Bundle]) -> pd.DataFrame:
    """setting, k, alpha, beta, s (numbers, NaN where they mean nothing) and vector of each bundle."""
    table = pd.DataFrame([knobs(bundle) for bundle in bundles], columns=list(KNOBS))
    numbers = {key: "float64" for key in KNOBS if key != "vector"}
    return table.astype({**numbers, "vector": "object"}).assign(setting=range(len(bundles)))
