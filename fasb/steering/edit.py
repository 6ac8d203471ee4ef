"""Edits: what is changed where. Arithmetic on activations; knows no model, no probe and no threshold.

In: the outputs of one layer's heads, and a strength per row and token. Out: the edited outputs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Edit:
    """Steering vectors of the k anchors: strength times `vector` is added to each anchor's output.

    `heads` are (layer, head), the anchors' order; `vector` already holds sigma (docs/method.md T3).
    """

    heads: Int[Tensor, "k 2"]
    vector: Float[Tensor, "k head_dim"]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Edit":
        """The same edit elsewhere."""
        return Edit(self.heads.to(device), self.vector.to(device, dtype))

    def content(self) -> bytes:
        """Equal for equal edits."""
        return (
            self.heads.cpu().numpy().tobytes()
            + self.vector.cpu().to(torch.float64).numpy().tobytes()
        )

    def by_layer(self, n_heads: int) -> dict[int, Float[Tensor, " width"]]:
        """For each layer with an anchor, what strength 1 adds to all its heads side by side (heads * head_dim)."""
        rows: dict[int, Tensor] = {}
        for (layer, head), vector in zip(self.heads.tolist(), self.vector, strict=True):
            row = rows.setdefault(layer, self.vector.new_zeros(n_heads, self.vector.shape[1]))
            row[head] = vector
        return {layer: row.flatten() for layer, row in rows.items()}


def add(
    activation: Float[Tensor, "row token width"],
    vector: Float[Tensor, " width"],
    strength: Float[Tensor, "row token"],
) -> Float[Tensor, "row token width"]:
    """The activation with strength times vector added; where the strength is 0 it is unchanged."""
    return activation + strength.to(activation.dtype)[..., None] * vector
