"""Conditional steering's gate: is the prompt of the kind that goes wrong?

Source: Lee et al., arXiv 2409.05907 (docs/method.md 3.4). s = cos(h, tanh(P h)), h the residual
stream of the condition layer at the prompt's last token, P the projection on a condition vector:
the first principal component of pairs of true and false answers, centred by question. The paper
searches threshold and direction of the comparison on labelled prompts; here nobody labelled any, so
both are settings, tuned like all others. What s comes to hangs on the model, so p is its place
among training prompts: that of the logit of (1 + s) / 2 in a normal distribution, about the share
of prompts that s lies above (`below`: under), and steering where p > beta leaves the share beta.
"""

from typing import Literal

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

NEEDS_MODEL = True
READ = Read("residual", "answer_end")
READS = (READ,)
PROBIT = 1.702
"""sigmoid(1.702 z) is within .01 of the normal distribution's share below z."""


class Settings(Section):
    """One setting."""

    condition: float = Field(0.3, ge=0, le=1, description="Condition layer, share of the depth")
    side: Literal["above", "below"] = Field("above", description="Which side of the threshold")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Tracker":
    """Return the tracker of the condition layer."""
    from dataclasses import replace

    import numpy as np
    import torch

    from fasb.fitting.directions import (
        layer_at,
        principal_direction,
        question_differences,
        whole_layers,
    )
    from fasb.fitting.learning import prompt_ends
    from fasb.steering.tracker import Platt, Projection, Tracker

    bank, model = training.bank(READ), training.model()
    layer = layer_at(settings.condition, bank.n_layers)
    differences = question_differences(bank, training.train_rows(bank), layer)[:, 0]
    condition = principal_direction(differences)[None].astype(np.float32)
    similarity = Tracker("residual", whole_layers([layer]), Projection(torch.from_numpy(condition)))
    states, _ = prompt_ends(training, model)
    logit = torch.logit(similarity.deviation(states[:, layer]).double(), eps=1e-6)
    # prompts that are all alike are not told apart
    slope = PROBIT / float(logit.std(correction=0) or 1.0)
    slope = slope if settings.side == "above" else -slope
    return replace(similarity, calibration=Platt(slope, -slope * float(logit.mean())))
