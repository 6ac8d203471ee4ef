"""Draws follow the model's own distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fasb.decoding.sampling import Sampler

LOGITS = torch.tensor([2.0, 0.5, -1.0, 1.0, 0.0])


def drawn(sampler, n=20000):
    chance = np.random.default_rng(0).random((1, n))
    picked = sampler.pick(LOGITS.expand(1, n, 5), chance)[0]
    return np.bincount(picked.numpy(), minlength=5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_shares_are_those_of_the_softmax(temperature):
    expected = (LOGITS.double() / temperature).softmax(0).numpy() * 20000
    assert chisquare(drawn(Sampler(temperature)), expected).pvalue > 0.001


def test_top_p_keeps_the_fewest_tokens_that_hold_it():
    p = LOGITS.double().softmax(0).numpy()
    counts = drawn(Sampler(1.0, top_p=0.75))
    kept = [0, 3]  # .56 and .21 of the probability: the first alone is too little
    assert set(np.flatnonzero(counts)) == set(kept)
    assert chisquare(counts[kept], p[kept] / p[kept].sum() * 20000).pvalue > 0.001
    assert set(np.flatnonzero(drawn(Sampler(1.0, top_p=0.1)))) == {0}


def test_temperature_0_takes_the_likeliest():
    assert set(np.flatnonzero(drawn(Sampler()))) == {0}


def test_chances_depend_on_seed_and_prompt_alone():
    one, other = [1, 2, 3], [1, 2, 4]
    together = Sampler(1.0, seed=5).chances([one, other, one], 8)
    assert (together[0] == together[2]).all()
    assert (together[0] != together[1]).all()
    assert (Sampler(1.0, seed=5).chances([other], 3)[0] == together[1, :3]).all()
    assert (Sampler(1.0, seed=6).chances([one], 8)[0] != together[0]).all()
    assert ((together >= 0) & (together < 1)).all()


def test_a_chance_of_almost_1_draws_a_token_that_can_be():
    logits = torch.tensor([[[0.0, -torch.inf, 5.0]]])
    for top_p in (1.0, 0.5):
        assert Sampler(1.0, top_p).pick(logits, np.array([[np.nextafter(1.0, 0)]])).item() in (0, 2)
