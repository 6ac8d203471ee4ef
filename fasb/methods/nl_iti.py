"""Nonlinear inference-time intervention: heads ranked by small networks, read at several tokens.

Source: Hoscilowicz et al., arXiv 2403.18680 (docs/method.md 3.7). What a head gives is averaged
over an answer's last tokens; a network of one hidden layer with batch normalisation tells true from
false, and the k heads whose network is most accurate on validation questions are edited as in ITI:
x <- x + alpha sigma unit(mean(true) - mean(false)), sigma along that direction, of the same means.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import HeadCount, Section

READ = Read("head", "answer_tail")
READS = (READ,)


class Settings(Section):
    """One setting."""

    k: HeadCount = Field(48, description="Heads that are edited")
    hidden: int = Field(16, ge=1, description="Hidden units of a head's network")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the k heads."""
    import torch

    from fasb.fitting.anchors import best_units
    from fasb.fitting.directions import directions_of, mean_difference, with_sigma
    from fasb.fitting.networks import fit_networks
    from fasb.fitting.probes import accuracy
    from fasb.steering.edit import Edit

    bank = training.bank(READ)
    train, validation = training.train_rows(bank), bank.rows(training.split.validation)
    known = training.once(
        ("nonlinear accuracy", settings.hidden),
        lambda: accuracy(fit_networks(bank, train, settings.hidden), bank, validation),
    )
    heads = best_units(known, settings.k)
    found = directions_of(mean_difference(bank, train), "difference of class means")
    return Edit.add(torch.from_numpy(heads), with_sigma(found, bank, train).vectors(heads))
