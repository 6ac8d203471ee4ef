"""Operations: what an edit adds to activations.

Pure arithmetic; knows no model, probe or threshold.

In: the activations of the edited units of one layer, `x [row token n width]`, and how strongly each
token is edited, `strength [row token 1 1]`. Out: what is added to x. Where the strength is 0, that
is exactly 0. A new operation is a frozen dataclass of tensors whose first dimension is the unit,
named in `OPERATIONS`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


OPERATIONS: dict[str, type[Add | Remove | Scale]] = {"add": Add, "remove": Remove, "scale": Scale}
"""What an operation is called in a bundle's file."""
