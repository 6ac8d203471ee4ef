"""Networks: for every unit of a site, one hidden layer that tells true answers from false ones.

In: a bank and the rows to fit on. Out: `Networks` of all units; their logits, and a `Tracker` of
any of them. Hidden units are normalised over the rows that are fitted on and shifted by a learned
offset, as by batch normalisation, and that is folded into the weights. Memory holds one layer.
Knows no threshold.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.fitting.bank import Bank
from fasb.fitting.probes import both_classes, finite_layer
from fasb.settings import SiteName
from fasb.steering.tracker import Network, Tracker

STEPS, RATE = 150, 0.02
"""Steps of Adam, each on all rows, and their rate; NL-ITI takes 10 epochs of small batches."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks of all units of a site, a layer at a time (docs/method.md 3.7, X11)."""

    site: SiteName
    layers: tuple[Network, ...]

    def logit(
        self, layer: int, x: Float[np.ndarray, "answer unit width"]
    ) -> Float[np.ndarray, "answer unit"]:
        """Return the logit of "true" for one layer's activations."""
        return self.layers[layer].logit(torch.from_numpy(x).float()).numpy()

    def tracker(self, at: Int[np.ndarray, "n 2"]) -> Tracker:
        """Return the tracker of these (layer, unit) pairs, in their order."""
        parts: dict[str, list[Tensor]] = {}
        for layer, unit in at.tolist():
            for name in Network.__slots__:
                parts.setdefault(name, []).append(getattr(self.layers[layer], name)[unit])
        score = Network(**{name: torch.stack(values) for name, values in parts.items()})
        return Tracker(self.site, torch.from_numpy(at.astype(np.int64)), score)


def fit_networks(
    bank: Bank, rows: Bool[np.ndarray, " answer"], hidden: int, penalty: float = 0.0
) -> Networks:
    """Return networks of all units.

    penalty: half of it times the squared weights behind `hidden` is added to the loss.
    """
    true = torch.from_numpy(both_classes(bank, rows) == 1).float()[:, None]
    generator, layers = torch.Generator().manual_seed(0), []
    for layer in range(bank.n_layers):
        x = torch.from_numpy(finite_layer(bank, layer, rows)).float()
        layers.append(_fit_layer(x, true.expand(-1, bank.n_units), hidden, penalty, generator))
    return Networks(bank.site, tuple(layers))


def _fit_layer(
    x: Float[Tensor, "answer unit width"],
    true: Float[Tensor, "answer unit"],
    hidden: int,
    penalty: float,
    generator: torch.Generator,
) -> Network:
    """Fit all units of a layer at once; a sum over units has each one's own gradients."""
    n, width = x.shape[1:]
    first = (torch.randn(n, width, hidden, generator=generator) / 8).requires_grad_()
    # normalised, a unit would bend at its mean alone; a learned scale would repeat `second`
    offset = torch.zeros(n, hidden, requires_grad=True)
    second = (torch.randn(n, hidden, generator=generator) / hidden**0.5).requires_grad_()
    bias = torch.zeros(n, requires_grad=True)
    optimizer = torch.optim.Adam([first, offset, second, bias], lr=RATE)
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def normalised() -> Network:
        inner = torch.einsum("nuw,uwh->nuh", x, first)
        mean, spread = inner.mean(0), inner.std(0) + 1e-5
        # (x . w - mean) / spread + offset as weights and shift; `first` is [unit, width, hidden]
        return Network(first.mT / spread[..., None], offset - mean / spread, second, bias)

    for _ in range(STEPS):
        optimizer.zero_grad()
        fit = loss(normalised().logit(x), true, reduction="sum")
        (fit + penalty / 2 * (second**2).sum()).backward()
        optimizer.step()
    with torch.no_grad():
        found = normalised()
        return Network(found.first, found.shift, second.detach(), bias.detach())
