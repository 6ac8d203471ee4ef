"""Steering vectors: a direction per head and how far activations spread along it.

In: a bank of activations, probes, and the rows to use. Out: for every head a unit direction and
sigma; with anchors, an `Edit`. Knows no threshold and no decoding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from fasb.errors import DataError
from fasb.fitting.bank import Bank
from fasb.fitting.probes import Probes
from fasb.steering.edit import Edit


@dataclass(frozen=True, slots=True)
class Vectors:
    """Unit directions of all heads, and the scale each is multiplied with (docs/method.md P5, P6, P8, T3)."""

    direction: Float[np.ndarray, "layer head head_dim"]
    scale: Float[np.ndarray, "layer head"]

    def edit(self, heads: Int[np.ndarray, "k 2"]) -> Edit:
        """The edit of these (layer, head) pairs, in their order: scale * direction each."""
        layer, head = heads[:, 0], heads[:, 1]
        vector = self.scale[layer, head, None] * self.direction[layer, head]
        return Edit(
            torch.from_numpy(heads.astype(np.int64)), torch.from_numpy(vector.astype(np.float32))
        )


def probe_vectors(probes: Probes) -> Vectors:
    """Each probe's weight: its direction, with its length as the raw scale (P5)."""
    return _unit(probes.weight, "probe weight")


def prototype_vectors(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Vectors:
    """mean(true) - mean(false) of each head over the given rows, its length as the raw scale (P6).

    Raises:
        DataError: the rows hold answers of one class only.
    """
    true, false = rows & (bank.label == 1), rows & (bank.label == 0)
    if not true.any() or not false.any():
        raise DataError(
            f"{bank.path}: {true.sum()} true and {false.sum()} false answers; both classes are needed"
        )
    difference = np.stack([_difference(bank.layer(i), true, false) for i in range(bank.n_layers)])
    return _unit(difference, "difference of class means")


def with_sigma(vectors: Vectors, bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Vectors:
    """The same directions scaled by the population standard deviation of activations along them (P8, ddof 0).

    Raises:
        DataError: fewer than two rows, which have no spread.
    """
    if rows.sum() < 2:
        raise DataError(
            f"{bank.path}: {rows.sum()} answers of training questions with a training question drawn behind; give more "
            "questions, another activations.seed, or set vectors.sigma_rows: all"
        )
    sigma = np.stack(
        [
            np.einsum(
                "nhd,hd->nh", bank.layer(i)[rows].astype(np.float64), vectors.direction[i]
            ).std(axis=0)
            for i in range(bank.n_layers)
        ]
    )
    return Vectors(vectors.direction, sigma)


def _difference(
    x: Float[np.ndarray, "answer head head_dim"],
    true: Bool[np.ndarray, " answer"],
    false: Bool[np.ndarray, " answer"],
) -> Float[np.ndarray, "head head_dim"]:
    return x[true].astype(np.float64).mean(axis=0) - x[false].astype(np.float64).mean(axis=0)


def _unit(raw: Float[np.ndarray, "layer head head_dim"], what: str) -> Vectors:
    raw = raw.astype(np.float64)
    length = np.linalg.norm(raw, axis=-1)
    if not np.isfinite(length).all():
        layer, head = np.argwhere(~np.isfinite(length))[0]
        raise DataError(
            f"layer {layer}, head {head}: {what} is not finite; check the activations of this bank"
        )
    # A head that never varies has no direction; zero leaves it without effect.
    return Vectors(raw / np.where(length > 0, length, 1.0)[..., None], length)
