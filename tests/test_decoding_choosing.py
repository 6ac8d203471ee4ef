"""Answers that p chooses while they are written, nothing edited; plain loops are the oracles."""

from dataclasses import replace

import numpy as np
import pytest
import reference_choosing
from steering import some_bundle, some_prompts
from tiny import tiny_model

from fasb.decoding.decode import decode, start_live, sweep, trace
from fasb.decoding.observe import TeacherForcedText, TrackerGroup, observe_batch
from fasb.decoding.particles import resampled
from fasb.decoding.score import Choice, score
from fasb.errors import BundleError, ConfigError
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.policy import Policy

PROMPTS = some_prompts(5, seed=3)
STOP = PromptSettings(stop=("e",))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def chooser(model, tokens=9, batch=8, stop=STOP, **policy):
    """A bundle that edits nothing."""
    made = some_bundle(model, tokens=tokens, batch=batch, when="always", alpha=0.0, **policy)
    return replace(made, edit=None, prompt=stop)


def rows_of(model, bundle, prompts=PROMPTS):
    return decode(model, prompts, bundle).after.rows()


# Guided decoding


@pytest.mark.parametrize(("guide", "among"), [(3.0, 3), (30.0, 2), (10.0, 6)])
def test_guided_answers_equal_the_plain_loop(model, guide, among):
    bundle = chooser(model, guide=guide, among=among, tokens=6)
    found = decode(model, PROMPTS, bundle)
    expected = [reference_choosing.guided_answer(model, one, bundle) for one in PROMPTS]
    assert found.after.rows() == expected
    plain = trace(model, PROMPTS, bundle.decoding, STOP.stop).rows()
    assert found.after.rows() != plain
    assert found.decoded.tolist() == [among * len(row) for row in expected]


def test_among_all_tokens_p_alone_can_choose(model):
    bundle = chooser(model, guide=1e5, among=1000, tokens=1, stop=PromptSettings(stop=()))
    found = rows_of(model, bundle, PROMPTS[:2])
    for prompt, (token,) in zip(PROMPTS, found, strict=False):
        every = [[*prompt, one] for one in range(model.vocab_size)]
        texts = [TeacherForcedText(text, 1) for text in every]
        trackers = TrackerGroup.of([bundle.tracker], model.device)
        assert token == observe_batch(model, texts, None, trackers)[0][:, -1].argmin()


def test_a_guide_without_choice_or_weight_writes_the_plain_answers(model):
    plain = trace(model, PROMPTS, DecodingSettings(tokens=9), STOP.stop)
    for policy in ({"guide": 9.0, "among": 1}, {"guide": 1e-12, "among": 4}):
        after = decode(model, PROMPTS, chooser(model, **policy)).after
        assert after.rows() == plain.rows()
        assert after.ended.tolist() == plain.ended.tolist()


def test_a_guided_choice_is_scored_as_its_tokens_are_chosen(model):
    bundle = chooser(model, guide=3.0)
    choices = [Choice((*one, 20, 30, 40), len(one) - 1, len(one)) for one in PROMPTS]
    found = score(model, choices, bundle, batch=2)
    for choice, logprob in zip(choices, found.logprob, strict=True):
        text, scored = list(choice.tokens), choice.scored_start
        expected = reference_choosing.guided_score(model, text, scored, bundle)
        assert logprob == pytest.approx(expected, abs=1e-8)
    assert not found.fired.any()


# Particles


@pytest.mark.parametrize(("resample", "s", "best_of"), [(4.0, 3, 3), (40.0, 1, 2), (0.1, 4, 4)])
def test_particles_equal_the_plain_loop(model, resample, s, best_of):
    bundle = chooser(model, resample=resample, s=s, best_of=best_of)
    expected = [reference_choosing.particle_answer(model, one, bundle) for one in PROMPTS]
    assert rows_of(model, bundle) == expected


def test_particles_that_are_never_weighed_are_the_best_of_as_many_draws(model):
    """s is more than any answer has."""
    weighed, best = (chooser(model, best_of=4, s=99, resample=resample) for resample in (5.0, 0.0))
    assert rows_of(model, weighed) == rows_of(model, best)
    often = decode(model, PROMPTS, chooser(model, best_of=4, s=2, resample=5.0))
    assert often.after.rows() != rows_of(model, best)
    assert (often.rounds > 1).any()


def test_draws_are_taken_as_often_as_their_share_says():
    p, weight = np.array([0.0, 0.5, 1.0, 0.2]), 3.0
    share = np.exp(-weight * p) / np.exp(-weight * p).sum()
    counts = np.zeros(4)
    for chance in (np.arange(1000) + 0.5) / 1000:
        taken = np.bincount(resampled(p, weight, chance), minlength=4)
        assert (np.abs(taken - 4 * share) < 1).all()
        counts += taken
    assert counts / 4000 == pytest.approx(share, abs=1e-3)
    assert resampled(p, 0.0, 0.5).tolist() == [0, 1, 2, 3]
    assert resampled(p, 1e6, 0.999).tolist() == [0, 0, 0, 0]


# Both


@pytest.mark.parametrize("policy", [{"guide": 3.0, "among": 3}, {"resample": 4.0, "best_of": 3}])
def test_what_is_chosen_depends_on_no_batch_and_on_no_company(model, policy):
    bundle = chooser(model, s=2, **policy)
    expected = rows_of(model, bundle)
    alone = chooser(model, s=2, batch=1, **policy)
    assert [rows_of(model, alone, [one])[0] for one in PROMPTS] == expected
    unsteered = trace(model, PROMPTS, bundle.decoding, STOP.stop)
    steered = some_bundle(model, tokens=9)
    other = replace(steered, prompt=STOP)
    found = sweep(model, PROMPTS, unsteered, [other, bundle])
    assert found[1].after.rows() == expected
    assert found[0].after.rows() == decode(model, PROMPTS, other).after.rows()
    assert not found[1].decision.strength.any()
    assert found[1].decision.fired.all()


@pytest.mark.parametrize("policy", [{"guide": 3.0}, {"resample": 4.0, "best_of": 3}])
def test_an_edit_and_showing_while_writing_are_refused(model, policy):
    with pytest.raises(BundleError, match="choose among unsteered texts; leave out the edit"):
        decode(model, PROMPTS, some_bundle(model, when="always", **policy))
    with pytest.raises(BundleError, match="show no answer while it is written"):
        start_live(model, PROMPTS, chooser(model, **policy))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 1.0}, "policy.resample: weighs several draws .* best_of to 2 or more"),
        ({"resample": 1.0, "best_of": 2, "when": "token"}, "policy.resample: weighs several"),
        ({"guide": 1.0, "best_of": 2}, "policy.guide: chooses every token .* without best_of"),
        ({"guide": 1.0, "when": "prompt"}, "policy.guide: chooses every token"),
        ({"guide": -1.0}, "policy.guide: -1.0; set it between 0"),
        ({"guide": 1.0, "among": 0}, "policy.among: 0; set it between 1"),
    ],
)
def test_policies_that_choose_within_no_whole_answer_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Policy(**{"when": "always", **settings})
