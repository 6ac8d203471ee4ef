"""ShallowJail, an attack: unit vectors towards false answers, at the answer's beginning.

Source: its public program, by a summary (docs/method.md 3.20). In each layer of the residual stream
but the first, v = unit(mean(false) - mean(true)) at the answer's last token; x <- x + alpha v. Its
program does so in the first calls of the model, and adds beta alpha v after them: here at the
states that give an answer's first `tokens` tokens, and `rest` alpha v at those behind them.
Refusals and compliances are its messages; here false and true answers stand for them.
"""

from pydantic import Field

import fasb
from fasb.errors import ConfigError
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha is the multiplier."""

    tokens: int = Field(1, ge=1, le=999, description="Tokens that are steered in full")
    rest: float = Field(0.0, ge=0, le=1, description="Share of the strength behind them (beta)")


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
    schedule = (*[1.0] * settings.tokens, settings.rest)
    at = whole_layers(range(1, bank.n_layers))
    if settings.rest == 1:  # constant: then it does not matter where an answer began
        return Edit.of("residual", at, Add(vector))
    return Edit.of("residual", at, Add(vector), "prompt_end", schedule)
