"""Tuning: settings beside what keeps them from harm."""

from dataclasses import replace

import numpy as np
import pytest

import fasb
from fasb.decoding.score import score
from fasb.errors import ConfigError, DataError, ModelError
from fasb.metrics.answers import choice_rows
from fasb.settings import PromptSettings
from fasb.steering.policy import Policy
from fasb.user.asking import (
    ask,
    encoded_choices,
    mc2_as_generated,
    observed,
    steered,
    surprise,
)
from fasb.user.evaluation import as_table
from fasb.user.guards import Limits, harm, thresholds
from fasb.user.tuning import Candidate, best, tried
from tests.test_user import QUESTIONS, bundle_for
from tests.tiny import tiny_model

CONTROLS = [f"Is {i} a number?" for i in range(19)]
ANY = Limits(touch=0.5, perplexity=1e9)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def settings_of(model, *alphas, **policy):
    """A grid of strengths, without a beta."""
    return [({"alpha": a}, bundle_for(model, alpha=a, **policy)) for a in alphas]


def test_a_setting_is_chosen_by_value_then_fewer_steered_then_less_strength():
    found = [(1, 0.5, 0.1), (9, 0.6, 0.4), (5, 0.6, 0.4), (2, 0.6, 0.9)]
    bundle = fasb.Bundle(fasb.Policy())
    every = [Candidate({"alpha": alpha}, bundle, value, steered) for alpha, value, steered in found]
    assert best(every).point == {"alpha": 5}
    every[2] = replace(every[2], out="degenerate")
    assert best(every).point == {"alpha": 9}


@pytest.mark.parametrize("touch", [0.05, 0.2, 0.5])
def test_a_threshold_lets_no_more_answers_fire_than_it_may(model, touch):
    bundle = bundle_for(model)
    controls = ask(model, bundle, CONTROLS)
    (beta,) = thresholds(model, [bundle], controls, QUESTIONS, touch)
    (answers,) = steered(model, controls, [bundle.with_policy(beta=beta)])
    assert answers.decision.fired.mean() <= touch
    truths = [replace(question, false=()) for question in QUESTIONS]

    def fired(beta):
        some = bundle.with_policy(beta=beta)
        (answers,) = steered(model, controls, [some])
        scores = score(model, encoded_choices(model, bundle, truths), some)
        return answers.decision.fired, np.concatenate([answers.decision.fired, scores.fired])

    alone, together = fired(beta)
    assert together.mean() <= touch
    # a lower one would let so many fire that no promise held
    alone, together = fired(beta - 0.01)
    assert alone.sum() >= touch * 20 - 1 or together.sum() >= touch * (len(together) + 1) - 1


def test_answers_that_trackers_have_seen_are_not_looked_at_again(model, monkeypatch):
    bundles = [bundle_for(model), bundle_for(model, alpha=9.0)]
    asked = ask(model, bundles[0], CONTROLS)
    expected = [one.after.rows() for one in steered(model, asked, bundles)]
    known = observed(model, asked, bundles)
    betas = thresholds(model, bundles, asked, QUESTIONS, 0.2)
    assert thresholds(model, bundles, known, QUESTIONS, 0.2) == pytest.approx(betas)
    monkeypatch.setattr("fasb.decoding.deviation.observe", lambda *_: pytest.fail("looked again"))
    assert [one.after.rows() for one in steered(model, known, bundles)] == expected
    (some,) = steered(model, known.first(5), bundles[:1])
    assert some.after.rows() == expected[0][:5]


def test_too_few_controls_promise_nothing_and_nothing_is_steered(model):
    found = tried(model, QUESTIONS, CONTROLS[:5], settings_of(model, 6.0), Limits(0.05, 9.0), None)
    assert [one.out for one in found] == ["touch", ""]
    assert not best(found).steers


def test_a_given_beta_below_the_bound_is_out(model):
    grid = [({"beta": beta}, bundle_for(model)) for beta in (0.0, 1.0)]
    found = tried(model, QUESTIONS, CONTROLS, grid, ANY, None)
    assert found[0].out == "touch"
    assert found[1].point["beta"] == 1.0
    assert found[1].steered == 0


def test_settings_that_change_or_break_answers_are_out(model):
    grid = settings_of(model, 1.0, 400.0)
    found = tried(model, QUESTIONS, CONTROLS, grid, Limits(0.5, 1.0), None)
    assert found[1].out in ("degenerate", "perplexity")
    assert found[1].harm.perplexity > 1
    assert not best(found).out


def test_harm_counts_controls_that_changed_and_answers_that_broke(model):
    bundle = bundle_for(model, alpha=400.0, beta=0.0)
    asked = ask(model, bundle, CONTROLS)
    (answers,) = steered(model, asked, [bundle])
    plain = surprise(model, bundle, asked.prompts, asked.before.rows())
    everything = harm(model, bundle, asked, answers, np.ones(19, dtype=bool), plain)
    assert everything.changed > 0.5
    assert everything.reason(Limits(0.05, 1.25)) == "changed"
    nothing = harm(model, bundle, asked, answers, np.zeros(19, dtype=bool), plain)
    assert nothing.changed == 0
    unsteered = bundle.with_policy(when="never")
    (same,) = steered(model, asked, [unsteered])
    quiet = harm(model, unsteered, asked, same, np.ones(19, dtype=bool), plain)
    assert (quiet.changed, quiet.degenerate, quiet.perplexity) == (0, 0, 1)


def test_surprise_is_what_the_unsteered_model_gives_each_token(model):
    bundle = bundle_for(model)
    asked = ask(model, bundle, CONTROLS[:3])
    rows = asked.before.rows()
    together = surprise(model, bundle, asked.prompts, rows)
    for i in range(3):
        logits = model.model(input_ids=_batch([*asked.prompts[i], *rows[i]])).logits[0]
        logprob = logits.log_softmax(-1)
        start = len(asked.prompts[i])
        of_tokens = [float(logprob[start + j - 1, token]) for j, token in enumerate(rows[i])]
        assert together[i] == pytest.approx(-np.mean(of_tokens), abs=1e-4)
    assert surprise(model, bundle, asked.prompts[:1], [[]]).tolist() == [0]


def _batch(tokens):
    import torch

    return torch.tensor([tokens])


@pytest.mark.parametrize("policy", [{}, {"when": "always", "after": 3}, {"best_of": 3}])
def test_mc2_as_generated_edits_all_answers_of_a_question_alike(model, policy):
    bundle = bundle_for(model).with_policy(**policy)
    strength = np.array([3.0, 0.0, 1.5])
    (found,) = mc2_as_generated(model, QUESTIONS[:3], [bundle], [strength])
    for i, question in enumerate(QUESTIONS[:3]):
        when = "always" if strength[i] else "never"
        one = replace(bundle, policy=Policy(when=when, alpha=strength[i]))
        scores = score(model, encoded_choices(model, bundle, [question]), one)
        expected = choice_rows([question], scores.logprob, scores.fired)[0, 1]
        assert found[i] == pytest.approx(expected, abs=1e-6)


def test_thoughts_that_do_not_end_are_no_answers_to_tune_on(model):
    thinking = PromptSettings(chat="on", thinks=True)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    grid = [({"alpha": 6.0}, replace(bundle_for(model), prompt=thinking))]
    with pytest.raises(
        ConfigError, match=r"decoding.tokens: after \d+, 39 of 39 answers are"
    ) as it:
        tried(model, QUESTIONS, CONTROLS, grid, ANY, None)
    assert "\n" not in str(it.value)
    model.tokenizer.chat_template = None


def test_without_false_answers_and_judge_nothing_can_be_tuned(tmp_path):
    bare = [replace(question, false=()) for question in QUESTIONS]
    # no model is loaded for it: there is none
    with pytest.raises(DataError, match="add false answers, name a judge"):
        fasb.fit(tmp_path / "none", bare)


def test_measures_without_a_value_are_left_out(model):
    """Where no question has false answers, nothing is chosen among."""
    bare = [replace(question, false=()) for question in QUESTIONS]
    found = fasb.evaluate(model, bundle_for(model), bare)
    assert [one.name for one in found.measures] == ["steered", "changed", "degenerate"]
    assert "nan" not in as_table(found)


def test_too_few_controls_for_the_promise_are_refused_before_a_model_is_loaded(tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("\n".join(CONTROLS[:10]))
    message = r"settings.controls: 5 prompts to tune on cannot bound a share of 0.05; give 38 or"
    with pytest.raises(ConfigError, match=message):
        fasb.fit(tmp_path / "none", QUESTIONS, {"controls": few})
    few.write_text("\n".join(f"Is {i} a number?" for i in range(37)))
    with pytest.raises(ModelError, match="none: no such folder"):
        fasb.fit(tmp_path / "none", QUESTIONS, {"controls": few})
