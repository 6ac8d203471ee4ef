"""p: the mean over units of the probability that the text deviates; plain loops are the oracles."""

import numpy as np
import pytest
import torch

from fasb.steering.tracker import SCORES, Cosine, Logistic, Network, Projection, Score, Tracker

AT = torch.tensor([[0, 0], [1, 0], [2, 0]])


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def a_logistic():
    return Logistic(normal(3, 5), normal(3, seed=9))


def a_cosine():
    return Cosine(normal(3, 5), normal(3, 5, seed=2))


def a_projection():
    return Projection(torch.nn.functional.normalize(normal(3, 5), dim=-1))


def a_network():
    return Network(normal(3, 4, 5), normal(3, 4, seed=1), normal(3, 4, seed=2), normal(3, seed=9))


EVERY = {
    "logistic": a_logistic,
    "cosine": a_cosine,
    "projection": a_projection,
    "network": a_network,
}


def test_every_score_is_tried():
    assert set(EVERY) == set(SCORES)
    for name, make in EVERY.items():
        assert type(make()) is SCORES[name]
        assert isinstance(make(), Score)


@pytest.mark.parametrize("kind", EVERY)
def test_p_is_the_mean_of_its_units_and_a_probability(kind):
    score, x = EVERY[kind](), normal(4, 2, 3, 5, seed=1)
    p = Tracker("head", AT, score).deviation(x)
    assert p.shape == (4, 2)
    assert ((p >= 0) & (p <= 1)).all()
    alone = []
    for i in range(3):
        parts = {name: getattr(score, name)[i : i + 1] for name in type(score).__slots__}
        alone.append(Tracker("head", AT[i : i + 1], type(score)(**parts)).deviation(x[:, :, [i]]))
    torch.testing.assert_close(p, torch.stack(alone).mean(0))


@pytest.mark.parametrize("kind", EVERY)
def test_half_precision_outputs_are_judged_in_float32(kind):
    tracker, x = Tracker("head", AT, EVERY[kind]()), normal(4, 3, 5).bfloat16()
    assert tracker.deviation(x).dtype == torch.float32
    assert torch.equal(tracker.deviation(x), tracker.deviation(x.float()))


@pytest.mark.parametrize("kind", EVERY)
def test_an_activation_that_is_not_finite_is_never_a_plain_p(kind):
    """A row that overflowed may not look as if nothing were wrong with it."""
    x = normal(4, 3, 5)
    x[1, 0, 2], x[2, 0, 2] = float("nan"), float("inf")
    p = Tracker("head", AT, EVERY[kind]()).deviation(x)
    assert p.isnan()[1]
    assert p.isfinite()[[0, 3]].all()


def test_logistic_p_is_one_minus_p_true():
    score, x = a_logistic(), normal(4, 2, 3, 5, seed=1)
    found = Tracker("head", AT, score).deviation(x)
    for row, state in np.ndindex(4, 2):
        p_true = []
        for i in range(3):
            logit = float(x[row, state, i] @ score.weight[i] + score.bias[i])
            p_true.append(1 / (1 + np.exp(-logit)))
        assert float(found[row, state]) == pytest.approx(1 - np.mean(p_true), abs=1e-6)


def test_p_is_exact_where_one_minus_p_would_round_to_zero():
    tracker = Tracker("head", AT[:1], Logistic(torch.ones(1, 1), torch.zeros(1)))
    assert 0 < float(tracker.deviation(torch.full((1, 1, 1), 30.0))) < 1e-12


def test_a_centre_makes_the_tracker_blind_to_length():
    score, x = a_cosine(), normal(6, 3, 5, seed=3)
    tracker = Tracker("head", AT, score)
    longer = score.centre + 7 * (x - score.centre)
    torch.testing.assert_close(tracker.deviation(longer), tracker.deviation(x))
    assert torch.isfinite(tracker.deviation(score.centre[None])).all()


def test_a_projection_of_nothing_is_undecided():
    assert Tracker("head", AT, a_projection()).deviation(torch.zeros(2, 3, 5)).tolist() == [0.5] * 2


def test_content_tells_trackers_apart():
    """Equal ones are observed once: what differs in anything must differ in content."""
    one = Tracker("head", AT, a_logistic())
    assert one.content() == Tracker("head", AT.clone(), a_logistic()).content()
    assert one.content() == one.to("cpu").content()
    score = a_logistic()
    others = [
        Tracker("mlp", AT, score),
        Tracker("head", AT.flip(0), score),
        Tracker("head", AT, Logistic(score.weight, score.bias + 1e-6)),
        Tracker("head", AT, Cosine(score.weight, score.weight)),
        Tracker("head", AT, Projection(score.weight)),
    ]
    assert len({tracker.content() for tracker in [one, *others]}) == 6
