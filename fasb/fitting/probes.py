"""Probes: for every unit of a site, a classifier that tells true answers from false ones.

In: a bank and the rows to fit on. Out: `Classifiers` of all units, of one kind: logistic probes
(docs/method.md P1) or cosine prototypes (P7); their logits, and a `Tracker` of any of them. Memory
holds one layer. Knows no threshold.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.errors import DataError
from fasb.fitting.bank import Bank
from fasb.settings import ProbeSettings, SiteName
from fasb.steering.tracker import Cosine, Logistic, Tracker

ClassifierKind = Literal["logistic", "cosine"]

TOLERANCE = 1e-8
"""Largest gradient entry at which a probe counts as fitted; scikit-learn's own 1e-4 stops early."""


@dataclass(frozen=True, slots=True)
class Classifiers:
    """Classifiers of all units of a site, in float64: the logit of "true" is x . weight + bias.

    Cosine prototypes have a `centre`, and x is unit(x - centre); their weight is the difference of
    the two unit prototypes divided by the temperature, their bias 0.
    """

    site: SiteName
    weight: Float[np.ndarray, "layer unit width"]
    bias: Float[np.ndarray, "layer unit"]
    centre: Float[np.ndarray, "layer unit width"] | None = None

    @property
    def kind(self) -> ClassifierKind:
        """What they are."""
        return "logistic" if self.centre is None else "cosine"

    def logit(
        self, layer: int, x: Float[np.ndarray, "answer unit width"]
    ) -> Float[np.ndarray, "answer unit"]:
        """Return the logit of "true" for one layer's activations."""
        if self.centre is not None:
            x = unit(x - self.centre[layer])
        return np.einsum("nuw,uw->nu", x, self.weight[layer], dtype=np.float64) + self.bias[layer]

    def tracker(self, at: Int[np.ndarray, "n 2"]) -> Tracker:
        """Return the tracker of these (layer, unit) pairs, in their order, in float32."""
        places = at[:, 0], at[:, 1]
        weight = _float32(self.weight[places])
        if self.centre is None:
            score: Logistic | Cosine = Logistic(weight, _float32(self.bias[places]))
        else:
            score = Cosine(weight, _float32(self.centre[places]))
        return Tracker(self.site, torch.from_numpy(at.astype(np.int64)), score)


def fit_classifiers(
    kind: ClassifierKind, bank: Bank, rows: Bool[np.ndarray, " answer"], settings: ProbeSettings
) -> Classifiers:
    """Return the classifiers of all units of one kind, fitted on the given rows."""
    return fit_probes(bank, rows, settings) if kind == "logistic" else fit_prototypes(bank, rows)


def fit_probes(
    bank: Bank, rows: Bool[np.ndarray, " answer"], settings: ProbeSettings
) -> Classifiers:
    """Return logistic probes of all units, at the optimum of scikit-learn's objective (P1)."""
    label = both_classes(bank, rows)
    weight = np.zeros((bank.n_layers, bank.n_units, bank.width))
    bias = np.zeros((bank.n_layers, bank.n_units))
    for layer in range(bank.n_layers):
        x = finite_layer(bank, layer, rows)
        fits = _fit_layer(x, label, settings)
        weight[layer] = [coefficients for coefficients, _ in fits]
        bias[layer] = [intercept for _, intercept in fits]
    return Classifiers(bank.site, weight, bias)


def fit_prototypes(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Classifiers:
    """Return cosine prototypes of all units.

    The logit of "true" is (cos(x - mean, true - mean) - cos(x - mean, false - mean)) / temperature,
    the temperature being the standard deviation of the rows' contrast (P7).
    """
    label = both_classes(bank, rows)
    shape = bank.n_layers, bank.n_units, bank.width
    weight, centre = np.zeros(shape), np.zeros(shape)
    for layer in range(bank.n_layers):
        x = finite_layer(bank, layer, rows)
        mean = x.mean(axis=0, dtype=np.float64)
        true = x[label == 1].mean(axis=0, dtype=np.float64)
        false = x[label == 0].mean(axis=0, dtype=np.float64)
        contrast = unit(true - mean) - unit(false - mean)
        spread = np.einsum("nuw,uw->nu", unit(x - mean), contrast).std(axis=0)
        # A unit that never varies tells nothing: its logit is 0 at any temperature.
        weight[layer] = contrast / np.where(spread > 0, spread, 1.0)[:, None]
        centre[layer] = mean
    return Classifiers(bank.site, weight, np.zeros(shape[:2]), centre)


@runtime_checkable
class HasLogit(Protocol):
    """Classifiers of all units of a site, of whatever kind."""

    def logit(
        self, layer: int, x: Float[np.ndarray, "answer unit width"]
    ) -> Float[np.ndarray, "answer unit"]:
        """Return the logit of "true" for one layer's activations."""
        ...


def accuracy(
    classifiers: HasLogit, bank: Bank, rows: Bool[np.ndarray, " answer"]
) -> Float[np.ndarray, "layer unit"]:
    """Return the share of the given rows that each unit tells right (P2).

    A logit of exactly 0 counts as "false", as in scikit-learn.

    Raises:
        DataError: there are no such rows.
    """
    if not rows.any():
        raise DataError(
            f"{bank.path}: no rows to take the accuracy of; give the split more questions"
        )
    label = bank.label[rows] == 1
    found = np.zeros((bank.n_layers, bank.n_units))
    for layer in range(bank.n_layers):
        says_true = classifiers.logit(layer, bank.layer(layer)[rows]) > 0
        found[layer] = (says_true == label[:, None]).mean(axis=0)
    return found


def unit(x: Float[np.ndarray, "*rest width"]) -> Float[np.ndarray, "*rest width"]:
    """Return vectors scaled to unit length in float64; a zero vector stays zero."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def fit_probe(
    x: Float[np.ndarray, "answer width"], label: Int[np.ndarray, " answer"], settings: ProbeSettings
) -> tuple[Float[np.ndarray, " width"], float]:
    """Return weight and bias of one logistic probe (P1)."""
    from sklearn.linear_model import LogisticRegression

    # lbfgs stops at 1,000 steps without the optimum where outputs correlate (docs/log.md)
    probe = LogisticRegression(
        C=settings.C,
        fit_intercept=settings.bias,
        solver="newton-cholesky",
        tol=TOLERANCE,
        max_iter=1000,
    ).fit(x.astype(np.float64), label)
    return probe.coef_[0], float(np.ravel(probe.intercept_)[0])


def _fit_layer(
    x: Float[np.ndarray, "answer unit width"],
    label: Int[np.ndarray, " answer"],
    settings: ProbeSettings,
) -> Sequence[tuple[Float[np.ndarray, " width"], float]]:
    """Fit one layer's probes in threads of one BLAS thread each: two make it many times slower."""
    from threadpoolctl import threadpool_limits

    def fit(i: int) -> tuple[Float[np.ndarray, " width"], float]:
        return fit_probe(x[:, i], label, settings)

    with threadpool_limits(1), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(fit, range(x.shape[1])))


def both_classes(bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Int[np.ndarray, " fitted"]:
    """Return the labels of the rows.

    Raises:
        DataError: they hold answers of one class only.
    """
    label = bank.label[rows]
    true, false = int((label == 1).sum()), int((label == 0).sum())
    if not true or not false:
        raise DataError(
            f"{bank.path}: {true} true and {false} false answers to fit on; give the training "
            "questions both"
        )
    return label


def finite_layer(
    bank: Bank, layer: int, rows: Bool[np.ndarray, " answer"]
) -> Float[np.ndarray, "fitted unit width"]:
    """Return one layer's activations of the rows.

    Raises:
        DataError: one is not finite.
    """
    x = bank.layer(layer)[rows]
    if not (finite := np.isfinite(x)).all():
        wrong = np.argwhere(~finite.all(axis=(0, 2)))
        raise DataError(
            f"{bank.path}: layer {layer}, unit {wrong[0, 0]} is not finite; make the bank again in "
            "float32"
        )
    return x


def _float32(x: Float[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    return torch.from_numpy(x.astype(np.float32))
