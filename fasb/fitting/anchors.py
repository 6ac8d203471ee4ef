"""Heads anchoring: which heads know truth.

In: validation accuracy of every unit of a site. Out: the k best, best first. Knows no activations.
`read_anchors` is the one reader of `anchors.h5`, which `fold.py` writes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fasb.errors import ArtifactError, ConfigError, first_line
from fasb.hdf5files import reading_hdf5
from fasb.steering.fingerprint import Fingerprint
from fasb.textfiles import UNREADABLE

CLASSIFIERS = ("logistic", "cosine")
"""Kinds of classifiers whose accuracy is known; of all heads."""


@dataclass(frozen=True, slots=True)
class RankedFold:
    """What `anchors.h5` holds of a fold; accuracies are [layer, head], by kind of classifier.

    pairs: how many answers were fitted on. train, validation: ids of questions.
    """

    accuracy: dict[str, Float[np.ndarray, "layer head"]]
    pairs: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


def read_anchors(path: Path) -> tuple[Fingerprint, list[RankedFold]]:
    """Return the model and the folds of a file that `rank_anchors` made.

    Raises:
        ArtifactError: the file is missing or damaged, or holds what no ranking gives.
    """
    with reading_hdf5(path) as file:
        try:
            model = Fingerprint.read(json.loads(file.attrs["fingerprint"]), str(path))
            if sorted(file) != sorted(f"fold{i}" for i in range(len(file))) or not len(file):
                raise ValueError(f"folds {', '.join(file)}")
            folds = [_read_fold(file[f"fold{i}"], model) for i in range(len(file))]
        except (KeyError, TypeError, AttributeError, OSError, *UNREADABLE) as error:
            reason = first_line(error)
            raise ArtifactError(
                f"{path}: not what 'fasb run anchors' writes ({reason}); run it again"
            ) from None
    return model, folds


def _read_fold(group: Any, model: Fingerprint) -> RankedFold:
    """Return a fold of the file.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another shape, type or range.
    """
    shape, found = (model.n_layers, model.n_heads), {}
    for kind in CLASSIFIERS:
        for name in ("accuracy", "accuracy_test"):
            values = group[kind][name][:]
            if values.shape != shape or values.dtype.kind != "f":
                raise ValueError(f"{kind}/{name} is of shape {values.shape}, not {shape}")
            # test answers may be of questions that nobody has, in a fold that tests none
            shares = (values >= 0) & (values <= 1)
            if not (shares | (np.isnan(values) & (name == "accuracy_test"))).all():
                raise ValueError(f"{kind}/{name} holds what is no share")
        found[kind] = group[kind]["accuracy"][:].astype(np.float64)
    parts = {name: tuple(group[name].asstr()[:]) for name in ("train", "validation")}
    every = [*parts["train"], *parts["validation"]]
    pairs = int(group.attrs["pairs"])
    if len(set(every)) < len(every) or not parts["train"] or pairs < 1:
        raise ValueError(f"{pairs} answers fitted on, of questions that are there twice or not")
    return RankedFold(found, pairs, **parts)


def rank_units(accuracy: Float[np.ndarray, "layer unit"]) -> Int[np.ndarray, "rank 2"]:
    """Return all units as (layer, unit), most accurate first (docs/method.md P3).

    Equal accuracies: the lower layer, then the lower unit, comes first; the released program leaves
    this open.
    """
    # ravel goes layer by layer, so a stable sort keeps the tie rule
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


def tied_units(
    accuracy: Float[np.ndarray, "layer unit"], k: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the units as accurate as the k-th, as (layer, unit): those taken, those left out.

    Both are empty where the k best are so by accuracy alone. Only the order of ties (P3) decides
    between the two, and another program may take others.
    """
    layer, unit = best_units(accuracy, k)[-1].tolist()
    # in the order of ties: by layer, then by unit
    tied = [(i, j) for i, j in np.argwhere(accuracy == accuracy[layer, unit]).tolist()]
    taken = [pair for pair in tied if pair <= (layer, unit)]
    left_out = [pair for pair in tied if pair > (layer, unit)]
    return (taken, left_out) if left_out else ([], [])
