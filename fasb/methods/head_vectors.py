"""Head vectors: sigma times a unit vector, added to the heads that tell truth best.

FASB (docs/method.md T3) and, always on, ITI (3.1). The direction is the probe's weight (P5) or
mean(true) - mean(false) (P6); sigma the standard deviation of activations along it (P8). Strength
is in units of sigma, or of the raw vector where `vectors.scale` is raw. Controls (C3): a direction
drawn at random, as long as the probe's vector; heads drawn at random.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

import fasb
from fasb.fitting.reads import HEAD_READS, AnswerRead, Read
from fasb.gates.probe import Ranking, classifier_kind
from fasb.settings import HeadCount, Section

if TYPE_CHECKING:
    import fasb.fitting.directions


Kind = Literal["probe", "prototype", "random"]


class Settings(Section):
    """One setting; the defaults are the released program's for 1,024 heads (P10)."""

    k: HeadCount = Field(24, description="Anchors: heads that are edited")
    vector: Kind = "probe"
    heads: Literal["best", "random"] = Field("best", description="Random: drawn from the seed")
    classifier: Ranking = Field("logistic", description="By whose accuracy heads are ranked")
    read: AnswerRead = Field("answer_end", description="Where vectors are fitted (A3, X10)")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the ends of answers, and for sigma those of a next question (A3, A4).

    Answers behind the evaluation prompt give sigma themselves (X10).
    """
    return HEAD_READS if settings.read == "answer_end" else (Read("head", settings.read),)


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the k anchors."""
    import torch

    from fasb.steering.edit import Edit

    answers = Read("head", settings.read)
    if settings.heads == "random":
        heads = drawn_heads(training, settings.k, answers)
    else:
        kind = classifier_kind(settings.classifier, training)
        heads = training.anchors(kind, settings.k, answers)
    found = training.once(
        ("directions", settings.vector, settings.read),
        lambda: directions(training, settings.vector, settings.read),
    )
    vectors = found.vectors(heads)
    return Edit.add(torch.from_numpy(heads), vectors)


def drawn_heads(training: "fasb.Training", k: int, read: Read) -> Any:
    """Return k heads [k, 2] drawn at random; more of them begin with the same (C3)."""
    import numpy as np

    shape = training.classifiers("logistic", read).bias.shape
    drawn = training.chance("heads").permutation(shape[0] * shape[1])[:k]
    return np.stack(np.unravel_index(drawn, shape), axis=1)


def directions(
    training: "fasb.Training", vector: Kind, read: AnswerRead = "answer_end"
) -> "fasb.fitting.directions.Directions":
    """Return the directions of all heads, with their scale."""
    from fasb.fitting.directions import Directions, directions_of, mean_difference, with_sigma

    if vector == "random":
        like = directions(training, "probe", read)
        drawn = training.chance("directions").standard_normal(like.direction.shape)
        return Directions(directions_of(drawn, "random direction").direction, like.scale)
    asked = reads(Settings(read=read))
    answers, following = training.bank(asked[0]), training.bank(asked[-1])
    if vector == "probe":
        classifiers = training.classifiers("logistic", asked[0])
        found = directions_of(classifiers.weight, "probe weight")
    else:
        raw = mean_difference(answers, training.prototype_rows(answers))
        found = directions_of(raw, "difference of class means")
    if training.sections.vectors.scale == "raw":
        return found
    return with_sigma(found, following, training.sigma_rows(following))
