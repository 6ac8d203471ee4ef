"""Activation-steered compression's strength law, ASC: a mean difference as long as a KL allows.

Source: Azizi et al., arXiv 2507.04742 (docs/method.md 3.12). v as in CAA (for concise and verbose
reasoning stand true and false answers); gamma is the largest strength whose expected KL divergence
of the next token, to second order, stays within a budget: gamma = sqrt(2 budget / E Var_p(J v)), p
the unsteered distribution behind a training prompt and J v the change of its logits along v. x <- x
+ alpha gamma v, so that alpha 1 spends the budget.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

NEEDS_MODEL = True
READ = Read("residual", "answer_end")
READS = (READ,)
STEP = 1e-2
"""Length of the step that J v is taken with, as a share of the state's."""


class Settings(Section):
    """One setting; alpha is 1."""

    layer: float = Field(0.5, ge=0, le=1, description="Which layer, as a share of the depth")
    budget: float = Field(0.1, gt=0, description="Expected KL divergence, in nats")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer."""
    import numpy as np
    import torch

    from fasb.fitting.directions import layer_at, question_differences, whole_layers
    from fasb.fitting.learning import training_prompts
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    bank, model = training.bank(READ), training.model()
    layer = layer_at(settings.layer, bank.n_layers)
    rows = training.train_rows(bank)
    differences = question_differences(bank, rows, layer)
    vector = torch.from_numpy(differences.mean(axis=0).astype(np.float32))
    edit = Edit.of("residual", whole_layers([layer]), Add(vector))
    prompts = training_prompts(training, model)
    length = float(abs(bank.layer(layer)[rows]).mean() / vector.abs().mean())
    # the budget is no part of the key: a grid over budgets runs the model once
    curvature = training.once(
        ("curvature", layer), lambda: mean_variance(model, prompts, edit, STEP * length)
    )
    gamma = (2 * settings.budget / curvature) ** 0.5 if curvature > 0 else 0.0
    return Edit.of("residual", whole_layers([layer]), Add(gamma * vector))


def mean_variance(
    model: "fasb.LoadedModel",
    prompts: list[list[int]],
    edit: "fasb.Edit",
    step: float,
) -> float:
    """Return the mean over prompts of Var_p(J v), v the edit's vector."""
    from fasb.fitting.learning import last_states

    logits = []
    for strength in (0.0, step, -step):
        logits.append(last_states(model, prompts, "residual", edit, strength)[1].double())
    plain, up, down = logits
    # J v by central differences; [prompt, vocab]
    slope, p = (up - down) / (2 * step), plain.softmax(-1)
    variance = (p * slope**2).sum(-1) - (p * slope).sum(-1) ** 2
    return float(variance.mean())
