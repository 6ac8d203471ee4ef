"""Directions: from activations of true and false answers to steering vectors.

In: a bank and rows. Out: a raw vector per unit of each layer, made unit, and its scale. Knows no
model and no policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.errors import DataError
from fasb.fitting.bank import Bank
from fasb.fitting.probes import unit


@dataclass(frozen=True, slots=True)
class Directions:
    """Unit directions of all units, and the scale each is multiplied with (P5, P6, P8, T3)."""

    direction: Float[np.ndarray, "layer unit width"]
    scale: Float[np.ndarray, "layer unit"]

    def vectors(self, at: Int[np.ndarray, "n 2"]) -> Float[Tensor, "n width"]:
        """Return scale * direction of these (layer, unit) pairs, in their order, in float32."""
        places = at[:, 0], at[:, 1]
        vector = self.scale[places][:, None] * self.direction[places]
        return torch.from_numpy(vector.astype(np.float32))


def mean_difference(
    bank: Bank, rows: Bool[np.ndarray, " answer"]
) -> Float[np.ndarray, "layer unit width"]:
    """Return mean(true) - mean(false) of each unit over the given rows (P6).

    Raises:
        DataError: the rows hold answers of one class only.
    """
    true, false = rows & (bank.label == 1), rows & (bank.label == 0)
    if not true.any() or not false.any():
        raise DataError(
            f"{bank.path}: {true.sum()} true and {false.sum()} false answers; both classes are "
            "needed"
        )
    found = np.zeros((bank.n_layers, bank.n_units, bank.width))
    for layer in range(bank.n_layers):
        x = bank.layer(layer)
        # in float64, where the released program computes in half precision (P9)
        found[layer] = x[true].mean(axis=0, dtype=np.float64)
        found[layer] -= x[false].mean(axis=0, dtype=np.float64)
    return found


def paired_questions(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> list[str]:
    """Return the questions that have a true and a false answer among the rows, in their order.

    Raises:
        DataError: no question has both.
    """
    # sets to look up; the order is the bank's, which dict.fromkeys keeps
    true = set(bank.question[rows & (bank.label == 1)].tolist())
    false = set(bank.question[rows & (bank.label == 0)].tolist())
    found = [one for one in dict.fromkeys(bank.question[rows].tolist()) if one in true & false]
    if not found:
        raise DataError(f"{bank.path}: no question has a true and a false answer; add both")
    return found


def question_differences(
    bank: Bank, rows: Bool[np.ndarray, " answer"], layer: int
) -> Float[np.ndarray, "question unit width"]:
    """Return mean(true) - mean(false) of each of `paired_questions`, for one layer."""
    x, found = bank.layer(layer), []
    for question in paired_questions(bank, rows):
        own = rows & (bank.question == question)
        true_mean = x[own & (bank.label == 1)].mean(axis=0, dtype=np.float64)
        false_mean = x[own & (bank.label == 0)].mean(axis=0, dtype=np.float64)
        found.append(true_mean - false_mean)
    return np.stack(found)


def directions_of(raw: Float[np.ndarray, "layer unit width"], what: str) -> Directions:
    """Return raw vectors as unit directions, their length as the scale.

    Raises:
        DataError: a vector is not finite.
    """
    length = np.linalg.norm(raw.astype(np.float64), axis=-1)
    if not np.isfinite(length).all():
        layer, wrong = np.argwhere(~np.isfinite(length))[0]
        raise DataError(
            f"layer {layer}, unit {wrong}: {what} is not finite; check the activations of this bank"
        )
    # A unit that never varies has no direction; zero leaves it without effect.
    return Directions(raw / np.where(length > 0, length, 1.0)[..., None], length)


def with_sigma(directions: Directions, bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Directions:
    """Return the same directions scaled by the standard deviation of activations along them.

    Population standard deviation (P8, ddof 0).

    Raises:
        DataError: fewer than two rows, which have no spread.
    """
    if rows.sum() < 2:
        raise DataError(
            f"{bank.path}: {rows.sum()} answers of training questions with a training question "
            "drawn behind; give more questions, another activations.seed, or set "
            "vectors.sigma_rows: all"
        )
    sigma = np.zeros((bank.n_layers, bank.n_units))
    for layer in range(bank.n_layers):
        x = bank.layer(layer)[rows].astype(np.float64)
        sigma[layer] = np.einsum("nuw,uw->nu", x, directions.direction[layer]).std(axis=0)
    return Directions(directions.direction, sigma)


def principal_direction(
    differences: Float[np.ndarray, "question width"],
) -> Float[np.ndarray, " width"]:
    """Return the first principal component of pairs centred by question, pointing to "true".

    Of a centred pair, the halves are plus and minus half the difference; their covariance is that
    of the differences about 0. The result has unit length.
    """
    # a singular vector's sign is arbitrary, so the next lines choose it
    component = np.linalg.svd(differences, full_matrices=False)[2][0]
    towards_true = float((differences @ component).mean())
    return unit(component if towards_true >= 0 else -component)


def whole_layers(layers: Sequence[int]) -> Int[Tensor, "n 2"]:
    """Return (layer, 0) of each layer: the units of a site that has one a layer."""
    return torch.tensor([[layer, 0] for layer in layers])


def layers_between(first: float, last: float, n_layers: int) -> list[int]:
    """Return the layers from one share of the depth to another; at least one."""
    begin = layer_at(first, n_layers)
    return list(range(begin, max(begin, layer_at(last, n_layers)) + 1))


def layer_at(depth: float, n_layers: int) -> int:
    """Return the layer at a share of the depth: 0 the first, 1 the last."""
    return round(depth * (n_layers - 1))
