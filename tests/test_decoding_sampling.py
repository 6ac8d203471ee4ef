"""Draws follow the model's own distribution; of several the one with the lowest p is kept."""

from dataclasses import replace

import numpy as np
import pytest
import reference_loop
import reference_model
import torch
from scipy.stats import chisquare
from steering import some_bundle, some_prompts
from tiny import tiny_model

from fasb.decoding.decode import decode, start_live, sweep, trace
from fasb.decoding.deviation import observe
from fasb.decoding.sampling import Sampler, seed_of
from fasb.decoding.score import Choice, score
from fasb.errors import BundleError, ConfigError
from fasb.steering.policy import Policy

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


# ---- best of several draws (docs/method.md C7)

PROMPTS = some_prompts(3, seed=2, longest=6)
POLICIES = {
    "from the start": {"when": "always"},
    "where it fires": {"when": "token", "s": 3},
    "after the question": {"when": "prompt"},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(params=POLICIES)
def bundle(request, model):
    return some_bundle(model, tokens=6, best_of=3, **POLICIES[request.param])


def ending(model, prompt, kept, strength, draw, bundle):
    """One draw of a row as a plain loop writes it, and p at its end."""
    sampler = Sampler(1.0, seed=seed_of(bundle.decoding.seed, draw))
    chance = sampler.chances([prompt], bundle.decoding.tokens)
    tokens = list(kept)
    while not reference_loop.ended(model, tokens, bundle):
        text = prompt + tokens
        at = reference_loop.edited(bundle, len(prompt), len(kept), len(text))
        logits = reference_model.run(model, text, bundle.edit, strength, at)[0]
        tokens.append(int(sampler.pick(logits[None, -1:], chance[:, [len(tokens)]])))
    return tokens, reference_model.p_of(model, prompt + tokens, bundle.tracker)[-1]


def expected(model, prompt, bundle):
    """The row's answer, and how many tokens were decoded for it."""
    first = reference_loop.answer(model, prompt, bundle.with_policy(best_of=1))
    unsteered = trace(model, [prompt], bundle.decoding).rows()[0]
    if not first.fired:
        return unsteered, len(unsteered)
    kept = unsteered[: first.kept]
    drawn = []
    for draw in range(bundle.policy.best_of):
        drawn.append(ending(model, prompt, kept, first.strength, draw, bundle))
    n = first.fired_at + sum(len(tokens) - len(kept) for tokens, _ in drawn)
    return min(drawn, key=lambda one: one[1])[0], n


def test_the_draw_with_the_lowest_p_at_its_end_is_kept(model, bundle):
    for plain in (bundle, replace(bundle, edit=None).with_policy(alpha=0.0)):
        wanted = [expected(model, prompt, plain) for prompt in PROMPTS]
        found = decode(model, PROMPTS, plain)
        assert list(zip(found.after.rows(), found.decoded.tolist())) == wanted
        assert plain.edit is not None or not found.decision.strength.any()
    # some are not what greedy decoding gives
    assert decode(model, PROMPTS, bundle.with_policy(best_of=1)).after.rows() != found.after.rows()


def test_a_batch_gives_what_its_rows_give_alone_and_a_grid_what_its_points_do(model, bundle):
    bundles = [bundle, bundle.with_policy(best_of=2), bundle.with_policy(beta=0.6)]
    before = trace(model, PROMPTS, bundle.decoding)
    together = sweep(model, PROMPTS, before, bundles)
    for one, found in zip(bundles, together, strict=True):
        for i, prompt in enumerate(PROMPTS):
            assert decode(model, [prompt], one).after.rows()[0] == found.after.rows()[i]


def test_more_draws_end_no_higher_and_the_seed_decides(model):
    bundle = some_bundle(model, tokens=6, when="always", best_of=2)
    seeded = bundle.decoding.model_copy(update={"seed": 1})
    other = decode(model, PROMPTS, replace(bundle, decoding=seeded))
    found = {n: decode(model, PROMPTS, bundle.with_policy(best_of=n)) for n in (2, 6)}
    assert found[2].after.rows() != other.after.rows()

    def ends(answers):
        rows = zip(PROMPTS, answers.after.rows(), strict=True)
        return [reference_model.p_of(model, [*a, *b], bundle.tracker)[-1] for a, b in rows]

    assert (np.array(ends(found[6])) <= np.array(ends(found[2])) + 1e-9).all()
    assert (found[6].decoded > found[2].decoded).all()


def test_what_fires_may_be_declined_instead_of_steered(model):
    bundle = replace(some_bundle(model, tokens=6, s=3, abstain=True), edit=None)
    before = trace(model, PROMPTS, bundle.decoding)
    highest = np.nanmax(observe(model, PROMPTS, before, [bundle.tracker])[0][:, 3:], axis=1)
    bundle = bundle.with_policy(beta=float(np.sort(highest)[-2]))  # so that one of them fires
    fires = decode(model, PROMPTS, bundle.with_policy(alpha=0.0, abstain=False, best_of=2))
    said = model.encode([" I have no comment."], special=False)[0]
    found = decode(model, PROMPTS, bundle)
    assert (found.decision.fired == fires.decision.fired).all()
    assert found.decision.fired.sum() == 1
    for row, tokens in enumerate(found.after.rows()):
        fired = found.decision.fired[row]
        assert tokens == (said if fired else before.rows()[row])
        assert found.decoded[row] == found.decision.fired_at[row]
    for i, prompt in enumerate(PROMPTS):
        assert decode(model, [prompt], bundle).after.rows()[0] == found.after.rows()[i]
    with pytest.raises(BundleError, match="show no answer"):
        start_live(model, PROMPTS, bundle)
    choices = [Choice((*prompt, 20, 21), len(prompt) - 1, len(prompt)) for prompt in PROMPTS]
    plain = score(model, choices, bundle.with_policy(when="never"))
    assert (score(model, choices, bundle).logprob == plain.logprob).all()
    assert not score(model, choices, bundle).fired.any()


def test_candidate_answers_are_ranked_by_p_alone(model):
    bundle = some_bundle(model, when="always", best_of=4)
    choices, p = [], []
    for prompt in PROMPTS:
        for more in ((20, 21), (30, 31, 32)):
            choices.append(Choice((*prompt, *more), len(prompt) - 1, len(prompt)))
            p.append(reference_model.p_of(model, [*prompt, *more], bundle.tracker)[-1])
    for one in (bundle, replace(bundle, edit=None)):
        found = score(model, choices, one, batch=3)
        np.testing.assert_allclose(found.logprob, np.log1p(-np.array(p)), atol=1e-9)
        assert not found.fired.any()


def test_what_cannot_be_drawn_is_refused(model):
    bundle = some_bundle(model, best_of=2)
    oracle = bundle.with_policy(when="oracle", best_of=1)
    for one in (bundle, oracle):
        with pytest.raises(BundleError, match="abstain and 'oracle' show no answer"):
            start_live(model, PROMPTS, one)
    with pytest.raises(BundleError, match="'oracle' needs a judge's verdicts"):
        decode(model, PROMPTS, oracle)
    with pytest.raises(ConfigError, match=r"policy\.best_of: 0; set it between 1"):
        Policy(best_of=0)
    with pytest.raises(ConfigError, match=r"policy\.best_of: is for what fires once"):
        Policy(best_of=2, backtracks=2)
    with pytest.raises(BundleError, match="no edit"):
        replace(bundle, edit=None).with_policy(best_of=1).require()
