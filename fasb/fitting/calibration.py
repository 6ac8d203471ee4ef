"""Calibrating a tracker: p becomes how often answers with this p are false (docs/method.md X6).

In: a tracker and a bank's rows that it was not fitted on. Out: the same tracker with Platt's two
numbers. Knows no threshold.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from fasb.fitting.bank import Bank
from fasb.steering.tracker import Platt, Tracker


def p_of_bank(
    bank: Bank, rows: Bool[np.ndarray, " answer"], tracker: Tracker
) -> Float[np.ndarray, " chosen"]:
    """Return p of the given rows, from the bank's activations."""
    # each layer is read once, however many of its units are tracked
    layers = {layer: bank.layer(layer)[rows] for layer in sorted(set(tracker.at[:, 0].tolist()))}
    states = np.stack([layers[layer][:, unit] for layer, unit in tracker.at.tolist()], axis=1)
    return tracker.deviation(torch.from_numpy(states)).numpy()


def calibrated(tracker: Tracker, bank: Bank, rows: Bool[np.ndarray, " answer"]) -> Tracker:
    """Return the tracker with Platt's numbers, fitted to the given rows (X6).

    It stays as it is where they hold one class, or where false answers do not have the higher p:
    turning p round would make a classifier of noise.
    """
    from sklearn.linear_model import LogisticRegression

    wrong = bank.label[rows] == 0
    if not 0 < wrong.sum() < len(wrong):
        return tracker
    p = p_of_bank(bank, rows, tracker).astype(np.float64).clip(1e-6, 1 - 1e-6)
    # so weak a penalty is none, by a name that all versions of the library know
    fitted = LogisticRegression(C=1e6).fit(np.log(p / (1 - p))[:, None], wrong)
    slope, intercept = float(fitted.coef_[0, 0]), float(np.ravel(fitted.intercept_)[0])
    return replace(tracker, calibration=Platt(slope, intercept)) if slope > 0 else tracker
