"""FASB: heads that know truth track the answer, and steer it where it deviates, some tokens back.

In: a fold's accuracies, vectors and classifiers of all heads. Out: a bundle, whose k anchors are
both tracked and edited. Its ablations are settings of the same method (docs/method.md 1.6).
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fasb.settings import Section
from fasb.steering.policy import Policy

if TYPE_CHECKING:
    import fasb.fitting.training
    import fasb.steering.bundle


class Settings(Section):
    """One setting; defaults are the released program's for a model of 1,024 heads (docs/method.md P10)."""

    k: int = Field(24, ge=1, description="Anchors")
    alpha: float = Field(
        60.0, description="Strength at p = 1, in units of sigma (of the vector where it is raw)"
    )
    beta: float = Field(
        0.4, ge=0, le=1, description="Steers where p, the probability of deviating, is above"
    )
    s: int = Field(10, ge=1, description="Tokens taken back, and tokens before the first check")
    vector: Literal["probe", "prototype"] = Field(
        "probe", description="FASB-Probe or FASB-Prototype"
    )
    gate: Literal["answer", "question", "always"] = Field(
        "answer", description="question: After Question; always: ITI"
    )
    adaptive: bool = Field(True, description="Strength alpha * p, else alpha")
    backtrack: bool = Field(True, description="Take s tokens back, else steer from where it fired")
    # beyond the paper (docs/method.md 6)
    backtracks: int = Field(1, ge=1, description="How often an answer may be taken back")
    safe: float | None = Field(
        None, ge=0, le=1, description="Back to the last token with p <= safe, instead of s tokens"
    )
    reestimate: bool = Field(
        False, description="While steering, strength is alpha * p of the state before"
    )
    release: float | None = Field(None, ge=0, le=1, description="Stop steering once p <= release")

    @model_validator(mode="after")
    def _allowed(self) -> "Settings":
        if "beta" in self.model_fields_set:  # else it may come from a grid
            self.policy("newest")
        return self

    def policy(self, judged: Literal["newest", "previous"]) -> Policy:
        """The policy, without what its gate does not look at.

        Raises:
            ConfigError: two values contradict each other.
        """
        once = self.backtracks == 1 and self.safe is None
        unused = {"beta", "s"} if self.gate == "always" and once else set()
        return Policy(judged=judged, **self.model_dump(exclude={"k", "vector"} | unused))


def fit(
    fitted: "fasb.fitting.training.Fitted", settings: Settings
) -> "fasb.steering.bundle.Bundle":
    """Anchors are ranked by the accuracy of the classifiers that track (P3, P7)."""
    tracked_by = "logistic" if settings.vector == "probe" else fitted.sections.trackers.prototype
    heads = fitted.anchors(tracked_by, settings.k)
    policy = settings.policy(fitted.sections.trackers.judged)
    tracker = fitted.tracker(tracked_by, heads) if policy.reads_p else None
    return fitted.bundle(policy, fitted.edit(settings.vector, heads), tracker)
