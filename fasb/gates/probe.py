"""The probe gate: classifiers of the k anchors watch every token (docs/method.md T1, P7).

p is the mean over the anchors of 1 - p(true). Logistic probes are the paper's; cosine prototypes
its training-free variant.
"""

from typing import Literal

from pydantic import Field

import fasb
from fasb.fitting.reads import AnswerRead, Read
from fasb.settings import HeadCount, Section

Ranking = Literal["logistic", "cosine", "prototype"]
"""A kind of classifier; `prototype`: the one that `trackers.prototype` says, as presets do (P7)."""


class Settings(Section):
    """One setting; the default is the released program's for 1,024 heads (P10)."""

    k: HeadCount = Field(24, description="Anchors: heads that are tracked")
    classifier: Ranking = "logistic"
    read: AnswerRead = Field("answer_end", description="Where classifiers are fitted (A3, X10)")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the ends of answers (A3), or tokens of answers behind the evaluation prompt (X10)."""
    return (Read("head", settings.read),)


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Tracker":
    """Return the tracker of the k anchors, ranked by the accuracy of the same classifiers (P3)."""
    kind, read = classifier_kind(settings.classifier, training), Read("head", settings.read)
    return training.classifiers(kind, read).tracker(training.anchors(kind, settings.k, read))


def classifier_kind(ranking: Ranking, training: "fasb.Training") -> "Literal['logistic', 'cosine']":
    """Return the kind of classifier that is meant."""
    return training.sections.trackers.prototype if ranking == "prototype" else ranking
