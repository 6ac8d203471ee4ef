"""Operations: what an edit adds to activations.

Pure arithmetic; knows no model, probe or threshold.

In: the activations of the edited units of one layer, `x [row token n width]`, and how strongly each
token is edited, `strength [row token 1 1]`. Out: what is added to x. Where the strength is 0, that
is exactly 0. A new operation is a frozen dataclass of tensors whose first dimension is the unit,
named in `OPERATIONS`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Operation(Protocol):
    """What every operation can do."""

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return what is added to `x`."""
        ...


@dataclass(frozen=True, slots=True)
class Add:
    """Add a vector: strength * v (FASB T3, ITI, CAA)."""

    vector: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times the vector, whatever `x` is."""
        return strength * self.vector


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a direction: -strength * (x . d) d, d of unit length (ORTHO); at 1 nothing is left."""

    direction: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return minus strength times the projection of `x` on the direction."""
        along = (x * self.direction).sum(-1, keepdim=True)
        return -strength * along * self.direction


@dataclass(frozen=True, slots=True)
class Scale:
    """Scale what is there: strength * (factor * x), the factor usually 0 or 1 (SADI)."""

    factor: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times the activations, entry by entry times the factor."""
        return strength * (self.factor * x)


@dataclass(frozen=True, slots=True)
class Affine:
    """Move towards an affine map, entry by entry: strength * (w * x + b - x) (LinEAS)."""

    weight: Float[Tensor, "n width"]
    bias: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times the way from `x` to its image."""
        return strength * (self.weight * x + self.bias - x)


@dataclass(frozen=True, slots=True)
class LowRank:
    """Set a few directions to a linear function: strength * R' (W x + b - R x) (LoReFT)."""

    basis: Float[Tensor, "n rank width"]
    weight: Float[Tensor, "n rank width"]
    bias: Float[Tensor, "n rank"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times what moves `x` along the rows of the basis."""
        # R' (W x + b) - R' R x = R' ((W - R) x + b); along: [row, token, n, rank]
        along = ((self.weight - self.basis) * x.unsqueeze(-2)).sum(-1) + self.bias
        return strength * (along.unsqueeze(-1) * self.basis).sum(-2)


@dataclass(frozen=True, slots=True)
class ByProbe:
    """Add a vector as far as a probe says "false": strength * sigmoid(-(w . x + b)) * v (ACT)."""

    weight: Float[Tensor, "n width"]
    bias: Float[Tensor, " n"]
    vector: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return the vector times strength and the probability of "false" of each unit."""
        logit = (x * self.weight).sum(-1) + self.bias
        return strength * torch.sigmoid(-logit).unsqueeze(-1) * self.vector


@dataclass(frozen=True, slots=True)
class ToBoundary:
    """Move to the near side of a plane: strength * max(0, -(w . x + b)) / |w|^2 * w (MERA).

    At strength 1 the shortest way to w . x + b = 0; what is beyond it already stays.
    """

    weight: Float[Tensor, "n width"]
    bias: Float[Tensor, " n"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times the shortest way to the plane, 0 beyond it."""
        missing = (-(x * self.weight).sum(-1) - self.bias).clamp(min=0).unsqueeze(-1)
        squared = (self.weight**2).sum(-1, keepdim=True)
        # a weight of 0 has no plane: 0 / tiny moves nothing, where 0 / 0 would be NaN
        tiny = torch.finfo(squared.dtype).tiny
        return strength * missing * (self.weight / squared.clamp(min=tiny))


@dataclass(frozen=True, slots=True)
class ByClass:
    """Add the vector of the likeliest class: strength * v[argmax_c (w_c . x + b_c)] (G-ACT)."""

    weight: Float[Tensor, "n class width"]
    bias: Float[Tensor, "n class"]
    vector: Float[Tensor, "n class width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return strength times the vector that each unit's classifier picks."""
        logit = (self.weight * x.unsqueeze(-2)).sum(-1) + self.bias
        # logit and picked: [row, token, n, class]
        picked = torch.nn.functional.one_hot(logit.argmax(-1), logit.shape[-1]).to(x.dtype)
        return strength * (picked.unsqueeze(-1) * self.vector).sum(-2)


@dataclass(frozen=True, slots=True)
class Turn:
    """Add a vector and keep the length: (x + strength * v) |x| / |x + strength * v| (GrAInS)."""

    vector: Float[Tensor, "n width"]

    def delta(
        self, x: Float[Tensor, "row token n width"], strength: Float[Tensor, "row token 1 1"]
    ) -> Float[Tensor, "row token n width"]:
        """Return what turns `x` towards the vector."""
        moved = x + strength * self.vector
        length = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        delta = moved * (x.norm(dim=-1, keepdim=True) / length) - x
        # the quotient of equal lengths is not always 1 to the bit
        return torch.where(strength == 0, torch.zeros_like(delta), delta)


OPERATIONS: dict[str, type[Operation]] = {
    "add": Add,
    "remove": Remove,
    "scale": Scale,
    "affine": Affine,
    "low_rank": LowRank,
    "by_probe": ByProbe,
    "to_boundary": ToBoundary,
    "by_class": ByClass,
    "turn": Turn,
}
"""What an operation is called in a bundle's file."""
