"""Probes: for every head, a classifier that tells true answers from false ones.

In: a bank and the rows to fit on. Out: `Probes` (logistic) or `Prototypes` (cosine) of all heads,
their accuracy, and a `Tracker` of any of them. Memory holds one layer, and copies of a few heads.
Knows no threshold.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.errors import DataError
from fasb.fitting.bank import Bank
from fasb.fitting.newton import fit_logistic
from fasb.settings import ProbeSettings
from fasb.steering.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Probes:
    """Logistic probes of all heads: the logit of "true" is x . weight + bias (docs/method.md P1)."""

    weight: Float[np.ndarray, "layer head head_dim"]
    bias: Float[np.ndarray, "layer head"]

    def logit(
        self, layer: int, x: Float[np.ndarray, "answer head head_dim"]
    ) -> Float[np.ndarray, "answer head"]:
        """The logit of "true" for one layer's head outputs."""
        return np.einsum("nhd,hd->nh", x, self.weight[layer], dtype=np.float64) + self.bias[layer]

    def tracker(self, heads: Int[np.ndarray, "k 2"]) -> Tracker:
        """The tracker of these (layer, head) pairs, in their order."""
        layer, head = heads[:, 0], heads[:, 1]
        return Tracker(
            torch.from_numpy(heads),
            _float32(self.weight[layer, head]),
            _float32(self.bias[layer, head]),
        )


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Cosine prototypes of all heads: mean of the training rows, the two class means, and a temperature (P7).

    The logit of "true" is (cos(x - mean, true - mean) - cos(x - mean, false - mean)) / temperature.
    """

    mean: Float[np.ndarray, "layer head head_dim"]
    true: Float[np.ndarray, "layer head head_dim"]
    false: Float[np.ndarray, "layer head head_dim"]
    temperature: Float[np.ndarray, "layer head"]

    def logit(
        self, layer: int, x: Float[np.ndarray, "answer head head_dim"]
    ) -> Float[np.ndarray, "answer head"]:
        """The logit of "true" for one layer's head outputs."""
        contrast = unit(self.true[layer] - self.mean[layer]) - unit(
            self.false[layer] - self.mean[layer]
        )
        return (
            np.einsum("nhd,hd->nh", unit(x - self.mean[layer]), contrast) / self.temperature[layer]
        )

    def tracker(self, heads: Int[np.ndarray, "k 2"]) -> Tracker:
        """The tracker of these (layer, head) pairs, in their order."""
        at = heads[:, 0], heads[:, 1]
        mean = self.mean[at]
        weight = (unit(self.true[at] - mean) - unit(self.false[at] - mean)) / self.temperature[at][
            :, None
        ]
        return Tracker(
            torch.from_numpy(heads), _float32(weight), torch.zeros(len(heads)), _float32(mean)
        )


def fit_probes(
    bank: Bank, rows: Bool[np.ndarray, " answer"], settings: ProbeSettings, device: str = "cpu"
) -> Probes:
    """Logistic probes of all heads on the given rows, at the optimum of scikit-learn's objective (P1).

    Layer by layer on `device`. `solver` sklearn runs scikit-learn itself, on the CPU, whose default
    tolerance stops a few per cent short of the optimum.

    Raises:
        DataError: the rows hold answers of one class only, or a head output is not finite.
    """
    label = _both_classes(bank, rows)
    fit = _sklearn if settings.solver == "sklearn" else partial(_newton, device=device)
    layers = [fit(_finite(bank, layer, rows), label, settings) for layer in range(bank.n_layers)]
    weight, bias = zip(*layers)
    return Probes(np.stack(weight), np.stack(bias))


def fit_prototypes(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Prototypes:
    """Cosine prototypes of all heads; the temperature is the standard deviation of the rows' contrast (P7).

    Raises:
        DataError: the rows hold answers of one class only, or a head output is not finite.
    """
    label = _both_classes(bank, rows)
    means, temperature = [], []
    for layer in range(bank.n_layers):
        x = _finite(bank, layer, rows)
        mean, true, false = (
            x[which].mean(axis=0, dtype=np.float64) for which in (..., label == 1, label == 0)
        )
        contrast = np.einsum("nhd,hd->nh", unit(x - mean), unit(true - mean) - unit(false - mean))
        means.append((mean, true, false))
        temperature.append(contrast.std(axis=0))
    spread = np.stack(temperature)
    # A head that never varies tells nothing: its logit is 0 at any temperature.
    return Prototypes(*(np.stack(kind) for kind in zip(*means)), np.where(spread > 0, spread, 1.0))


def accuracy(
    probes: Probes | Prototypes, bank: Bank, rows: Bool[np.ndarray, " answer"]
) -> Float[np.ndarray, "layer head"]:
    """Share of the given rows that each head tells right; a logit of exactly 0 counts as "false", as in scikit-learn.

    Raises:
        DataError: there are no such rows.
    """
    if not rows.any():
        raise DataError(
            f"{bank.path}: no rows to take the accuracy of; give the split more questions"
        )
    label = bank.label[rows] == 1
    right = [
        (probes.logit(i, bank.layer(i)[rows]) > 0) == label[:, None] for i in range(bank.n_layers)
    ]
    return np.stack([layer.mean(axis=0) for layer in right])


def unit(x: Float[np.ndarray, "*rest head_dim"]) -> Float[np.ndarray, "*rest head_dim"]:
    """Scaled to unit length in float64; a zero vector stays zero."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def _newton(
    x: Float[np.ndarray, "answer head head_dim"],
    label: Int[np.ndarray, " answer"],
    settings: ProbeSettings,
    device: str,
) -> tuple[Float[np.ndarray, "head head_dim"], Float[np.ndarray, " head"]]:
    outputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(label).to(device)
    weight, bias = fit_logistic(outputs, labels, settings.C, settings.bias)
    return weight.cpu().numpy(), bias.cpu().numpy()


def _sklearn(
    x: Float[np.ndarray, "answer head head_dim"],
    label: Int[np.ndarray, " answer"],
    settings: ProbeSettings,
) -> tuple[Float[np.ndarray, "head head_dim"], Float[np.ndarray, " head"]]:
    """One head after the other, with one BLAS thread: with two, a fit of this size is many times slower."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        fits = [
            LogisticRegression(C=settings.C, fit_intercept=settings.bias, max_iter=1000).fit(
                x[:, head].astype(np.float64), label
            )
            for head in range(x.shape[1])
        ]
    return np.stack([fit.coef_[0] for fit in fits]), np.array(
        [np.ravel(fit.intercept_)[0] for fit in fits]
    )


def _both_classes(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Int[np.ndarray, " fitted"]:
    label = bank.label[rows]
    true, false = int((label == 1).sum()), int((label == 0).sum())
    if not true or not false:
        raise DataError(
            f"{bank.path}: {true} true and {false} false answers to fit on; give the training questions both"
        )
    return label


def _finite(
    bank: Bank, layer: int, rows: Bool[np.ndarray, " answer"]
) -> Float[np.ndarray, "fitted head head_dim"]:
    x = bank.layer(layer)[rows]
    finite = np.isfinite(x)
    if not finite.all():
        wrong = np.argwhere(~finite.all(axis=(0, 2)))
        raise DataError(
            f"{bank.path}: layer {layer}, head {wrong[0, 0]} is not finite; make the bank again in float32"
        )
    return x


def _float32(x: Float[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    return torch.from_numpy(x.astype(np.float32))
