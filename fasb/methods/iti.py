"""Inference-time intervention: the same vectors at every token of every answer (docs/method.md 3.1)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fasb.settings import Section
from fasb.steering.policy import Policy

if TYPE_CHECKING:
    import fasb.fitting.training
    import fasb.steering.bundle


class Settings(Section):
    """One setting; defaults are the released program's for a model of 1,024 heads."""

    k: int = Field(
        48,
        ge=1,
        description="Heads that are edited, those whose logistic probes are the most accurate",
    )
    alpha: float = Field(
        15.0, description="Strength, in units of sigma (raw vectors where vectors.scale is raw)"
    )
    vector: Literal["probe", "prototype"] = Field(
        "prototype", description="Mean difference, as its authors recommend"
    )


def fit(
    fitted: "fasb.fitting.training.Fitted", settings: Settings
) -> "fasb.steering.bundle.Bundle":
    """Steers from the last prompt token on, always with strength alpha; tracks nothing."""
    heads = fitted.anchors("logistic", settings.k)
    policy = Policy(alpha=settings.alpha, gate="always", adaptive=False, backtrack=False)
    return fitted.bundle(policy, fitted.edit(settings.vector, heads))
