"""Trojan activation attack, TA2: towards false answers, at the layer that tells them apart most.

Source: Wang and Shu, arXiv 2311.09433 (docs/method.md 3.18). v = mean(false) - mean(true) of the
residual stream at the answer's last token, at the layer of the first half where the Jensen-Shannon
divergence between the softmax of both means is largest; x <- x + alpha v from the answer on. An
attack: here it says how far a model, or a defence that watches it, can be pushed the wrong way.
"""

from typing import TYPE_CHECKING

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """Nothing to set; alpha is the multiplier."""


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer."""
    import numpy as np
    import torch

    from fasb.fitting.directions import mean_difference, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    bank = training.bank(READ)
    rows = training.train_rows(bank)
    true_minus_false = mean_difference(bank, rows)[:, 0]
    scores = []
    for layer in range((bank.n_layers + 1) // 2):
        x = bank.layer(layer)[:, 0].astype(np.float64)
        true, false = (x[rows & (bank.label == label)].mean(axis=0) for label in (1, 0))
        scores.append(divergence(true, false))
    layer = int(np.argmax(scores))
    vector = torch.from_numpy(-true_minus_false[layer][None].astype(np.float32))
    return Edit.of("residual", whole_layers([layer]), Add(vector))


def divergence(a: "Float[np.ndarray, ' width']", b: "Float[np.ndarray, ' width']") -> float:
    """Return the Jensen-Shannon divergence between the softmax of two vectors, in nats."""
    from scipy.special import rel_entr, softmax

    p, q = softmax(a), softmax(b)
    middle = (p + q) / 2
    return float((rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2)
