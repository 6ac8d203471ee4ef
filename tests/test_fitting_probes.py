"""Probes and prototypes: scikit-learn and the plain formula are the oracles."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny import tiny_bank

from fasb.errors import DataError
from fasb.fitting.probes import Classifiers, accuracy, fit_classifiers, fit_probes, fit_prototypes
from fasb.settings import ProbeSettings

HEADS = np.array([[1, 2], [0, 1], [1, 0]])


@pytest.fixture
def bank(tmp_path):
    return tiny_bank(tmp_path / "bank.h5")


@pytest.fixture
def rows(bank):
    return np.arange(len(bank.label)) < 60


def spoiled(bank, monkeypatch, layer, head, value):
    """The bank with one head's outputs replaced."""
    whole = type(bank).layer

    def changed(self, i):
        x = whole(self, i).copy()
        if i == layer:
            x[:, head] = value
        return x

    monkeypatch.setattr(type(bank), "layer", changed)
    return bank


@pytest.mark.parametrize("bias", [True, False])
def test_probes_equal_scikit_learns_optimum(bank, rows, bias):
    probes = fit_probes(bank, rows, ProbeSettings(C=0.5, bias=bias))
    for layer, head in product(range(2), range(3)):
        exact = LogisticRegression(C=0.5, fit_intercept=bias, tol=1e-10, max_iter=10**6)
        exact.fit(bank.layer(layer)[rows, head].astype(np.float64), bank.label[rows])
        np.testing.assert_allclose(probes.weight[layer, head], exact.coef_[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            probes.bias[layer, head], np.ravel(exact.intercept_)[0], rtol=1e-4, atol=1e-6
        )


def test_probes_of_correlated_outputs_are_at_the_optimum_too(bank, rows, monkeypatch):
    """Half the outputs are copies of the others but for a millionth: the objective is a ravine."""
    whole = type(bank).layer

    def changed(self, i):
        x = whole(self, i).copy()
        x[..., 3] = x[..., 0] * (1 + 1e-6)
        x[..., 4] = 1000 * x[..., 1]
        return x

    monkeypatch.setattr(type(bank), "layer", changed)
    probes = fit_probes(bank, rows, ProbeSettings())
    for layer, head in product(range(2), range(3)):
        x = bank.layer(layer)[rows, head].astype(np.float64)
        logit = x @ probes.weight[layer, head] + probes.bias[layer, head]
        wrong = 1 / (1 + np.exp(-logit)) - bank.label[rows]
        # C sum log loss + |w|^2 / 2, whose gradient is 0 at the optimum
        gradient = x.T @ wrong + probes.weight[layer, head]
        assert np.abs(gradient).max() < 1e-5 * np.abs(x.T @ (bank.label[rows] - 0.5)).max()
        assert abs(wrong.sum()) < 1e-5 * len(wrong)


def test_separable_answers_do_not_stop_the_fit(bank, rows, monkeypatch):
    whole = type(bank).layer
    monkeypatch.setattr(
        type(bank),
        "layer",
        lambda self, i: whole(self, i) + 50 * bank.label[:, None, None].astype(np.float32),
    )
    probes = fit_probes(bank, rows, ProbeSettings())
    assert np.isfinite(probes.weight).all()
    assert (accuracy(probes, bank, ~rows) == 1).all()


def test_fits_do_not_depend_on_threads(bank, rows):
    found, threads = [], torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(fit_probes(bank, rows, ProbeSettings()).weight)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_rows_left_out_of_the_fit_change_nothing(bank, rows, monkeypatch):
    before = fit_probes(bank, rows, ProbeSettings()), fit_prototypes(bank, rows)
    whole = type(bank).layer
    monkeypatch.setattr(
        type(bank), "layer", lambda self, i: whole(self, i) + np.float32(9) * ~rows[:, None, None]
    )
    after = fit_probes(bank, rows, ProbeSettings()), fit_prototypes(bank, rows)
    assert np.array_equal(after[0].weight, before[0].weight)
    assert np.array_equal(after[1].weight, before[1].weight)
    assert np.array_equal(after[1].centre, before[1].centre)


def test_accuracy_is_scikit_learns_on_other_rows(bank, rows):
    found = accuracy(fit_probes(bank, rows, ProbeSettings()), bank, ~rows)
    for layer, head in product(range(2), range(3)):
        x = bank.layer(layer)[:, head].astype(np.float64)
        fit = LogisticRegression(tol=1e-10, max_iter=10**6).fit(x[rows], bank.label[rows])
        assert found[layer, head] == fit.score(x[~rows], bank.label[~rows])


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def contrasts(bank, rows, layer, head):
    """The prototype's formula, row by row: cos(x - m, c+ - m) - cos(x - m, c- - m) of all rows."""
    x = bank.layer(layer)[:, head].astype(np.float64)
    m, true, false = (
        x[rows].mean(0),
        x[rows & (bank.label == 1)].mean(0),
        x[rows & (bank.label == 0)].mean(0),
    )
    return np.array([cosine(row - m, true - m) - cosine(row - m, false - m) for row in x])


def test_prototypes_follow_the_formula(bank, rows):
    prototypes = fit_prototypes(bank, rows)
    found = accuracy(prototypes, bank, ~rows)
    for layer, head in product(range(2), range(3)):
        contrast = contrasts(bank, rows, layer, head)
        logit = prototypes.logit(layer, bank.layer(layer))[:, head]
        np.testing.assert_allclose(logit, contrast / contrast[rows].std(), rtol=1e-9, atol=1e-12)
        assert found[layer, head] == ((contrast > 0) == (bank.label == 1))[~rows].mean()


@pytest.mark.parametrize("kind", ["logistic", "cosine"])
def test_a_tracker_gives_the_mean_of_its_heads_in_their_order(bank, rows, kind):
    fitted = fit_classifiers(kind, bank, rows, ProbeSettings())
    assert fitted.kind == kind
    tracker = fitted.tracker(HEADS)
    assert (tracker.site, tracker.at.tolist()) == ("head", HEADS.tolist())
    assert tracker.dtype == torch.float32
    x = torch.from_numpy(
        np.stack([bank.layer(layer)[:, head] for layer, head in HEADS.tolist()], axis=1)
    )
    logits = np.stack(
        [fitted.logit(layer, bank.layer(layer))[:, head] for layer, head in HEADS.tolist()], axis=1
    )
    expected = (1 - 1 / (1 + np.exp(-logits))).mean(1)
    np.testing.assert_allclose(tracker.deviation(x).numpy(), expected, rtol=0, atol=1e-6)


def test_a_logit_of_zero_counts_as_false(bank):
    probes = Classifiers("head", np.zeros((2, 3, 5)), np.zeros((2, 3)))
    every = np.ones(len(bank.label), dtype=bool)
    assert (accuracy(probes, bank, every) == (bank.label == 0).mean()).all()


@pytest.mark.parametrize("only", [0, 1])
def test_answers_of_one_class_are_refused(bank, only):
    rows = bank.label == only
    for fit in (
        lambda: fit_probes(bank, rows, ProbeSettings()),
        lambda: fit_prototypes(bank, rows),
    ):
        with pytest.raises(
            DataError, match=r"bank.h5: (0|40) true and (0|40) false answers.*give the training"
        ):
            fit()


@pytest.mark.parametrize("kind", ["logistic", "cosine"])
def test_outputs_that_are_not_finite_are_named(bank, rows, kind, monkeypatch):
    bank = spoiled(bank, monkeypatch, 1, 2, np.float32("nan"))
    with pytest.raises(
        DataError, match=r"layer 1, unit 2 is not finite; make the bank again in float32"
    ):
        fit_classifiers(kind, bank, rows, ProbeSettings())


def test_a_head_that_never_varies_tells_nothing_and_breaks_nothing(bank, rows, monkeypatch):
    bank = spoiled(bank, monkeypatch, 0, 1, 2.0)
    prototypes = fit_prototypes(bank, rows)
    assert np.isfinite(prototypes.weight).all()
    assert (prototypes.logit(0, bank.layer(0))[:, 1] == 0).all()
    assert accuracy(prototypes, bank, rows)[0, 1] == (bank.label[rows] == 0).mean()
    assert accuracy(fit_probes(bank, rows, ProbeSettings()), bank, rows)[0, 1] == 0.5


def test_no_rows_have_no_accuracy(bank, rows):
    with pytest.raises(
        DataError, match="no rows to take the accuracy of; give the split more questions"
    ):
        accuracy(fit_prototypes(bank, rows), bank, np.zeros(len(rows), dtype=bool))
