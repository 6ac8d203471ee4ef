"""Nonlinear inference-time intervention: heads ranked by small networks, read at several tokens.

Source: Hoscilowicz et al., arXiv 2403.18680 (docs/method.md 3.7). What a head gives is averaged
over an answer's last tokens; a network of one hidden layer with batch normalisation tells true from
false, and the k heads whose network is most accurate on validation questions are edited as in ITI:
x <- x + alpha sigma unit(mean(true) - mean(false)), sigma along that direction, of the same means.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from fasb.fitting.reads import Read
from fasb.settings import Section

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float

    import fasb.fitting.bank
    import fasb.fitting.training
    import fasb.steering.edit


READ = Read("head", "answer_tail")
STEPS, RATE = 150, 0.02  # of Adam, on all rows; the paper takes 10 epochs of small batches


class Settings(Section):
    """One setting."""

    k: int = Field(48, ge=1, description="Heads that are edited")
    hidden: int = Field(16, ge=1, description="Hidden units of a head's network")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the means over the last tokens of answers."""
    return (READ,)


def fit(
    training: "fasb.fitting.training.Training", settings: Settings
) -> "fasb.steering.edit.Edit":
    """Return the edit of the k heads."""
    import torch

    from fasb.fitting.anchors import best_units
    from fasb.fitting.directions import directions_of, mean_difference, with_sigma
    from fasb.steering.edit import Edit

    bank = training.bank(READ)
    train, validation = training.train_rows(bank), bank.rows(training.split.validation)
    accuracy = training.once(
        ("nonlinear accuracy", settings.hidden),
        lambda: network_accuracy(bank, train, validation, settings.hidden),
    )
    heads = best_units(accuracy, settings.k)
    found = directions_of(mean_difference(bank, train), "difference of class means")
    return Edit.add(torch.from_numpy(heads), with_sigma(found, bank, train).vectors(heads))


def network_accuracy(
    bank: "fasb.fitting.bank.Bank",
    train: "Bool[np.ndarray, ' answer']",
    validation: "Bool[np.ndarray, ' answer']",
    hidden: int,
) -> "Float[np.ndarray, 'layer unit']":
    """Return the share of validation rows that each head's network tells right."""
    import numpy as np
    import torch

    generator, found = torch.Generator().manual_seed(0), []
    label = torch.from_numpy(bank.label == 1)[:, None].expand(-1, bank.n_units)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    for layer in range(bank.n_layers):
        x, n = torch.from_numpy(bank.layer(layer)), bank.n_units
        first = (torch.randn(n, bank.width, hidden, generator=generator) / 8).requires_grad_()
        second = (torch.randn(n, hidden, generator=generator) / hidden**0.5).requires_grad_()
        bias = torch.zeros(n, requires_grad=True)
        optimizer = torch.optim.Adam([first, second, bias], lr=RATE)
        for _ in range(STEPS):
            inner = torch.einsum("nuw,uwh->nuh", x, first)
            mean, spread = inner[train].mean(0), inner[train].std(0) + 1e-5
            logit = (((inner - mean) / spread).relu() * second).sum(-1) + bias
            optimizer.zero_grad()
            loss(logit[train], label[train].float(), reduction="sum").backward()
            optimizer.step()
        right = (logit > 0) == label
        found.append(right[validation].float().mean(0).numpy())
    return np.stack(found).astype(np.float64)
