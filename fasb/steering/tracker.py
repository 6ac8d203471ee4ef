"""State tracking: how likely the text so far is to deviate.

In: activations of the tracked units at one token per row. Out: p in [0, 1] per row, high =
deviates. Knows no model, no threshold and no decoding; `policy.py` decides what p means. A unit is
read before its own edit.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.errors import BundleError
from fasb.settings import SiteName
from fasb.steering.fields import check_pairs, content_of, move, sizes_of, tensors_of


@runtime_checkable
class Score(Protocol):
    """What every kind of classifier can do; its tensors' first dimension is the unit."""

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return each unit's probability that the text deviates."""
        ...


@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic probes: the logit of "true" is x . weight + bias (docs/method.md P1)."""

    weight: Float[Tensor, "n width"]
    bias: Float[Tensor, " n"]

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return 1 - p(true), written sigmoid(-logit), which is exact near 1 (T1)."""
        return torch.sigmoid(-((x * self.weight).sum(-1) + self.bias))


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine prototypes: the logit of "true" is unit(x - centre) . weight (docs/method.md P7).

    `weight` is the difference of the two unit prototypes divided by the temperature.
    """

    weight: Float[Tensor, "n width"]
    centre: Float[Tensor, "n width"]

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return 1 - p(true)."""
        # at the centre itself normalize gives 0, not NaN, so p is one half
        cosines = torch.nn.functional.normalize(x - self.centre, dim=-1)
        return torch.sigmoid(-(cosines * self.weight).sum(-1))


@dataclass(frozen=True, slots=True)
class Projection:
    """Similarity to a condition: (1 + cos(x, tanh(P x))) / 2, P the projection on it (CAST).

    `direction` has unit length; its sign cancels, so that p is at least one half,
    but for large states, where tanh saturates.
    """

    direction: Float[Tensor, "n width"]

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return the similarity, moved from [-1, 1] to [0, 1]."""
        projected = torch.tanh((x * self.direction).sum(-1, keepdim=True) * self.direction)
        return (1 + torch.nn.functional.cosine_similarity(x, projected, dim=-1)) / 2


@dataclass(frozen=True, slots=True)
class Network:
    """One hidden layer: the logit of "true" is second . relu(first x + shift) + bias (X11)."""

    first: Float[Tensor, "n hidden width"]
    shift: Float[Tensor, "n hidden"]
    second: Float[Tensor, "n hidden"]
    bias: Float[Tensor, " n"]

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return 1 - p(true)."""
        return torch.sigmoid(-self.logit(x))

    def logit(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state n"]:
        """Return each unit's logit of "true"."""
        inner = torch.einsum("...nw,nhw->...nh", x, self.first) + self.shift
        return (inner.relu() * self.second).sum(-1) + self.bias


SCORES: dict[str, type[Logistic | Cosine | Projection | Network]] = {
    "logistic": Logistic,
    "cosine": Cosine,
    "projection": Projection,
    "network": Network,
}
"""What a score is called in a bundle's file."""


@dataclass(frozen=True, slots=True)
class Platt:
    """Two numbers that make p a frequency: sigmoid(slope * logit(p) + intercept) (X6)."""

    slope: float
    intercept: float

    def __call__(self, p: Float[Tensor, "*state"]) -> Float[Tensor, "*state"]:
        """Return calibrated p; the order of states stays as it is where the slope is positive."""
        # eps: p of exactly 0 or 1 has no finite logit; fitted with the same one
        return torch.sigmoid(self.slope * torch.logit(p, eps=1e-6) + self.intercept)


@dataclass(frozen=True, slots=True)
class Tracker:
    """Classifiers of units of one site, evaluated together; `at` holds (layer, unit).

    calibration: what is made of their mean, if anything.

    Raises:
        BundleError: there is no such site, `at` holds something else, or the classifiers are not
            one for each pair.
    """

    site: SiteName
    at: Int[Tensor, "n 2"]
    score: Score
    calibration: Platt | None = None

    def __post_init__(self) -> None:
        try:
            check_pairs(self.site, self.at)
            n = sizes_of(type(self.score), tensors_of(self.score))["n"]
        except ValueError as error:
            raise BundleError(
                f"tracker: {error}; correct the tracker's site, units or tensors"
            ) from None
        if len(self.at) != n:
            raise BundleError(
                f"tracker: {n} classifiers, but at is of shape {tuple(self.at.shape)}; give one "
                "pair of layer and unit for each"
            )

    def deviation(self, x: Float[Tensor, "*state n width"]) -> Float[Tensor, "*state"]:
        """Return p: the mean over units of the probability that the text deviates (T1, X6).

        `x` is taken to the classifiers' dtype (float32 as fitted), whatever the model computes in.
        p is NaN where an activation is not finite.
        """
        x = x.to(self.dtype)
        p = self.score.deviation(x).mean(-1)
        if self.calibration is not None:
            p = self.calibration(p)
        # a sigmoid makes a sure 0 or 1 of what has overflowed
        return torch.where(x.abs().amax((-2, -1)) < torch.inf, p, torch.nan)

    @property
    def dtype(self) -> torch.dtype:
        """The type that p has."""
        return next(iter(tensors_of(self.score).values())).dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Tracker":
        """Return the same tracker elsewhere."""
        score = move(self.score, device, dtype)
        return Tracker(self.site, self.at.to(device), score, self.calibration)

    def content(self) -> bytes:
        """Return bytes that are equal for equal trackers."""
        parts = [self.site.encode(), content_of(self), content_of(self.score)]
        if self.calibration is not None:
            parts.append(repr(self.calibration).encode())
        return b"|".join(parts)
