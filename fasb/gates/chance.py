"""A gate that knows nothing: one head along a direction drawn at random (docs/method.md C4).

It is moved and stretched so that on training answers its logit of p has the mean and the standard
deviation of the probe gate's: it fires about as often at the same beta, on other answers.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.gates.probe import Ranking
from fasb.settings import HeadCount, Section

READ = Read("head", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting: that of the probe gate in whose place it stands."""

    k: HeadCount = Field(24, description="Anchors of the probe gate")
    classifier: Ranking = "logistic"


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Tracker":
    """Return the tracker of one head."""
    import numpy as np
    import torch

    from fasb.fitting.probes import unit
    from fasb.gates import probe
    from fasb.steering.tracker import Logistic, Tracker

    like = probe.fit(training, probe.Settings(k=settings.k, classifier=settings.classifier))
    bank = training.bank(READ)
    rows = training.train_rows(bank)
    states = [bank.layer(layer)[rows][:, head] for layer, head in like.at.tolist()]
    p = like.deviation(torch.from_numpy(np.stack(states, axis=1)).double()).double()
    wanted = torch.logit(p, eps=1e-6).numpy()

    chance = training.chance("gate")
    layer, head = (int(chance.integers(n)) for n in (bank.n_layers, bank.n_units))
    direction = unit(chance.standard_normal(bank.width))
    along = bank.layer(layer)[rows][:, head].astype(np.float64) @ direction
    # a head that never varies cannot be stretched
    stretch = wanted.std() / (along.std() or 1.0)
    # a Logistic's logit is of "true": that of p with the other sign
    weight = -stretch * direction
    bias = stretch * along.mean() - wanted.mean()
    score = Logistic(
        torch.from_numpy(weight[None].astype(np.float32)), torch.tensor([bias]).float()
    )
    return Tracker("head", torch.tensor([[layer, head]]), score)
