"""Semantics-adaptive intervention: what truth makes larger is scaled, at the prompt's last token.

Source: Wang et al., arXiv 2410.12299 (docs/method.md 3.6). On the ends of true and false answers,
`head`: the mean over a head's dimensions of mean(true) - mean(false) is one signed number a head;
the k largest heads are scaled whole. `hidden`: the k largest entries of the MLP outputs are;
`neuron`: those of what the MLP's activation function gives. x <- x + alpha x there. The released
program also holds every other head of all layers at its unsteered value, a side effect that is not
reproduced.
"""

from typing import Literal

from pydantic import Field

import fasb
from fasb.errors import ConfigError
from fasb.fitting.reads import Read
from fasb.settings import Section, SiteName

SITES: dict[str, SiteName] = {"head": "head", "hidden": "mlp", "neuron": "neuron"}
"""Where each variant reads and scales."""


class Settings(Section):
    """One setting; alpha is the paper's delta."""

    k: int = Field(5, ge=1, description="Heads, or entries, that are scaled")
    variant: Literal["head", "hidden", "neuron"] = "head"


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the ends of answers: head outputs, MLP outputs or the MLP's activations."""
    return (Read(SITES[settings.variant], "answer_end"),)


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the k heads or entries that are largest for true answers.

    Raises:
        ConfigError: k is more than there are.
    """
    import numpy as np
    import torch

    from fasb.fitting.directions import mean_difference
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Scale

    bank = training.bank(reads(settings)[0])
    difference = mean_difference(bank, training.train_rows(bank))
    whole_heads = settings.variant == "head"
    ranked = difference.mean(axis=-1) if whole_heads else difference
    if settings.k > ranked.size:
        raise ConfigError(f"k: {settings.k}, but there are {ranked.size}; set k to that or less")
    flat = np.argsort(-ranked.ravel(), kind="stable")[: settings.k]
    chosen = np.zeros(ranked.size, dtype=np.float32)
    chosen[flat] = 1.0
    mask = chosen.reshape(ranked.shape)
    if whole_heads:
        mask = np.repeat(mask[..., None], bank.width, axis=-1)
    # entries of one layer's MLP share a row, as each unit stands once in an edit
    layer, unit = np.nonzero(mask.any(axis=-1))
    at = torch.from_numpy(np.stack([layer, unit], axis=1))
    return Edit.of(bank.site, at, Scale(torch.from_numpy(mask[layer, unit])), "prompt_end")
