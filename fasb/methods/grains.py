"""Gradient-based attribution, GrAInS: what the tokens that decide between answers do to states.

Source: Nguyen et al., arXiv 2507.18043 (docs/method.md 3.17). Per training question, integrated
gradients of log p(best true answer) - log p(first false answer) over the prompt's embeddings, from
padding on, find the k tokens that speak most for and most against truth. A question's difference is
the state at the prompt's end without the tokens against it, minus that without those for it (pad
takes their place). Per layer, the first principal component of the differences is added, the
state's length kept: x <- (x + alpha v) |x| / |x + alpha v|.
"""

from pydantic import Field

import fasb
from fasb.settings import Section

NEEDS_MODEL = True
MOST = 50  # questions


class Settings(Section):
    """One setting; alpha is in units of the residual stream."""

    k: int = Field(3, ge=1, description="Tokens for truth, and tokens against it")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of all layers."""
    import torch

    from fasb.fitting.directions import principal_direction, whole_layers
    from fasb.fitting.learning import answer_pairs, attribution, last_states
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Turn

    model = training.model()
    without = []
    for true, false in answer_pairs(training, model)[:MOST]:
        prompt = list(true.tokens[: min(true.start, false.start)])
        n = len(prompt)
        score = attribution(model, true)[:n] - attribution(model, false)[:n]
        order = score.argsort(descending=True, stable=True).tolist()
        # two rows a question: without what speaks against truth, then without what speaks for it
        for left_out in (order[-settings.k :], order[: settings.k]):
            without.append([model.pad if i in left_out else t for i, t in enumerate(prompt)])
    states = last_states(model, without, "residual")[0][:, :, 0]
    differences = (states[0::2] - states[1::2]).double().numpy()
    layers = range(model.layout.n_layers)
    vectors = [torch.from_numpy(principal_direction(differences[:, layer])) for layer in layers]
    return Edit.of("residual", whole_layers(layers), Turn(torch.stack(vectors).float()))
