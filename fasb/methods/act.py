"""Adaptive activation steering: directions of several clusters, each as strong as its probe says.

Source: Wang et al., arXiv 2406.00034 (docs/method.md 3.5). Per head, the questions' differences
mean(true) - mean(false) are cut into clusters by k-means; each cluster's answers give a probe, and
the k heads whose probe is best of that cluster are edited: x <- x + alpha (1 - p(true | x)) sigma
unit(weight), p anew at every token and head. Clusters follow each other, so that a head of several
is read as the ones before have left it. p = 1 adds nothing.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import HEAD_READS
from fasb.settings import HeadCount, Section

READS = HEAD_READS
LEAST = 5
"""Validation questions that a cluster's accuracy needs; with fewer it counts as 0."""


class Settings(Section):
    """One setting; the defaults are the released program's, whose alpha is 12."""

    k: HeadCount = Field(24, description="Heads that are edited for each cluster")
    clusters: int = Field(3, ge=1, description="Clusters of questions, in every head")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of k heads for each cluster."""
    import numpy as np
    import torch

    from fasb.fitting.anchors import best_units
    from fasb.fitting.clusters import cluster_questions
    from fasb.fitting.directions import directions_of, with_sigma
    from fasb.fitting.probes import fit_probe
    from fasb.steering.edit import Change, Edit
    from fasb.steering.operations import ByProbe

    bank, following = (training.bank(read) for read in READS)
    train, validation = training.train_rows(bank), bank.rows(training.split.validation)
    shape = settings.clusters, bank.n_layers, bank.n_units
    weight, bias, accuracy = np.zeros((*shape, bank.width)), np.zeros(shape), np.zeros(shape)
    for layer in range(bank.n_layers):
        x = bank.layer(layer)
        cluster, _ = cluster_questions(bank, train, validation, layer, settings.clusters)
        for unit in range(bank.n_units):
            for c in range(settings.clusters):
                # questions of a cluster have both kinds of answer, so a probe has both classes
                own = cluster[:, unit] == c
                # a head whose differences are all equal leaves clusters empty, and has no probe
                if not (own & train).any():
                    continue
                probe = fit_probe(
                    x[own & train, unit], bank.label[own & train], training.sections.probes
                )
                weight[c, layer, unit], bias[c, layer, unit] = probe
                held = own & validation
                says_true = x[held, unit] @ probe[0] + probe[1] > 0
                if len(set(bank.question[held])) >= LEAST:
                    right = says_true == (bank.label[held] == 1)
                    accuracy[c, layer, unit] = right.mean()
    changes = []
    for c in range(settings.clusters):
        heads = best_units(accuracy[c], settings.k)
        scaled = directions_of(weight[c], "probe weight")
        scaled = with_sigma(scaled, following, training.sigma_rows(following))
        own_weight = torch.from_numpy(weight[c][tuple(heads.T)].astype(np.float32))
        own_bias = torch.from_numpy(bias[c][tuple(heads.T)].astype(np.float32))
        operation = ByProbe(own_weight, own_bias, scaled.vectors(heads))
        changes.append(Change("head", torch.from_numpy(heads), operation))
    return Edit(tuple(changes))
