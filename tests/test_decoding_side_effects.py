"""Side effects equal a plain loop over single texts, and are none where nothing is steered."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import some_bundle
from tiny import tiny_model

from fasb.decoding.side_effects import side_effects
from fasb.model.hooks import editing, recording
from fasb.steering.edit import Active
from fasb.steering.policy import Policy

GENERATOR = np.random.default_rng(0)
TEXTS = [GENERATOR.integers(3, 160, n).tolist() for n in (9, 4, 15, 2, 12)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def replayed(p, policy):
    """The strength at each token of a text: read on until p says so, go back, steer to the end."""
    strength = torch.zeros(1, len(p), dtype=torch.float64)
    for n in range(1, len(p)):
        at_end = n == len(p) - 1
        if (n >= policy.s or at_end) and (policy.backtrack or not at_end) and p[n] > policy.beta:
            first = max(0, n - policy.s) if policy.backtrack else n
            strength[0, first:] = policy.alpha * (p[n] if policy.adaptive else 1)
            break
    return strength.to(p.device)


def plain_loop(model, text, bundle, by_policy):
    """One text, no padding, one distribution after the other, in probabilities."""
    ids = torch.tensor([text], device=model.device)
    tracker = bundle.tracker.to(model.device)
    with torch.no_grad(), recording(model.layout, tracker.site, tracker.at) as recorder:
        before = model.model(ids).logits[0].double().softmax(-1)
        p = tracker.deviation(recorder.pop())[0].double()
    strength = torch.full((1, len(text)), bundle.policy.alpha, dtype=torch.float64).to(model.device)
    if by_policy:
        strength = replayed(p, bundle.policy)
    with torch.no_grad(), editing(model.layout, bundle.edit) as dial:
        dial.strength = strength
        after = model.model(ids).logits[0].double().softmax(-1)
    ce, kl = [], []
    for t, token in enumerate(text[1:]):
        ce.append(-np.log(float(after[t, token])))
        kl.append(sum(float(a) * np.log(float(a) / float(b)) for a, b in zip(before[t], after[t])))
    return np.mean(ce), np.mean(kl), float((strength != 0).double().mean())


@pytest.mark.parametrize("by_policy", [False, True])
@pytest.mark.parametrize(
    "policy",
    [{}, {"s": 2, "beta": 0.55}, {"s": 50}, {"backtrack": False, "adaptive": False, "beta": 0.55}],
    ids=["", "back a little", "back to the beginning", "not back"],
)
def test_equals_a_plain_loop_over_single_texts(model, policy, by_policy):
    bundle = some_bundle(model, **policy)
    found = side_effects(model, TEXTS, [bundle], batch=3)[0][by_policy]
    expected = np.array([plain_loop(model, text, bundle, by_policy) for text in TEXTS]).T
    for values, wanted in zip((found.ce, found.kl, found.steered), expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7)
    assert (found.kl > 0).any()
    assert not by_policy or 0 < found.steered.mean() < 1


def test_once_it_has_fired_it_steers_to_the_end_though_its_gate_has_closed(model):
    bundle = some_bundle(model, s=1, beta=0.55)
    closed = 0
    for text in TEXTS:
        ids = torch.tensor([text], device=model.device)
        tracker = bundle.tracker.to(model.device)
        with torch.no_grad(), recording(model.layout, tracker.site, tracker.at) as recorder:
            model.model(ids)
        p = tracker.deviation(recorder.pop())[0].double()
        over = (p[1:] > bundle.policy.beta).nonzero()[:, 0]
        found = side_effects(model, [text], [bundle])[0][1].steered[0]
        # from one token before the first that is over, whatever p is later
        first = over[0].item() if len(over) else len(p)
        assert found == pytest.approx(1 - first / len(p))
        closed += bool(len(over)) and bool(p[-1] <= bundle.policy.beta)
    assert closed


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_strength_0_changes_nothing_at_all(model, batch):
    unsteered = replace(some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None)
    zero, never = side_effects(model, TEXTS, [some_bundle(model, alpha=0.0), unsteered], batch)
    for effects in (*zero, *never):
        assert not effects.kl.any()
        assert not effects.steered.any()
        np.testing.assert_array_equal(effects.ce, never[0].ce)


def test_policies_steer_as_much_as_they_say(model):
    always, never, prompt, open_always = side_effects(
        model,
        TEXTS,
        [
            some_bundle(model, when="always"),
            some_bundle(model, when="never"),
            some_bundle(model, when="prompt"),
            some_bundle(model, beta=0.0, adaptive=False),
        ],
    )
    assert (always[1].steered == 1).all()
    assert not never[1].steered.any()
    assert np.isnan(prompt[1].ce).all()
    assert np.isfinite(prompt[0].ce).all()
    np.testing.assert_allclose(open_always[1].kl, open_always[0].kl)
    np.testing.assert_allclose(always[0].kl, always[1].kl)


def test_an_edit_at_the_prompts_end_has_no_place_on_plain_text(model):
    bundle = some_bundle(model, when="always")
    bundle = replace(bundle, edit=replace(bundle.edit, active=Active("prompt_end")))
    everywhere, by_policy = side_effects(model, TEXTS, [bundle])[0]
    assert np.isfinite(everywhere.kl).all()
    assert np.isnan(by_policy.kl).all()


def test_a_text_of_one_token_has_no_next_one(model):
    found = side_effects(model, [[5], [5, 6]], [some_bundle(model)])[0][0]
    assert np.isnan([found.ce[0], found.kl[0]]).all()
    assert np.isfinite([found.ce[1], found.kl[1]]).all()
