"""Asking a judge: its scores of some answers, checked.

In: a judge's name and settings, questions, an answer to each. Out: one score per answer for `true`,
`info` or both. Knows no store and no study.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fasb.data.protocol import Question
from fasb.errors import DataError, did_you_mean
from fasb.extensions import find, settings_of
from fasb.settings import JudgeSettings

KINDS = ("true", "info")
ROUNDING = 1e-6
"""By so much a probability in single precision may leave its range."""


def run_judge(
    judge: JudgeSettings, questions: Sequence[Question], answers: Sequence[str]
) -> dict[str, Float[np.ndarray, " answer"]]:
    """Return the judge's scores, from 0 to 1; answers[i] belongs to questions[i].

    Raises:
        ConfigError: there is no such judge, or a setting is wrong.
        DataError: the judge gives another number of scores, or none, or scores of another name, or
            one that is no number from 0 to 1.
    """
    settings = settings_of("judges", judge.use, judge.settings, "judge.settings")
    found = find("judges", judge.use).judge(list(questions), list(answers), settings)
    _check_kinds(judge.use, found, "scores")
    scores = {kind: np.asarray(values, dtype=np.float64) for kind, values in found.items()}
    shapes = {kind: values.shape for kind, values in scores.items()}
    if not shapes or set(shapes.values()) != {(len(answers),)}:
        raise DataError(
            f"{judge.use}: needs one score per answer, for true, info or both, but gave "
            f"{shapes} for {len(answers)}; correct the judge"
        )
    for kind, values in scores.items():
        if not np.isfinite(values).all():
            # argmin of booleans is the first that is false
            i = int(np.argmin(np.isfinite(values)))
            raise DataError(
                f"{judge.use}: `{kind}` is not a number for {answers[i]!r}, answer to "
                f"{questions[i].text!r}; correct the judge (a language model that overflows "
                "float16: dtype bfloat16)"
            )
        if values.size and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
            i = int(np.argmax(np.abs(values - 0.5)))
            raise DataError(
                f"{judge.use}: `{kind}` is {values[i]:g} for {answers[i]!r}, answer to "
                f"{questions[i].text!r}; scores go from 0 to 1, correct the judge"
            )
    return {kind: values.clip(0, 1) for kind, values in scores.items()}


def known_error(judge: JudgeSettings) -> dict[str, float] | None:
    """Return how often the judge is wrong by score, 0 to 1, as its module says; None if it is mute.

    Raises:
        ConfigError: there is no such judge, or a setting is wrong.
        DataError: what the module says is no share by score.
    """
    module = find("judges", judge.use)
    if not hasattr(module, "error"):
        return None
    said = module.error(settings_of("judges", judge.use, judge.settings, "judge.settings"))
    _check_kinds(judge.use, said, "error()")
    for kind, share in said.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DataError(
                f"{judge.use}: error() says {share!r} of `{kind}`; give a share from 0 to 1"
            )
    return dict(said)


def _check_kinds(use: str, given: Any, what: str) -> None:
    if not isinstance(given, Mapping):
        raise DataError(
            f"{use}: {what}: not a mapping but {type(given).__name__}; give true, info or both"
        )
    if unknown := sorted(str(kind) for kind in given if kind not in KINDS):
        raise DataError(f"{use}: {what}: unknown {unknown[0]!r}; {did_you_mean(unknown[0], KINDS)}")
