"""ShallowJail, an attack: unit vectors towards false answers, at the answer's beginning.

Source: its public program, by a summary (docs/method.md 3.20). In each layer of the residual stream
but the first, v = unit(mean(false) - mean(true)) at the answer's last token; x <- x + alpha v. Its
program adds beta alpha v after the first calls of the model. Here are the two ends: `first`, only
the state that gives an answer's first token (beta 0 after one call), and `every` token (beta 1).
Refusals and compliances are its messages; here false and true answers stand for them.
"""

from typing import Literal

from pydantic import Field

import fasb
from fasb.errors import ConfigError
from fasb.fitting.reads import Read
from fasb.settings import Positions, Section

READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha is the multiplier."""

    tokens: Literal["first", "every"] = Field("first", description="Which tokens are steered")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of all layers but the first.

    Raises:
        ConfigError: the model has one layer.
    """
    import torch

    from fasb.fitting.directions import directions_of, mean_difference, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    bank = training.bank(READ)
    if bank.n_layers < 2:
        raise ConfigError("use: shallowjail edits all layers but the first; take a deeper model")
    difference = mean_difference(bank, training.train_rows(bank))
    away = directions_of(-difference, "difference of class means").direction[1:, 0]
    vector = torch.from_numpy(away).float()
    positions: Positions = "prompt_end" if settings.tokens == "first" else "from_answer"
    return Edit.of("residual", whole_layers(range(1, bank.n_layers)), Add(vector), positions)
