"""Head vectors: sigma times a unit vector, added to the heads that tell truth best.

FASB (docs/method.md T3) and, always on, ITI (3.1). The direction is the probe's weight (P5) or
mean(true) - mean(false) (P6); sigma the standard deviation of activations along it (P8). Strength
is in units of sigma, or of the raw vector where `vectors.scale` is raw.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fasb.fitting.reads import HEAD_READS, Read
from fasb.gates.probe import Ranking, kind_of
from fasb.settings import Section

if TYPE_CHECKING:
    import fasb.fitting.directions
    import fasb.fitting.training
    import fasb.steering.edit


class Settings(Section):
    """One setting; the defaults are the released program's for 1,024 heads (P10)."""

    k: int = Field(24, ge=1, description="Anchors: heads that are edited")
    vector: Literal["probe", "prototype"] = "probe"
    classifier: Ranking = Field("logistic", description="By whose accuracy heads are ranked")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the ends of answers, and for sigma those of a next question (A3, A4)."""
    return HEAD_READS


def fit(
    training: "fasb.fitting.training.Training", settings: Settings
) -> "fasb.steering.edit.Edit":
    """Return the edit of the k anchors."""
    import torch

    from fasb.steering.edit import Edit

    heads = training.anchors(kind_of(settings.classifier, training), settings.k)
    found = training.once(
        ("directions", settings.vector), lambda: directions(training, settings.vector)
    )
    vectors = found.vectors(heads)
    return Edit.add(torch.from_numpy(heads), vectors)


def directions(
    training: "fasb.fitting.training.Training", vector: Literal["probe", "prototype"]
) -> "fasb.fitting.directions.Directions":
    """Return the directions of all heads, with their scale."""
    from fasb.fitting.directions import directions_of, mean_difference, with_sigma

    answers, following = (training.bank(read) for read in HEAD_READS)
    if vector == "probe":
        found = directions_of(training.classifiers("logistic").weight, "probe weight")
    else:
        raw = mean_difference(answers, training.prototype_rows(answers))
        found = directions_of(raw, "difference of class means")
    if training.sections.vectors.scale == "raw":
        return found
    return with_sigma(found, following, training.sigma_rows(following))
