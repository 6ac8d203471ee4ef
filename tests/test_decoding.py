from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import some_bundle, some_edit, some_prompts, some_tracker
from tiny import tiny_model

from fasb.decoding.decode import answer, check, observe, regenerate, sweep, trace
from fasb.decoding.generate import write
from fasb.decoding.observe import logits_of
from fasb.decoding.sequences import Ending, Growth, Start
from fasb.decoding.stream import live, stream
from fasb.errors import BundleError
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import Policy, decide
from fasb.steering.trace import LIMIT, Decision, Trace

PROMPTS = some_prompts(13, seed=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def rows_of(model, bundle, prompts=PROMPTS):
    return answer(model, prompts, bundle).after.rows()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_zero_strength_leaves_every_logit_unchanged(name, dtype):
    model = tiny_model(name, dtype=dtype)
    text = PROMPTS[0]
    assert torch.equal(logits_of(model, text), logits_of(model, text, some_edit(model), 0.0))
    assert not torch.equal(logits_of(model, text), logits_of(model, text, some_edit(model), 1.0))


@pytest.mark.parametrize("edit", ["persistent", "transient"])
def test_zero_strength_gives_the_unsteered_answers(model, edit):
    bundle = some_bundle(model, edit=edit, alpha=0.0, beta=0.0)
    answers = answer(model, PROMPTS, bundle)
    assert answers.decision.fired.all()
    assert answers.after.rows() == answers.before.rows()


def test_beta_1_never_fires(model):
    answers = answer(model, PROMPTS, some_bundle(model, beta=1.0))
    assert not answers.decision.fired.any()
    assert answers.after.rows() == answers.before.rows()
    assert answers.decoded.tolist() == answers.before.length.tolist()


def test_batch_size_and_order_change_no_answer(model):
    expected = rows_of(model, some_bundle(model))
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    for size in (1, 3, 64):
        bundle = some_bundle(model, batch=size)
        assert rows_of(model, bundle) == expected
        assert rows_of(model, bundle, [PROMPTS[i] for i in order]) == [expected[i] for i in order]


def test_equal_prompts_get_equal_answers(model):
    rows = rows_of(model, some_bundle(model), [prompt for prompt in PROMPTS for _ in range(3)])
    assert rows[::3] == rows[1::3] == rows[2::3] == rows_of(model, some_bundle(model))


def test_a_long_shared_prefix_changes_no_answer(model):
    prefix = list(range(10, 40))
    prompts = [[0, *prefix, *prompt[1:]] for prompt in PROMPTS]
    bundle = some_bundle(model)
    together = rows_of(model, bundle, prompts)
    assert together == [rows_of(model, bundle, [prompt])[0] for prompt in prompts]


def test_steering_twice_by_half_equals_once(model):
    bundle = some_bundle(model, alpha=4.0, adaptive=False)
    halved = replace(
        bundle.with_policy(alpha=8.0), edit=Edit(bundle.edit.heads, bundle.edit.vector / 2)
    )
    assert rows_of(model, bundle) == rows_of(model, halved)


def test_no_prompts_give_no_answers(model):
    answers = answer(model, [], some_bundle(model))
    assert answers.after.rows() == []
    assert live(model, [], some_bundle(model)).after.rows() == []
    assert sweep(model, [], answers.before, []) == []


def test_trackers_see_the_same_together_and_alone(model):
    traced = trace(model, PROMPTS, DecodingSettings(tokens=9))
    trackers = [
        some_tracker(model, k, seed, centred)
        for k, seed, centred in ((1, 0, False), (5, 1, True), (3, 2, False))
    ]
    for tracker, together in zip(
        trackers, observe(model, PROMPTS, traced, trackers, 4), strict=True
    ):
        alone = observe(model, PROMPTS, traced, [tracker], 64)[0]
        assert together == pytest.approx(alone, abs=1e-12, nan_ok=True)
        beyond = np.arange(alone.shape[1]) > traced.length[:, None]
        assert np.isnan(alone).tolist() == beyond.tolist()


def test_regenerated_rows_keep_what_the_decision_keeps(model):
    bundle = some_bundle(model)
    traced = trace(model, PROMPTS, bundle.decoding)
    fired = np.arange(len(PROMPTS)) % 2 == 0
    kept = np.where(fired, traced.length // 2, traced.length)
    decision = Decision(fired, kept, np.where(fired, 5.0, 0.0), traced.length)
    after = regenerate(model, PROMPTS, traced, decision, bundle)
    for i, (before, now) in enumerate(zip(traced.rows(), after.rows(), strict=True)):
        assert now[: kept[i]] == before[: kept[i]]
        assert fired[i] or now == before
        assert len(now) <= bundle.decoding.tokens


def test_rows_that_fired_with_nothing_left_to_write_stay(model):
    bundle = some_bundle(model)
    full = Trace.of([[7] * 14, [8] * 14], [LIMIT, LIMIT])
    decision = Decision(
        np.array([True, True]), np.array([14, 13]), np.array([1.0, 1.0]), np.array([14, 14])
    )
    rows = regenerate(model, PROMPTS[:2], full, decision, bundle).rows()
    assert rows[0] == [7] * 14
    assert rows[1][:13] == [8] * 13
    assert len(rows[1]) == 14


def test_equal_suffixes_are_written_once(model, monkeypatch):
    bundles = [some_bundle(model, beta=beta, adaptive=False) for beta in (0.50, 0.501, 0.502)]
    traced = trace(model, PROMPTS, bundles[0].decoding)
    written = []
    monkeypatch.setattr(
        "fasb.decoding.decode.Growth",
        lambda m, starts, *rest, **more: written.extend(starts) or Growth(m, starts, *rest, **more),
    )
    answers = sweep(model, PROMPTS, traced, bundles)
    distinct = {
        (i, *suffix[1:])
        for found in answers
        for suffix in found.decision.suffixes()
        for i in [suffix[0]]
    }
    assert len(written) == len(distinct) < sum(found.decision.fired.sum() for found in answers)


def test_always_steering_traces_nothing(model):
    answers = answer(model, PROMPTS, some_bundle(model, gate="always"))
    assert answers.before.length.tolist() == [0] * len(PROMPTS)
    assert answers.decoded.tolist() == answers.after.length.tolist()
    traced = trace(model, PROMPTS, DecodingSettings(tokens=14))
    given = answer(model, PROMPTS, some_bundle(model, gate="always"), traced)
    assert given.after.rows() == answers.after.rows()
    assert given.decoded.tolist() == answers.decoded.tolist()


def test_decisions_are_those_of_the_policy(model):
    bundle = some_bundle(model)
    answers = answer(model, PROMPTS, bundle)
    assert decide(answers.before, bundle.policy).kept.tolist() == answers.decision.kept.tolist()
    anew = answers.after.length - answers.decision.kept
    assert (
        answers.decoded.tolist()
        == np.where(
            answers.decision.fired, answers.decision.fired_at + anew, answers.before.length
        ).tolist()
    )


def test_hooks_leave_the_model_as_it_was(model):
    answer(model, PROMPTS, some_bundle(model))
    next(stream(model, PROMPTS[0], some_bundle(model)))
    assert not any(module._forward_pre_hooks for module in model.model.modules())


# Stop strings


@pytest.mark.parametrize("stop", [("\n",), ("e",), ("he",), (" ",), ("the ", "o"), ("e i",)])
def test_stop_strings_are_found_wherever_they_fall_on_tokens(model, stop):
    """Random tokens, as the model would never write them: no token may be overlooked."""
    generator = np.random.default_rng(0)
    ending = Ending.of(model, stop)
    suspect = (
        torch.ones(model.vocab_size, dtype=torch.bool) if ending.suspect is None else ending.suspect
    )
    for _ in range(300):
        tokens = generator.integers(3, model.vocab_size, 12).tolist()
        for n in range(1, 13):
            now, before = (
                any(text in model.decode(tokens[:m]) for text in stop) for m in (n, n - 1)
            )
            if now and not before:
                assert suspect[tokens[n - 1]]


def test_a_stop_string_across_the_step_back_is_found(model):
    tokens = model.encode(["the"])[0][1:]
    stop = (model.decode(tokens),)
    start = Start(PROMPTS[0], tokens[:-1] if len(tokens) > 1 else tokens, 6)
    growth, ending = Growth(model, [start], DecodingSettings(), stop), Ending.of(model, stop)
    written = write(model, growth, DecodingSettings(), None)[0]
    assert len(written.tokens) == 1 or not ending.stopped(
        model, [*start.kept, *written.tokens[:-1]]
    )


# Bundles


def test_check_accepts_a_bundle_of_this_model(model):
    check(model, some_bundle(model))
    check(model, Bundle(Policy(gate="never")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracker": None}, "gate 'answer' reads p, but there is no tracker; fit one"),
        ({"edit": None}, "gate 'answer' may steer, but there is no edit; fit one"),
    ],
)
def test_incomplete_bundles_are_refused(model, changes, message):
    bundle = replace(some_bundle(model), **changes)
    for function in (check, lambda m, b: answer(m, PROMPTS, b), lambda m, b: live(m, PROMPTS, b)):
        with pytest.raises(BundleError, match=message):
            function(model, bundle)


def test_an_edit_without_effect_is_refused(model):
    bundle = some_bundle(model)
    nothing = replace(bundle, edit=Edit(bundle.edit.heads, torch.zeros_like(bundle.edit.vector)))
    with pytest.raises(BundleError, match="strength 10 changes no logit; its vectors are zero"):
        check(model, nothing)


def test_a_sibling_is_accepted_only_when_asked(model):
    bundle = replace(some_bundle(model), fingerprint=replace(model.fingerprint, weights="other"))
    with pytest.raises(BundleError, match="or allow siblings"):
        check(model, bundle)
    check(model, bundle, siblings=True)


# Streams


@pytest.mark.parametrize("edit", ["persistent", "transient"])
@pytest.mark.parametrize("judged", ["newest", "previous"])
@pytest.mark.parametrize("gate", ["answer", "question", "always", "never"])
def test_a_stream_tells_what_live_gives(model, gate, judged, edit):
    bundle, prompts = some_bundle(model, edit=edit, gate=gate, judged=judged), PROMPTS[:6]
    answers = live(model, prompts, bundle)
    for i, prompt in enumerate(prompts):
        *events, done = stream(model, prompt, bundle)
        pieces, steered = [], False
        for event in events:
            if event.kind == "back":
                steered = True
                assert event.text == "".join(pieces[len(pieces) - event.dropped :])
                assert event.strength == pytest.approx(answers.decision.strength[i], abs=1e-9)
                pieces = pieces[: len(pieces) - event.dropped]
                assert len(pieces) == answers.decision.kept[i]
            else:
                assert event.kind == "token"
                assert event.steered == steered
                pieces.append(event.text)
        assert done.kind == "done"
        assert done.steered == steered == answers.decision.fired[i]
        assert len(pieces) == answers.after.length[i]
        assert "".join(pieces) == model.decode(answers.after.rows()[i])


def test_a_stream_tells_p_of_each_token(model):
    bundle = some_bundle(model, beta=1.0)
    answers = answer(model, PROMPTS[:1], bundle)
    told = [event.p for event in stream(model, PROMPTS[0], bundle) if event.kind == "token"]
    assert told == pytest.approx(answers.before.p[0, 1 : len(told) + 1].tolist(), abs=1e-9)


def test_the_last_event_is_the_cleaned_answer(model):
    bundle = replace(some_bundle(model), prompt=PromptSettings(stop=("e",)))
    for prompt in PROMPTS:
        done = list(stream(model, prompt, bundle))[-1]
        assert "e" not in done.text
        assert done.text == done.text.strip()
