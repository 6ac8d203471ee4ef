"""Entropic activation steering, EAST: the states in which the model is least sure, averaged.

Source: Rahn et al., arXiv 2406.00244 (docs/method.md 3.11). v = sum_i H_i h_i / sum_i H_i over the
training prompts, h_i the residual stream of one layer at the prompt's last token, H_i the entropy
of what follows; x <- x + alpha v from the answer on. It knows no answers: more of it makes less
sure. The paper's entropy is that of an agent's actions; here of the next token.
"""

from pydantic import Field

import fasb
from fasb.settings import Section

NEEDS_MODEL = True


class Settings(Section):
    """One setting; alpha is the multiplier, and may be negative."""

    layer: float = Field(0.5, ge=0, le=1, description="Which layer, as a share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer."""
    from fasb.fitting.directions import layer_at, whole_layers
    from fasb.fitting.learning import prompt_ends
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    model = training.model()
    layer = layer_at(settings.layer, model.layout.n_layers)
    states, logits = prompt_ends(training, model)
    logprob = logits.log_softmax(-1)
    entropy = -(logprob.exp() * logprob).sum(-1)
    weight = entropy / entropy.sum()
    vector = (weight[:, None] * states[:, layer, 0]).sum(0, keepdim=True)
    return Edit.of("residual", whole_layers([layer]), Add(vector))
