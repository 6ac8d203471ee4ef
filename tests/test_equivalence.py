"""The engine against the plain loop: same tokens, same decisions, same p and log-probabilities."""

from functools import cache

import numpy as np
import pytest
import reference_beyond
import reference_loop
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from steering import some_edit, some_prompts, some_tracker
from tiny import tiny_model

from fasb.decoding.decode import decode, start_live, sweep, trace
from fasb.decoding.decode import decode_live as live
from fasb.decoding.generate import generate
from fasb.decoding.score import Choice, score, score_sweep
from fasb.model import batch as prefix
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.operations import OPERATIONS
from fasb.steering.policy import Policy
from fasb.steering.trace import EOS, LIMIT, STOP

EASY = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking plain loops takes minutes
)

policies = st.builds(
    Policy,
    alpha=st.sampled_from([-3.0, 0.5, 2.0, 6.0]),
    beta=st.floats(0.2, 0.8),
    s=st.integers(1, 12),
    when=st.sampled_from(["token"] * 5 + ["prompt", "always", "never"]),
    adaptive=st.booleans(),
    backtrack=st.sampled_from([True, True, False]),
    judged=st.sampled_from(["newest", "previous"]),
)
decodings = st.builds(
    DecodingSettings,
    tokens=st.integers(1, 14),
    batch=st.integers(1, 7),
    edit=st.sampled_from(["persistent", "transient"]),
)
stops = st.sampled_from([(), ("e",), ("the", " a"), (" ",)])


@cache
def model_of(seed, dtype="float64", name="llama"):
    return tiny_model(name, seed, dtype)


HEADS = ("head", "add", "from_answer", "head")
places = st.one_of(
    st.just(HEADS),
    st.tuples(
        st.sampled_from(["head", "attention", "neuron", "mlp", "residual"]),
        st.sampled_from(sorted(OPERATIONS)),
        st.sampled_from(["from_answer", "all", "prompt_end", "scheduled"]),
        st.sampled_from(["head", "residual", "mlp"]),
    ),
)
"""Site, operation and positions of an edit, and the site of a tracker."""


@cache
def parts_of(seed, centred, dtype="float64", name="llama", place=HEADS):
    model, (site, kind, positions, tracked) = model_of(0, dtype, name), place
    edit = some_edit(model, seed=seed, site=site, kind=kind, positions=positions)
    return edit, some_tracker(model, seed=seed, centred=centred, site=tracked)


def persistent(decoding, place):
    """The settings, with an edit that stays in the cache where it is active before the answer."""
    if place[2] == "from_answer":
        return decoding
    return decoding.model_copy(update={"edit": "persistent"})


def bundle_of(model, parts, policy, decoding, stop):
    edit, tracker = parts
    return Bundle(policy, edit, tracker, PromptSettings(stop=stop), decoding)


def near_tie(found, policy):
    """Whether a decision hangs on rounding: p within 1e-7 of beta."""
    return policy.when in ("token", "prompt") and any(
        abs(p - policy.beta) < 1e-7 for row in found for p in row.p
    )


def assert_same(answers, found, prompts, tolerance):
    """The engine's answers are those of the loop."""
    decision = answers.decision
    assert answers.after.rows() == [row.tokens for row in found]
    assert decision.fired.tolist() == [row.fired for row in found]
    assert decision.kept.tolist() == [row.kept for row in found]
    assert decision.fired_at.tolist() == [row.fired_at for row in found]
    assert decision.strength == pytest.approx([row.strength for row in found], abs=tolerance)
    for i, row in enumerate(found):
        if row.p:
            assert answers.before.p[i, : len(row.p)] == pytest.approx(row.p, abs=tolerance)


@settings(EASY, max_examples=60)
@given(
    seeds=st.tuples(st.integers(0, 30), st.integers(0, 9)),
    n_prompts=st.integers(1, 7),
    centred=st.booleans(),
    policy=policies,
    decoding=decodings,
    stop=stops,
    place=places,
)
def test_answers_equal_the_plain_loop(seeds, n_prompts, centred, policy, decoding, stop, place):
    model, prompts = model_of(0), some_prompts(n_prompts, seeds[0])
    parts = parts_of(seeds[1], centred, place=place)
    bundle = bundle_of(model, parts, policy, persistent(decoding, place), stop)
    found = [reference_loop.answer(model, prompt, bundle) for prompt in prompts]
    assume(not near_tie(found, policy))
    answers = decode(model, prompts, bundle)
    assert_same(answers, found, prompts, 1e-9)
    at_once = live(model, prompts, bundle)
    assert_same(at_once, found, prompts, 1e-9)
    assert at_once.decoded.tolist() == answers.decoded.tolist()
    assert at_once.after.ended.tolist() == answers.after.ended.tolist()


beyond = st.builds(
    Policy,
    alpha=st.sampled_from([-3.0, 0.5, 2.0, 6.0]),
    beta=st.floats(0.3, 0.7),
    s=st.integers(1, 6),
    when=st.sampled_from(["token"] * 4 + ["prompt", "always"]),
    adaptive=st.booleans(),
    backtrack=st.sampled_from([True, True, False]),
    backtracks=st.integers(1, 4),
    safe=st.sampled_from([None, None, 0.3, 0.2]),
    reestimate=st.booleans(),
    release=st.sampled_from([None, 0.3, 0.45]),
)


def live_with_strengths(model, prompts, bundle):
    """What `live` gives, and of each answer what each of its states was edited with."""
    sequences, batch, controller = start_live(model, prompts, bundle)
    for _ in generate(sequences, batch, controller):
        pass
    edited = []
    for row, n in enumerate(sequences.n):
        strengths = sequences.edited[row, : n + 1].copy()
        if np.isnan(sequences.p[row, n]):  # the last state of many was not run
            strengths[n] = sequences.next_strength(np.array([row]))[0]
        edited.append(strengths)
    return controller.answers(sequences), edited


@settings(EASY, max_examples=60)
@given(
    seeds=st.tuples(st.integers(0, 30), st.integers(0, 9)),
    n_prompts=st.integers(1, 7),
    policy=beyond,
    decoding=decodings,
    stop=stops,
    place=places,
)
def test_what_is_beyond_the_paper_equals_the_plain_loop(
    seeds, n_prompts, policy, decoding, stop, place
):
    model, prompts = model_of(0), some_prompts(n_prompts, seeds[0])
    parts = parts_of(seeds[1], False, place=place)
    bundle = bundle_of(model, parts, policy, persistent(decoding, place), stop)
    found = [reference_beyond.answer_beyond(model, prompt, bundle) for prompt in prompts]
    answers, edited = live_with_strengths(model, prompts, bundle)
    assert answers.after.rows() == [tokens for tokens, _, _ in found]
    assert answers.rounds.tolist() == [rounds for _, rounds, _ in found]
    for row, (_, _, strengths) in zip(edited, found, strict=True):
        assert row == pytest.approx(strengths, abs=1e-9)
    whole = decode(model, prompts, bundle)
    assert whole.after.rows() == answers.after.rows()
    assert whole.decision.kept.tolist() == answers.decision.kept.tolist()


def test_a_paper_policy_is_the_same_with_the_options_beyond_it_at_rest():
    model, prompts = model_of(0), some_prompts(6, 2)
    for policy in (
        Policy(2.0, 0.5, 4),
        Policy(2.0, 0.5, 4, when="prompt"),
        Policy(2.0, when="always"),
    ):
        bundle = bundle_of(model, parts_of(1, False), policy, DecodingSettings(tokens=12), ())
        for prompt in prompts:
            plain = reference_loop.answer(model, prompt, bundle)
            tokens, rounds, _ = reference_beyond.answer_beyond(model, prompt, bundle)
            assert (tokens, rounds) == (plain.tokens, int(plain.fired))


@settings(EASY, max_examples=15)
@given(
    seed=st.integers(0, 30),
    failing=st.sets(st.integers(0, 40), max_size=6),
    policy=st.one_of(policies, beyond),
)
def test_running_out_of_memory_changes_no_answer(seed, failing, policy):
    """Whichever passes of several rows fail, rows go on, half as many at a time."""
    model, prompts = model_of(0), some_prompts(7, seed)
    bundle = bundle_of(
        model, parts_of(seed % 10, False), policy, DecodingSettings(tokens=12, batch=32), ()
    )
    expected, wanted = live_with_strengths(model, prompts, bundle)
    passes = iter(range(10**6))

    def forward(model, batch, keep=0):
        if next(passes) in failing and len(batch.ids) > 1:
            raise torch.OutOfMemoryError("no memory")
        return prefix.forward(model, batch, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fasb.decoding.generate.forward", forward)
        found, edited = live_with_strengths(model, prompts, bundle)
    assert found.after.rows() == expected.after.rows()
    assert found.rounds.tolist() == expected.rounds.tolist()
    for row, strengths in zip(edited, wanted, strict=True):
        assert row == pytest.approx(strengths, abs=1e-9)


def test_scoring_and_observing_halve_their_batches_too(monkeypatch):
    model, prompts = model_of(0), some_prompts(7, 0)
    bundle = bundle_of(
        model, parts_of(0, False), Policy(2.0, 0.5, 2), DecodingSettings(tokens=6), ()
    )
    choices = [Choice((*prompt, 20, 30, 40), len(prompt), len(prompt)) for prompt in prompts]
    expected, answers = score(model, choices, bundle), decode(model, prompts, bundle)

    def forward(model, batch, keep=0):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("no memory")
        return prefix.forward(model, batch, keep)

    monkeypatch.setattr("fasb.decoding.observe.forward", forward)
    monkeypatch.setattr("fasb.decoding.generate.forward", forward)
    assert score(model, choices, bundle).logprob == pytest.approx(expected.logprob, abs=1e-9)
    assert decode(model, prompts, bundle).after.rows() == answers.after.rows()
    monkeypatch.setattr(
        "fasb.decoding.observe.forward",
        lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("none")),
    )
    with pytest.raises(torch.OutOfMemoryError):
        score(model, choices, bundle)


@settings(EASY, max_examples=15)
@given(
    seed=st.integers(0, 30),
    policy=policies,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.4, 0.9, 1.0]),
)
def test_what_is_drawn_depends_on_no_batch(seed, policy, temperature, top_p):
    """Rows together, alone, in another order, live and in study mode.

    And a sweep draws what its parts draw.
    """
    model, prompts = model_of(0), some_prompts(6, seed)
    rows = []
    for batch, order in ((1, 1), (4, 1), (32, -1)):
        decoding = DecodingSettings(
            tokens=8, batch=batch, temperature=temperature, top_p=top_p, seed=seed
        )
        bundle = bundle_of(model, parts_of(seed % 10, False), policy, decoding, ())
        rows += [
            run(model, prompts[::order], bundle).after.rows()[::order] for run in (decode, live)
        ]
    assert all(found == rows[0] for found in rows)
    many = [bundle.with_policy(alpha=alpha) for alpha in (1.0, 1.5, 2.0)]
    swept = sweep(model, prompts, trace(model, prompts, bundle.decoding), many)
    for one, found in zip(many, swept, strict=True):
        assert found.after.rows() == decode(model, prompts, one).after.rows()


@settings(EASY, max_examples=60)
@given(
    seed=st.integers(0, 30),
    n_choices=st.integers(1, 6),
    centred=st.booleans(),
    policy=policies,
    offset=st.integers(-1, 4),
    batch=st.integers(1, 4),
    place=places,
)
def test_scores_equal_the_plain_loop(seed, n_choices, centred, policy, offset, batch, place):
    model, generator = model_of(0), np.random.default_rng(seed)
    parts = parts_of(seed % 10, centred, place=place)
    bundle = bundle_of(model, parts, policy, DecodingSettings(), ())
    choices = []
    for prompt in some_prompts(n_choices, seed):
        tokens = (*prompt, *generator.integers(3, 160, generator.integers(1, 20)).tolist())
        choices.append(Choice(tokens, len(prompt) + offset, len(prompt)))
    scores = score(model, choices, bundle, batch)
    for i, choice in enumerate(choices):
        text = list(choice.tokens)
        found, fired, first = reference_loop.choose(
            model, text, choice.first_state, choice.scored_start, bundle
        )
        assert scores.logprob[i] == pytest.approx(found, abs=1e-9)
        assert scores.fired[i] == fired
        assert not fired or choice.first_state + scores.kept[i] == first


@EASY
@given(
    seed=st.integers(0, 30),
    grid=st.lists(policies, min_size=1, max_size=4),
    decoding=decodings,
    stop=stops,
)
def test_a_sweep_equals_separate_runs(seed, grid, decoding, stop):
    model, prompts = model_of(0), some_prompts(5, seed)
    parts = [parts_of(i % 3, i % 2 == 1) for i in range(len(grid))]
    bundles = [
        bundle_of(model, part, policy, decoding, stop)
        for part, policy in zip(parts, grid, strict=True)
    ]
    unsteered = trace(model, prompts, decoding, stop)
    for bundle, swept in zip(bundles, sweep(model, prompts, unsteered, bundles), strict=True):
        (alone,) = sweep(model, prompts, unsteered, [bundle])
        assert swept.after.rows() == alone.after.rows()
        assert swept.after.ended.tolist() == alone.after.ended.tolist()
        for field in ("fired", "kept", "fired_at"):
            assert (
                getattr(swept.decision, field).tolist() == getattr(alone.decision, field).tolist()
            )


@EASY
@given(seed=st.integers(0, 30), grid=st.lists(policies, min_size=1, max_size=6))
def test_scoring_a_grid_equals_separate_runs(seed, grid):
    model = model_of(0)
    choices = [
        Choice((*prompt, 20, 30, 40, 50, 60), len(prompt), len(prompt))
        for prompt in some_prompts(4, seed)
    ]
    bundles = [
        bundle_of(model, parts_of(i % 3, False), policy, DecodingSettings(), ())
        for i, policy in enumerate(grid)
    ]
    for bundle, swept in zip(bundles, score_sweep(model, choices, bundles), strict=True):
        alone = score(model, choices, bundle)
        assert swept.logprob == pytest.approx(alone.logprob, abs=1e-9)
        assert (swept.fired.tolist(), swept.kept.tolist()) == (
            alone.fired.tolist(),
            alone.kept.tolist(),
        )


@pytest.mark.parametrize("edit", ["persistent", "transient"])
@pytest.mark.parametrize(
    "name",
    [
        "mistral",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "gpt2",
        "gpt_neox",
        "opt",
        "falcon",
        "bloom",
        "mixtral",
    ],
)
def test_every_architecture_equals_the_plain_loop(name, edit):
    model, prompts = model_of(0, name=name), some_prompts(5, 3)
    decoding = DecodingSettings(tokens=10, batch=3, edit=edit)
    bundle = bundle_of(model, parts_of(0, False, name=name), Policy(2.0, 0.5, 4), decoding, ())
    found = [reference_loop.answer(model, prompt, bundle) for prompt in prompts]
    float32_softmax = name in ("gemma2", "bloom")  # these two take it in any dtype
    assert_same(decode(model, prompts, bundle), found, prompts, 1e-6 if float32_softmax else 1e-9)
    assert any(row.fired for row in found)


@pytest.mark.parametrize("edit", ["persistent", "transient"])
@pytest.mark.parametrize("s", [1, 5, 20])
def test_float32_gives_the_same_tokens(s, edit):
    model, prompts = model_of(0, "float32"), some_prompts(12, 5)
    for judged in ("newest", "previous"):
        policy = Policy(2.0, 0.5, s, judged=judged)
        bundle = bundle_of(
            model, parts_of(1, False, "float32"), policy, DecodingSettings(tokens=12, edit=edit), ()
        )
        found = [reference_loop.answer(model, prompt, bundle) for prompt in prompts]
        assert_same(decode(model, prompts, bundle), found, prompts, 1e-5)
        assert_same(live(model, prompts, bundle), found, prompts, 1e-5)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_every_operation_equals_the_plain_loop(kind):
    """At the answer's own tokens and, in the cache, at all."""
    model, prompts = model_of(0), some_prompts(4, 3)
    for positions, edit in (("from_answer", "transient"), ("all", "persistent")):
        parts = parts_of(2, False, place=("residual", kind, positions, "head"))
        decoding = DecodingSettings(tokens=8, batch=3, edit=edit)
        bundle = bundle_of(model, parts, Policy(0.5, 0.45, 3), decoding, ())
        found = [reference_loop.answer(model, prompt, bundle) for prompt in prompts]
        assert any(row.fired for row in found)
        assert_same(decode(model, prompts, bundle), found, prompts, 1e-9)
        assert_same(live(model, prompts, bundle), found, prompts, 1e-9)


def test_persistent_and_transient_edits_differ():
    model, prompts = model_of(0), some_prompts(8, 0)
    rows = []
    for edit in ("persistent", "transient"):
        decoding = DecodingSettings(tokens=12, edit=edit)
        bundle = bundle_of(model, parts_of(0, False), Policy(4.0, when="always"), decoding, ())
        rows.append(decode(model, prompts, bundle).after.rows())
    assert rows[0] != rows[1]
    # the first token knows no earlier edit
    assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]


def test_every_way_to_end_is_told():
    model, prompts = model_of(0), some_prompts(60, 1)
    traced = trace(model, prompts, DecodingSettings(tokens=9, batch=16), ("e",))
    assert set(traced.ended.tolist()) == {LIMIT, EOS, STOP}
    for tokens, ended in zip(traced.rows(), traced.ended, strict=True):
        assert (tokens[-1] in model.eos) == (ended == EOS)
        assert (("e" in model.decode(tokens)) and tokens[-1] not in model.eos) == (ended == STOP)
        assert "e" not in model.decode(tokens[:-1])
        assert ended != LIMIT or len(tokens) == 9
