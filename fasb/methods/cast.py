"""Conditional steering's behaviour vector: the first principal component of centred pairs.

Source: Lee et al., arXiv 2409.05907 (docs/method.md 3.4). At each behaviour layer, states of true
and false answers are centred by question; the first principal component, its sign such that true
answers project higher, is added to the residual stream. When to add it is its gate's business
(`fasb/gates/condition.py`): judged once, at the end of the prompt.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha is the strength, in units of the residual stream."""

    first: float = Field(0.3, ge=0, le=1, description="First behaviour layer, share of the depth")
    last: float = Field(0.5, ge=0, le=1, description="Last behaviour layer, share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the behaviour layers."""
    import numpy as np
    import torch

    from fasb.fitting.directions import (
        layers_between,
        principal_direction,
        question_differences,
        whole_layers,
    )
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    bank = training.bank(READ)
    rows = training.train_rows(bank)
    layers = layers_between(settings.first, settings.last, bank.n_layers)
    vectors = []
    for layer in layers:
        differences = question_differences(bank, rows, layer)[:, 0]
        vectors.append(principal_direction(differences))
    added = Add(torch.from_numpy(np.stack(vectors).astype(np.float32)))
    return Edit.of("residual", whole_layers(layers), added)
