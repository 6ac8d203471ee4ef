"""Asking a judge: its scores of some answers, checked.

In: a judge's name and settings, questions, an answer to each. Out: one score per answer for `true`,
`info` or both. Knows no store and no study.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fasb.data.protocol import Question
from fasb.errors import DataError
from fasb.extensions import find, settings_of
from fasb.settings import JudgeSettings


def run_judge(
    judge: JudgeSettings, questions: Sequence[Question], answers: Sequence[str]
) -> dict[str, Float[np.ndarray, " answer"]]:
    """Return the judge's scores, from 0 to 1; answers[i] belongs to questions[i].

    Raises:
        ConfigError: there is no such judge, or a setting is wrong.
        DataError: the judge gives another number of scores, or none, or one that is not a number.
    """
    settings = settings_of("judges", judge.use, judge.settings, "judge.settings")
    found = find("judges", judge.use).judge(list(questions), list(answers), settings)
    scores = {}
    for kind in ("true", "info"):
        if kind in found:
            scores[kind] = np.asarray(found[kind], dtype=np.float64)
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
    return scores
