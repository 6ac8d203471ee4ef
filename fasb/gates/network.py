"""A gate of small networks: what the probe gate does, where no plane need part true from false.

`ours` (docs/method.md X11): NL-ITI's network of one hidden layer (3.7) per head, at the answer's
last token, the weights behind its hidden units with the probes' L2 penalty (P1); the k heads whose
network is most accurate on validation questions (P3). p is the mean of 1 - p(true), as in T1.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import AnswerRead, Read
from fasb.settings import HeadCount, Section


class Settings(Section):
    """One setting."""

    k: HeadCount = Field(24, description="Anchors: heads that are tracked")
    hidden: int = Field(16, ge=1, description="Hidden units of a head's network")
    read: AnswerRead = Field("answer_end", description="Where networks are fitted (A3, X10)")


def reads(settings: Settings) -> tuple[Read, ...]:
    """Return the ends of answers (A3), or tokens of answers behind the evaluation prompt (X10)."""
    return (Read("head", settings.read),)


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Tracker":
    """Return the tracker of the k anchors."""
    from fasb.fitting.anchors import best_units
    from fasb.fitting.networks import fit_networks
    from fasb.fitting.probes import accuracy

    (read,) = reads(settings)
    bank = training.bank(read)
    train, validation = training.train_rows(bank), bank.rows(training.split.validation)
    # C is no part of the keys, as a training has one
    of = settings.hidden, read
    networks = training.once(
        ("networks", *of),
        lambda: fit_networks(bank, train, settings.hidden, 1 / training.sections.probes.C),
    )
    known = training.once(
        ("accuracy of networks", *of), lambda: accuracy(networks, bank, validation)
    )
    return networks.tracker(best_units(known, settings.k))
