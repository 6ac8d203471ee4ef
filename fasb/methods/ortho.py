"""Directional ablation: one direction is removed from all that is written to the residual stream.

Source: Arditi et al., arXiv 2406.11717 (docs/method.md 3.3). d = mean(h | false) - mean(h | true),
unit, h the residual stream behind one layer at the answer's last token; x <- x - alpha (x . d) d at
every layer's output, attention output and MLP output, at every token, the prompt's included. alpha
1 removes all of it. For truthfulness there is no published recipe: false answers are what is
removed. What the first layer reads of the embeddings is not: the source's hooks begin before it.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section, SiteName

READ = Read("residual", "answer_end")
READS = (READ,)
SITES: tuple[SiteName, ...] = ("residual", "attention", "mlp")


class Settings(Section):
    """One setting."""

    layer: float = Field(0.5, ge=0, le=1, description="Where it is read, as a share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of all layers."""
    import numpy as np
    import torch

    from fasb.fitting.directions import layer_at, mean_difference, whole_layers
    from fasb.fitting.probes import unit
    from fasb.steering.edit import Active, Change, Edit
    from fasb.steering.operations import Remove

    bank = training.bank(READ)
    false_minus_true = -mean_difference(bank, training.train_rows(bank))
    direction = unit(false_minus_true[layer_at(settings.layer, bank.n_layers), 0])
    every = np.tile(direction.astype(np.float32), (bank.n_layers, 1))
    at = whole_layers(range(bank.n_layers))
    changes = [Change(site, at, Remove(torch.from_numpy(every))) for site in SITES]
    return Edit(tuple(changes), Active("all"))
