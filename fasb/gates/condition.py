"""Conditional steering's gate: is the prompt of the kind that goes wrong?

Source: Lee et al., arXiv 2409.05907 (docs/method.md 3.4). s = cos(h, tanh(P h)), h the residual
stream of the condition layer at the prompt's last token, P the projection on a condition vector,
whose sign cancels: s >= 0 but where tanh saturates. p = (1 + s) / 2, so that the paper's threshold
t is beta = (1 + t) / 2. The condition vector is the first principal component of pairs of true and
false answers, centred by question: for truth there is no published recipe.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")


class Settings(Section):
    """One setting."""

    condition: float = Field(0.3, ge=0, le=1, description="Condition layer, share of the depth")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the residual stream at the ends of answers."""
    return (READ,)


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Tracker":
    """Return the tracker of the condition layer."""
    import numpy as np
    import torch

    from fasb.fitting.directions import (
        layer_at,
        principal_direction,
        question_differences,
        whole_layers,
    )
    from fasb.steering.tracker import Projection, Tracker

    bank = training.bank(READ)
    layer = layer_at(settings.condition, bank.n_layers)
    differences = question_differences(bank, training.train_rows(bank), layer)[:, 0]
    condition = principal_direction(differences)[None].astype(np.float32)
    score = Projection(torch.from_numpy(condition))
    return Tracker("residual", whole_layers([layer]), score)
