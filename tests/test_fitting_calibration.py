"""Platt's two numbers: p becomes a frequency, and its order stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fasb.fitting.calibration import calibrated, p_of_bank
from fasb.fitting.probes import fit_probes
from fasb.settings import ProbeSettings
from fasb.steering.serialize import read_tracker, tracker_layout, tracker_tensors
from fasb.steering.tracker import Platt
from tests.tiny import tiny_bank

HEADS = np.array([[1, 2], [1, 1], [0, 2]])


@pytest.fixture
def bank(tmp_path):
    return tiny_bank(tmp_path / "bank.h5", n_answers=400)


@pytest.fixture
def tracker(bank):
    """Fitted to the first half of the bank."""
    rows = np.arange(400) < 200
    return fit_probes(bank, rows, ProbeSettings(C=100)).tracker(HEADS)


def test_the_mean_of_calibrated_p_is_the_share_of_false_answers(bank, tracker):
    rows = np.arange(400) >= 200
    rows[200:260] &= bank.label[200:260] == 0  # more false than true
    found = calibrated(tracker, bank, rows)
    raw, p = (p_of_bank(bank, rows, one) for one in (tracker, found))
    # where the slope and the intercept are optimal, residuals sum to 0
    assert p.mean() == pytest.approx((bank.label[rows] == 0).mean(), abs=1e-3)
    assert abs(raw.mean() - p.mean()) > 1e-3
    assert (np.diff(p[np.argsort(raw)]) >= 0).all()


def test_noise_is_not_turned_round(bank, tracker):
    turned = replace(bank, label=1 - bank.label)
    rows = np.arange(400) >= 200
    assert calibrated(tracker, turned, rows).calibration is None
    assert calibrated(tracker, bank, bank.label == 1).calibration is None


def test_calibration_stays_with_a_tracker_in_its_file_and_elsewhere(tracker):
    found = replace(tracker, calibration=Platt(1.5, -0.25))
    again = read_tracker(tracker_layout(found), tracker_tensors(found))
    assert again.calibration == found.calibration == found.to("cpu").calibration
    assert again.content() == found.content() != tracker.content()
    assert "calibration" not in tracker_layout(tracker)
    x = torch.randn(4, 3, 5)
    p = tracker.deviation(x)
    expected = torch.sigmoid(1.5 * torch.log(p / (1 - p)) - 0.25)
    assert torch.allclose(again.deviation(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"slope": 1.0}, {"slope": float("nan"), "intercept": 0.0}, {"slope": 1, "more": 2}, 3]
)
def test_a_damaged_calibration_is_refused(tracker, wrong):
    layout = {**tracker_layout(tracker), "calibration": wrong}
    with pytest.raises((KeyError, ValueError)):
        read_tracker(layout, tracker_tensors(tracker))
