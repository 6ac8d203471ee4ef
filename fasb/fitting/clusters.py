"""Clusters: questions whose true and false answers differ alike (docs/method.md 3.5).

In: a bank and rows. Out: the cluster of each row's question, for every unit of a layer, and the
clusters' centres.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.errors import ConfigError
from fasb.fitting.bank import Bank
from fasb.fitting.directions import paired_questions, question_differences


def cluster_questions(
    bank: Bank,
    train: Bool[np.ndarray, " answer"],
    others: Bool[np.ndarray, " answer"],
    layer: int,
    n_clusters: int,
) -> tuple[Int[np.ndarray, "answer unit"], Float[np.ndarray, "unit cluster width"]]:
    """Return which cluster each row's question is in, and the centres.

    -1 where it is in none of the rows given. k-means of the training questions' differences; other
    questions go to the nearest centre.

    Raises:
        ConfigError: there are fewer questions with a true and a false answer than clusters.
    """
    found = np.full((len(bank.label), bank.n_units), -1)
    differences = question_differences(bank, train, layer)
    if n_clusters > len(differences):
        raise ConfigError(
            f"clusters: {n_clusters}, but {len(differences)} questions to fit have a true and a "
            "false answer; lower it"
        )
    further = question_differences(bank, others, layer) if others.any() else differences[:0]
    # in the order of the differences: `train` first, then `others`
    names = paired_questions(bank, train) + (paired_questions(bank, others) if len(further) else [])
    rows_of = {name: np.flatnonzero((bank.question == name) & (train | others)) for name in names}
    centres = np.empty((bank.n_units, n_clusters, bank.width))
    for unit in range(bank.n_units):
        centres[unit] = _centres(differences[:, unit], n_clusters)
        each = np.concatenate([differences[:, unit], further[:, unit]])
        nearest = np.linalg.norm(each[:, None] - centres[unit], axis=-1).argmin(axis=1)
        for name, cluster in zip(names, nearest, strict=True):
            found[rows_of[name], unit] = cluster
    return found, centres


def _centres(
    x: Float[np.ndarray, "n width"], n_clusters: int
) -> Float[np.ndarray, "cluster width"]:
    """Return the centres of k-means, the best of ten beginnings."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        # a unit whose differences are all equal leaves clusters empty, which callers expect
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        fitted = KMeans(n_clusters, n_init=10, random_state=42).fit(x)
    centres: np.ndarray = fitted.cluster_centers_
    return centres
