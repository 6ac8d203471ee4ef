"""Logistic regression of many heads: the optimum, on data that a plain Newton loop would not survive."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import fasb.fitting.newton
from fasb.errors import DataError
from fasb.fitting.newton import fit_logistic


def heads(n_answers=300, n_heads=3, head_dim=12, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n_answers)
    x = rng.normal(size=(n_answers, n_heads, head_dim)) @ rng.normal(size=(head_dim, head_dim)) / 3
    x += 0.4 * (label[:, None, None] - 0.5) * rng.normal(size=(1, n_heads, head_dim))
    return x.astype(np.float32), label


def fit(x, label, C=1.0, bias=True):
    weight, bias = fit_logistic(
        torch.from_numpy(x.astype(np.float32)), torch.from_numpy(label), C, bias
    )
    return weight.numpy(), bias.numpy()


def gradient(x, label, weight, bias, C):
    """Of scikit-learn's objective, relative to the size of its terms: weights, bias."""
    x = x.astype(np.float32).astype(np.float64)
    p = 1 / (1 + np.exp(-np.clip(np.einsum("nhd,hd->nh", x, weight) + bias, -700, 700)))
    residual = p - label[:, None]
    size = C * np.abs(residual).sum(0)
    pull = C * np.einsum("nhd,nh->hd", x, residual)
    return np.abs(pull + weight).max(1) / (size * np.abs(x).max((0, 2)) + 1), np.abs(
        C * residual.sum(0)
    ) / (size + 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("C", [1e-4, 1.0, 100.0])
def test_weights_equal_scikit_learns_at_a_tight_tolerance(C, bias):
    x, label = heads()
    weight, intercept = fit(x, label, C, bias)
    for head in range(3):
        exact = LogisticRegression(C=C, fit_intercept=bias, tol=1e-10, max_iter=10**6)
        exact.fit(x[:, head].astype(np.float64), label)
        np.testing.assert_allclose(
            weight[head], exact.coef_[0], rtol=0, atol=1e-5 * np.linalg.norm(exact.coef_)
        )
        np.testing.assert_allclose(
            intercept[head], np.ravel(exact.intercept_)[0], rtol=1e-4, atol=1e-5
        )


def separable(x, label):
    x[:, :, 0] += 50 * label[:, None]


def of_very_unequal_size(x, _):
    x *= np.logspace(-4, 3, x.shape[2])


def far_from_zero(x, _):
    x += 300


def with_copied_columns(x, _):
    x[:, :, 6:] = x[:, :, :6]


def huge(x, _):
    x *= 1e4


def minute(x, _):
    x *= 1e-6


def constant(x, _):
    x[:] = 3


def zero(x, _):
    x[:] = 0


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(
    "spoil",
    [
        separable,
        of_very_unequal_size,
        far_from_zero,
        with_copied_columns,
        huge,
        minute,
        constant,
        zero,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_the_gradient_vanishes_on_hard_data(spoil, C):
    x, label = heads()
    spoil(x, label)
    weight, bias = fit(x, label, C)
    for part in gradient(x, label, weight, bias, C):
        assert part.max() < 1e-5


def test_a_head_that_never_varies_learns_only_the_share_of_true_answers():
    x, label = heads()
    x[:, 1] = 5
    weight, bias = fit(x, label)
    assert np.abs(weight[1]).max() < 1e-8
    np.testing.assert_allclose(bias[1], np.log(label.mean() / (1 - label.mean())), rtol=1e-6)


@given(seed=st.integers(0, 10**6), n=st.integers(4, 40), C=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_any_small_problem_reaches_its_optimum(seed, n, C):
    x, label = heads(n, 2, 5, seed)
    label[:2] = 0, 1
    weight, bias = fit(x, label, C)
    for part in gradient(x, label, weight, bias, C):
        assert part.max() < 1e-5


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_weights_are_the_same_on_any_number_of_threads_which_stay_set(threads):
    x, label = heads(n_heads=5)
    threads(1)
    alone = fit(x, label)
    for n in (2, 9):
        threads(n)
        for found, expected in zip(fit(x, label), alone):
            assert np.array_equal(found, expected)
        assert torch.get_num_threads() == n


def test_memory_is_that_of_two_groups(threads, monkeypatch):
    made = set()
    solve = fasb.fitting.newton._solve
    monkeypatch.setattr(
        fasb.fitting.newton,
        "_solve",
        lambda problem: made.add(problem.x.data_ptr()) or solve(problem),
    )
    threads(2)
    fit(*heads(n_heads=12))
    assert len(made) <= 2


def correlated(scale):
    """Heads as models have them: few directions carry most, sizes of the dimensions differ a hundred thousandfold."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 400)
    x = rng.normal(size=(400, 2, 4)) @ rng.normal(size=(4, 24)) + 0.01 * rng.normal(
        size=(400, 2, 24)
    )
    x += scale * label[:, None, None] * rng.normal(size=(1, 2, 24))
    return (x * np.logspace(-3, 2, 24)).astype(np.float32), label


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("n_answers", [20, 400])
@pytest.mark.parametrize("scale", [0.003, 0.03])
def test_correlated_dimensions_reach_the_optimum_of_a_plain_newton_loop(scale, n_answers, C):
    x, label = correlated(scale)
    x, label = x[:n_answers], label[:n_answers]
    weight, _ = fit(x, label, C)
    for head in range(2):
        exact = plain_newton(x[:, head].astype(np.float64), label, C)
        np.testing.assert_allclose(weight[head], exact, rtol=0, atol=1e-5 * np.linalg.norm(exact))


def plain_newton(x, label, C):
    """Damped Newton with an intercept, every Hessian exact; weights only."""
    x = np.c_[x - x.mean(0), np.ones(len(x))]
    ridge, w = np.r_[np.ones(x.shape[1] - 1), 0], np.zeros(x.shape[1])
    sign = 2 * label - 1

    def loss(w):
        return C * np.logaddexp(0, -sign * (x @ w)).sum() + 0.5 * (ridge * w**2).sum()

    for _ in range(100):
        p = 1 / (1 + np.exp(-(x @ w)))
        gradient = C * x.T @ (p - label) + ridge * w
        step = np.linalg.solve((C * x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge), gradient)
        size = 1.0
        while size > 1e-3 and loss(w - size * step) > loss(w):
            size /= 2
        w = w - size * step
    return w[:-1]


@pytest.mark.parametrize(
    "spoil", [separable, of_very_unequal_size, with_copied_columns, huge, constant]
)
def test_a_hard_head_in_a_group_changes_the_others_by_rounding_alone(spoil, monkeypatch):
    x, label = heads(n_heads=5)
    hard = x.copy()
    spoil(hard[:, 2:3], label)
    monkeypatch.setattr(fasb.fitting.newton, "CPU_GROUP", 1)
    alone = fit(hard, label)
    monkeypatch.setattr(fasb.fitting.newton, "CPU_GROUP", 5)
    together = fit(hard, label)
    for head in range(5):
        found, expected = (np.r_[weight[head], bias[head]] for weight, bias in (together, alone))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.linalg.norm(expected))


def test_heads_that_wait_for_a_hard_one_are_not_halved_at_their_optimum(monkeypatch):
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 2000)
    shift = rng.normal(size=(16, 64)) * label[:, None, None]
    x = rng.normal(size=shift.shape) + 0.1 * shift
    x[:, 3] = rng.standard_t(4, size=(2000, 64)) @ rng.normal(size=(64, 64)) / 8 + 0.2 * shift[:, 3]
    points, steps = [], []
    for name in ("at", "exactly_at"):
        whole = getattr(fasb.fitting.newton._Problem, name)
        monkeypatch.setattr(
            fasb.fitting.newton._Problem,
            name,
            lambda *a, whole=whole: points.append(1) or whole(*a),
        )
    search = fasb.fitting.newton._search
    monkeypatch.setattr(fasb.fitting.newton, "_search", lambda *a: steps.append(1) or search(*a))
    monkeypatch.setattr(fasb.fitting.newton, "CPU_GROUP", 16)
    fit(x, label, 1e3)
    assert len(points) <= len(steps) + 3


def test_float64_takes_over_where_float32_fails(monkeypatch):
    x, label = heads()
    expected = fit(x, label)
    monkeypatch.setitem(
        fasb.fitting.newton.INDEPENDENT, torch.float32, 2.0
    )  # no direction is independent enough
    monkeypatch.setattr(fasb.fitting.newton, "ITERATIONS", 1)
    for found, wanted in zip(fit(x, label), expected):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.linalg.norm(wanted))


def test_what_does_not_end_says_what_to_lower(monkeypatch):
    monkeypatch.setattr(fasb.fitting.newton, "STEPS", 1)
    with pytest.raises(DataError, match=r"no optimum after 1 steps; lower probes\.C"):
        fit(*heads())
