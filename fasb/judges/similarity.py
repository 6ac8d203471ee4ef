"""A judge by likeness to the references.

Closer to a true one than to every false one (BLEU or chrF of sacrebleu).

In: questions with their references, answers. Out: `true` in [0, 1]: one half plus half the
difference of the best likeness to a true and to a false reference. A tie is not true. There is no
`info`: likeness says nothing of it.
"""

import re
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from fasb.data.protocol import Question
from fasb.errors import ConfigError
from fasb.settings import Section


class Settings(Section):
    """How likeness is measured."""

    metric: Literal["bleu", "chrf"] = Field(
        "bleu", description="Of sentences, by sacrebleu's defaults"
    )


def judge(
    questions: Sequence[Question], answers: Sequence[str], settings: Settings
) -> dict[str, Float[np.ndarray, " answer"]]:
    """Return `true` of each answer; `questions[i]` belongs to `answers[i]`.

    Raises:
        ConfigError: sacrebleu is not installed, or words are asked for where there are none.
    """
    if settings.metric == "bleu":
        _check_words(questions)
    likeness = _likeness(settings.metric)
    pairs = zip(questions, answers, strict=True)
    return {
        "true": np.array(
            [_score(question, answer, likeness) for question, answer in pairs], dtype=np.float64
        )
    }


UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
)
"""Characters of Thai, Lao, Burmese, Khmer, Japanese and Chinese: no spaces between words."""


def _check_words(questions: Sequence[Question]) -> None:
    """Refuse references of which most have no spaces: all answers but their copies would tie.

    Raises:
        ConfigError: they do.
    """
    references = [text for question in questions for text in (*question.true, *question.false)]
    unspaced = sum(2 * len(UNSPACED.findall(text)) > len(text) for text in references)
    if 2 * unspaced > len(references):
        raise ConfigError(
            "judge.settings.metric: bleu compares words, and most references have no spaces "
            "between theirs; set it to chrf"
        )


def provenance(settings: Settings) -> dict[str, Any]:
    """Metric, and sacrebleu's version."""
    _metric(settings.metric)
    return {
        "judge": "similarity",
        "metric": settings.metric,
        "sacrebleu": metadata.version("sacrebleu"),
    }


def available(settings: Settings) -> str:
    """Return the metric.

    Raises:
        ConfigError: its package is not installed.
    """
    _metric(settings.metric)
    return settings.metric


def _score(question: Question, answer: str, likeness: Callable[[str, str], float]) -> float:
    true = max((likeness(answer, reference) for reference in question.true), default=0.0)
    false = max((likeness(answer, reference) for reference in question.false), default=0.0)
    # a tie is just below what counts as yes
    return 0.5 + (true - false) / 200 if true != false else float(np.nextafter(0.5, 0))


def _likeness(metric: str) -> Callable[[str, str], float]:
    measure = _metric(metric)

    def likeness(answer: str, reference: str) -> float:
        # sacrebleu's BLEU is exp(log(100)), by rounding more than 100, for equal texts
        return min(float(measure.sentence_score(answer, [reference]).score), 100.0)

    return likeness


def _metric(metric: str) -> Any:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ConfigError(
            "judge: similarity needs sacrebleu; run 'pip install fasb[similarity]', or use another "
            "judge"
        ) from None
    # without effective_order a text of fewer than four words scores 0
    return BLEU(effective_order=True) if metric == "bleu" else CHRF()
