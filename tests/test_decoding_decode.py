"""Answers do not depend on batches, prefixes or company; strength 0 is the plain model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import some_bundle, some_edit, some_prompts, some_tracker
from tiny import tiny_model

from fasb.decoding import generate, suffixes
from fasb.decoding.decode import check, decode, decode_live, sweep, trace
from fasb.decoding.deviation import observe
from fasb.decoding.observe import logits_of
from fasb.decoding.stream import stream
from fasb.decoding.suffixes import regenerate
from fasb.errors import BundleError
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle
from fasb.steering.decide import decide
from fasb.steering.edit import Edit
from fasb.steering.policy import Policy
from fasb.steering.trace import LIMIT, Decision, Trace

PROMPTS = some_prompts(13, seed=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def rows_of(model, bundle, prompts=PROMPTS):
    return decode(model, prompts, bundle).after.rows()


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
    answers = decode(model, PROMPTS, bundle)
    assert answers.decision.fired.all()
    assert answers.after.rows() == answers.before.rows()


def test_beta_1_never_fires(model):
    answers = decode(model, PROMPTS, some_bundle(model, beta=1.0))
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
    (change,) = bundle.edit.changes
    half = Edit.add(change.at, change.operation.vector / 2)
    halved = replace(bundle.with_policy(alpha=8.0), edit=half)
    assert rows_of(model, bundle) == rows_of(model, halved)


def test_no_prompts_give_no_answers(model):
    answers = decode(model, [], some_bundle(model))
    assert answers.after.rows() == []
    assert decode_live(model, [], some_bundle(model)).after.rows() == []
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
    after = regenerate(model, PROMPTS, traced, [decision], [bundle])[0]
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
    rows = regenerate(model, PROMPTS[:2], full, [decision], [bundle])[0].rows()
    assert rows[0] == [7] * 14
    assert rows[1][:13] == [8] * 13
    assert len(rows[1]) == 14


def test_equal_suffixes_are_written_once(model, monkeypatch):
    bundles = [some_bundle(model, beta=beta, adaptive=False) for beta in (0.50, 0.501, 0.502)]
    traced = trace(model, PROMPTS, bundles[0].decoding)
    written = []

    def counting(sequences, batch):
        found = complete(sequences, batch)
        written.extend(found)
        return found

    complete = suffixes.complete
    monkeypatch.setattr(suffixes, "complete", counting)
    answers = sweep(model, PROMPTS, traced, bundles)
    distinct = set()
    for found in answers:
        distinct |= set(found.decision.suffixes())
    assert len(written) == len(distinct) < sum(found.decision.fired.sum() for found in answers)


@pytest.mark.parametrize(
    ("edited", "positions"),
    [("persistent", "from_answer"), ("transient", "from_answer"), ("persistent", "all")],
)
def test_what_stands_before_the_suffixes_of_a_row_is_run_once(edited, positions, monkeypatch):
    model = tiny_model()
    whole = some_bundle(model, tokens=9, batch=3, edit=edited, when="always")
    whole = replace(whole, edit=some_edit(model, positions=positions))
    bundles = [whole.with_policy(alpha=alpha) for alpha in (1.0, 2.0, 3.0, 4.0)]
    traced = trace(model, PROMPTS, whole.decoding)
    widths, run = [], generate.forward

    def forward(model, batch, keep=0):
        widths.append(batch.width)
        return run(model, batch, keep)

    monkeypatch.setattr(generate, "forward", forward)
    answers = sweep(model, PROMPTS, traced, bundles)
    # the newest token alone, and where the edit is undone the one before
    if positions == "from_answer":
        assert max(widths) == (2 if edited == "transient" else 1)
    for bundle, found in zip(bundles, answers, strict=True):
        for prompt, row in zip(PROMPTS, found.after.rows(), strict=True):
            assert row == decode(model, [prompt], bundle).after.rows()[0]


def test_always_steering_traces_nothing(model):
    answers = decode(model, PROMPTS, some_bundle(model, when="always"))
    assert answers.before.length.tolist() == [0] * len(PROMPTS)
    assert answers.decoded.tolist() == answers.after.length.tolist()
    traced = trace(model, PROMPTS, DecodingSettings(tokens=14))
    (given,) = sweep(model, PROMPTS, traced, [some_bundle(model, when="always")])
    assert given.after.rows() == answers.after.rows()
    assert given.decoded.tolist() == answers.decoded.tolist()


def test_decisions_are_those_of_the_policy(model):
    bundle = some_bundle(model)
    answers = decode(model, PROMPTS, bundle)
    assert decide(answers.before, bundle.policy).kept.tolist() == answers.decision.kept.tolist()
    anew = answers.after.length - answers.decision.kept
    assert (
        answers.decoded.tolist()
        == np.where(
            answers.decision.fired, answers.decision.fired_at + anew, answers.before.length
        ).tolist()
    )


def test_hooks_leave_the_model_as_it_was(model):
    plain = logits_of(model, PROMPTS[0])
    decode(model, PROMPTS, some_bundle(model, alpha=5.0))
    decode_live(model, PROMPTS, some_bundle(model, alpha=5.0))
    unfinished = stream(model, PROMPTS[0], some_bundle(model, alpha=5.0, when="always"))
    next(unfinished)
    next(unfinished)
    assert torch.equal(logits_of(model, PROMPTS[0]), plain)
    for module in model.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


# Bundles


def test_check_accepts_a_bundle_of_this_model(model):
    check(model, some_bundle(model))
    check(model, Bundle(Policy(when="never")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracker": None}, "when 'token' reads p, but there is no tracker; fit one"),
        ({"edit": None}, "when 'token' may steer, but there is no edit; fit one"),
    ],
)
def test_incomplete_bundles_are_refused(model, changes, message):
    bundle = replace(some_bundle(model), **changes)
    for function in (
        check,
        lambda m, b: decode(m, PROMPTS, b),
        lambda m, b: decode_live(m, PROMPTS, b),
    ):
        with pytest.raises(BundleError, match=message):
            function(model, bundle)


def test_an_edit_without_effect_is_refused(model):
    bundle = some_bundle(model)
    (change,) = bundle.edit.changes
    nothing = replace(bundle, edit=Edit.add(change.at, torch.zeros_like(change.operation.vector)))
    with pytest.raises(BundleError, match="strength 10 changes no logit; its vectors are zero"):
        check(model, nothing)


def test_a_sibling_is_accepted_only_when_asked(model):
    bundle = replace(some_bundle(model), fingerprint=replace(model.fingerprint, weights="other"))
    with pytest.raises(BundleError, match="or allow siblings"):
        check(model, bundle)
    check(model, bundle, siblings=True)
