"""Adaptive activation steering: directions of several clusters, each as strong as its probe says.

Source: Wang et al., arXiv 2406.00034 (docs/method.md 3.5). Per head, the questions' differences
mean(true) - mean(false) are cut into clusters by k-means; each cluster's answers give a probe, and
the k heads whose probe is best of that cluster are edited: x <- x + alpha (1 - p(true | x)) sigma
unit(weight), p anew at every token and head. Clusters follow each other, so that a head of several
is read as the ones before have left it. p = 1 adds nothing.
"""

import itertools
from typing import Any

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
    from fasb.fitting.directions import directions_of, with_sigma
    from fasb.steering.edit import Change, Edit
    from fasb.steering.operations import ByProbe

    following = training.bank(HEAD_READS[1])
    weight, bias, accuracy = _cluster_probes(training, settings.clusters)
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


def _cluster_probes(training: "fasb.Training", n_clusters: int) -> "tuple[Any, Any, Any]":
    """Return weight [cluster, layer, head, width], bias and accuracy of each cluster's probes."""
    import numpy as np

    from fasb.fitting.clusters import cluster_questions
    from fasb.fitting.probes import fit_probe

    bank = training.bank(HEAD_READS[0])
    train, validation = training.train_rows(bank), bank.rows(training.split.validation)
    shape = n_clusters, bank.n_layers, bank.n_units
    weight, bias, accuracy = np.zeros((*shape, bank.width)), np.zeros(shape), np.zeros(shape)
    for layer in range(bank.n_layers):
        x = bank.layer(layer)
        cluster, _ = cluster_questions(bank, train, validation, layer, n_clusters)
        for c, unit in itertools.product(range(n_clusters), range(bank.n_units)):
            own = cluster[:, unit] == c
            fitted, held = own & train, own & validation
            # a head whose differences are all equal leaves clusters empty, and has no probe
            if not fitted.any():
                continue
            # questions of a cluster have both kinds of answer, so a probe has both classes
            w, b = fit_probe(x[fitted, unit], bank.label[fitted], training.sections.probes)
            weight[c, layer, unit], bias[c, layer, unit] = w, b
            if len(set(bank.question[held])) >= LEAST:
                says_true = x[held, unit] @ w + b > 0
                accuracy[c, layer, unit] = (says_true == (bank.label[held] == 1)).mean()
    return weight, bias, accuracy
