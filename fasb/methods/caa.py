"""Contrastive activation addition: a mean difference, added to the residual stream of one layer.

Source: Rimsky et al., arXiv 2312.06681 (docs/method.md 3.2). v = mean over questions of h(true) -
h(false), h the residual stream behind the layer at the answer's last token; m * v is added at every
token from the last one of the prompt on. Question and answers stand in for the pairs of letters.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha is the multiplier m."""

    layer: float = Field(0.5, ge=0, le=1, description="Which layer, as a share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer."""
    import numpy as np
    import torch

    from fasb.fitting.directions import layer_at, question_differences, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    bank = training.bank(READ)
    layer = layer_at(settings.layer, bank.n_layers)
    vector = question_differences(bank, training.train_rows(bank), layer).mean(axis=0)
    added = Add(torch.from_numpy(vector.astype(np.float32)))
    return Edit.of("residual", whole_layers([layer]), added)
