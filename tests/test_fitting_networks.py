"""Networks of one hidden layer: what they tell that no plane does, and their tracker."""

import h5py
import numpy as np
import pytest
from fits import some_fits
from tiny import tiny_bank

from fasb.errors import DataError
from fasb.fitting.bank import Bank
from fasb.fitting.calibration import p_of_bank
from fasb.fitting.networks import fit_networks
from fasb.fitting.probes import accuracy
from fasb.fitting.reads import Read
from fasb.gates import network
from fasb.hdf5files import seal


@pytest.fixture(scope="module")
def two_signs(tmp_path_factory):
    """True where two entries of one head have the same sign: a plane is at chance."""
    fits = some_fits(tmp_path_factory.mktemp("fits"), shape=(2, 3, 5), n=60)
    bank = fits.bank(Read())
    with h5py.File(bank.path, "r+") as file:
        x, label = file["activations"][:], file["label"][:]
        rng = np.random.default_rng(0)
        x[:] = rng.normal(size=x.shape)
        a = rng.choice([-1.0, 1.0], size=len(x))
        x[:, 1, 2, 0] = a + 0.1 * x[:, 1, 2, 0]
        x[:, 1, 2, 1] = np.where(label == 1, a, -a) + 0.1 * x[:, 1, 2, 1]
        file["activations"][:] = x
    seal(bank.path)
    fits.banks[Read()] = Bank.open(bank.path)
    return fits


def test_the_network_gate_tells_what_no_plane_does(two_signs):
    bank = two_signs.bank(Read())
    held = bank.rows(two_signs.splits[0].test)
    wrong = bank.label[held] == 0
    tracker = network.fit(two_signs.training(), network.Settings(k=1))
    assert tracker.at.tolist() == [[1, 2]]
    assert ((p_of_bank(bank, held, tracker) > 0.5) == wrong).mean() > 0.95
    plane = two_signs.training().classifiers("logistic").tracker(np.array([[1, 2]]))
    assert ((p_of_bank(bank, held, plane) > 0.5) == wrong).mean() < 0.8


def test_a_hidden_unit_bends_where_it_learns_to(tmp_path):
    """A disc off the mean: without a learned offset a logit is straight along each ray from it."""
    bank = tiny_bank(tmp_path / "bank.h5", 1200)
    rng = np.random.default_rng(0)
    with h5py.File(bank.path, "r+") as file:
        x = rng.normal(size=file["activations"].shape).astype(np.float32)
        place = x[:, 0, 0, :2]
        file["activations"][:] = x
        file["label"][:] = np.linalg.norm(place - [1.0, 0.0], axis=1) < 0.8
    seal(bank.path)
    bank = Bank.open(bank.path)
    rows = np.arange(len(bank.label)) < 800
    told = fit_networks(bank, rows, 16).logit(0, bank.layer(0)[~rows])[:, 0] > 0
    assert (told == (bank.label[~rows] == 1)).mean() > 0.92


def test_a_tracker_says_what_its_networks_say(tmp_path):
    bank = tiny_bank(tmp_path / "bank.h5")
    rows = np.arange(len(bank.label)) < 40
    networks = fit_networks(bank, rows, 4)
    at = np.array([[1, 2], [0, 1]])
    logits = [
        networks.logit(layer, bank.layer(layer)[~rows])[:, unit] for layer, unit in at.tolist()
    ]
    expected = 1 / (1 + np.exp(np.stack(logits)))
    found = p_of_bank(bank, ~rows, networks.tracker(at))
    np.testing.assert_allclose(found, expected.mean(0), rtol=0, atol=1e-6)
    assert accuracy(networks, bank, rows).min() > 0.7


def test_a_penalty_makes_networks_less_sure(tmp_path):
    bank = tiny_bank(tmp_path / "bank.h5")
    rows = np.ones(len(bank.label), dtype=bool)
    free, bound = (
        np.abs(fit_networks(bank, rows, 4, penalty).logit(0, bank.layer(0))).mean()
        for penalty in (0.0, 30.0)
    )
    assert bound < free / 2


def test_fitting_to_one_class_is_refused(tmp_path):
    bank = tiny_bank(tmp_path / "bank.h5")
    with pytest.raises(DataError, match="0 false answers to fit on"):
        fit_networks(bank, bank.label == 1, 4)
