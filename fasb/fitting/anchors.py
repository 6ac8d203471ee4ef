"""Heads anchoring: which heads know truth.

In: validation accuracy of every unit of a site. Out: the k best, best first. Knows no activations.
"""

import numpy as np
from jaxtyping import Float, Int

from fasb.errors import ConfigError


def rank_units(accuracy: Float[np.ndarray, "layer unit"]) -> Int[np.ndarray, "rank 2"]:
    """Return all units as (layer, unit), most accurate first (docs/method.md P3).

    Equal accuracies: the lower layer, then the lower unit, comes first; the released program leaves
    this open.
    """
    flat = np.argsort(-accuracy.ravel(), kind="stable")
    return np.stack(np.unravel_index(flat, accuracy.shape), axis=1).astype(np.int64)


def best_units(accuracy: Float[np.ndarray, "layer unit"], k: int) -> Int[np.ndarray, "{k} 2"]:
    """Return the k most accurate units as (layer, unit), best first.

    Raises:
        ConfigError: k is not between 1 and the number of units.
    """
    n_layers, n_units = accuracy.shape
    if not 1 <= k <= accuracy.size:
        raise ConfigError(
            f"k: {k}, but this model has {accuracy.size} heads ({n_layers} layers x {n_units}); "
            f"set k between 1 and {accuracy.size}"
        )
    return rank_units(accuracy)[:k]
