"""State tracking: how likely the text so far is to deviate.

In: head outputs of the k anchors at one token per row. Out: p in [0, 1] per row, high = deviates.
Knows no model, no threshold and no decoding; `policy.py` decides what p means.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tracker:
    """Classifiers of the anchors, evaluated together (docs/method.md T1, P7).

    Logistic probes: the logit of "true" is x . weight + bias. Cosine prototypes, where `centre` is
    given: the logit is x - centre, scaled to unit length, . weight + bias; weight is the difference
    of the two unit prototypes divided by the temperature, and the bias is 0.
    """

    heads: Int[Tensor, "k 2"]
    weight: Float[Tensor, "k head_dim"]
    bias: Float[Tensor, " k"]
    centre: Float[Tensor, "k head_dim"] | None = None

    def content(self) -> bytes:
        """Equal for equal trackers."""
        parts = (
            self.heads,
            self.weight,
            self.bias,
            *(() if self.centre is None else (self.centre,)),
        )
        return b"".join(part.cpu().to(torch.float64).numpy().tobytes() for part in parts)

    def deviation(self, x: Float[Tensor, "*state k head_dim"]) -> Float[Tensor, "*state"]:
        """Mean over anchors of 1 - p(true); 1 - sigmoid(z) is written sigmoid(-z), exact near 1.

        `x` is taken to the tracker's dtype (float32 as fitted), whatever the model computes in.
        """
        x = x.to(self.weight.dtype)
        if self.centre is not None:
            x = torch.nn.functional.normalize(x - self.centre, dim=-1)
        logit = (x * self.weight).sum(-1) + self.bias
        return torch.sigmoid(-logit).mean(-1)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Tracker":
        """The same tracker elsewhere."""
        centre = None if self.centre is None else self.centre.to(device, dtype)
        return Tracker(
            self.heads.to(device),
            self.weight.to(device, dtype),
            self.bias.to(device, dtype),
            centre,
        )
