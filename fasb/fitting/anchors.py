"""Heads anchoring: which heads know truth.

In: validation accuracy of every head. Out: the k best heads, best first. Knows no activations.
"""

import numpy as np
from jaxtyping import Float, Int

from fasb.errors import ConfigError


def rank_heads(accuracy: Float[np.ndarray, "layer head"]) -> Int[np.ndarray, "rank 2"]:
    """All heads as (layer, head), most accurate first (docs/method.md P3).

    Equal accuracies: the lower layer, then the lower head, comes first; the released program leaves
    this open.
    """
    flat = np.argsort(-accuracy.ravel(), kind="stable")
    return np.stack(np.unravel_index(flat, accuracy.shape), axis=1).astype(np.int64)


def anchors(accuracy: Float[np.ndarray, "layer head"], k: int) -> Int[np.ndarray, "{k} 2"]:
    """The k most accurate heads as (layer, head), best first.

    Raises:
        ConfigError: k is not between 1 and the number of heads.
    """
    n_layers, n_heads = accuracy.shape
    if not 1 <= k <= accuracy.size:
        raise ConfigError(
            f"k: {k}, but this model has {accuracy.size} heads ({n_layers} layers x {n_heads}); "
            f"set k between 1 and {accuracy.size}"
        )
    return rank_heads(accuracy)[:k]
