"""What is not finite at a token that counts is one line of error, never an answer or a hang."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import some_bundle, some_prompts
from tiny import tiny_model

from fasb.decoding import decode as engine
from fasb.decoding.decode import decode, decode_live, sweep, trace
from fasb.decoding.deviation import observe
from fasb.decoding.score import Choice, score
from fasb.decoding.side_effects import side_effects
from fasb.decoding.stream import stream
from fasb.errors import FasbError, ModelError
from fasb.steering.tracker import Logistic, Tracker

PROMPTS = some_prompts(5, seed=4)
CHOICES = [Choice((*prompt, 20, 30, 40), len(prompt) - 1, len(prompt)) for prompt in PROMPTS]
LINE = r"^tiny-llama: a (tracked activation|logit) is not finite in torch\.\w+; set the model's dt"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@contextmanager
def broken(model, value, at=-1, module=None, entry=0):
    """The model, but that one entry of one token's output of a module is this value.

    Of the last layer's feed-forward block, where not given: only its own token is broken.
    """
    module = module or model.layout.site("mlp").modules[-1]

    def breaking(_module, _inputs, output):
        whole = output[0] if isinstance(output, tuple) else output
        whole = whole.clone()
        whole[..., at, entry] = value
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    handle = module.register_forward_hook(breaking)
    try:
        yield
    finally:
        handle.remove()


def last_tracker(model):
    """A tracker of what the last layer gives, which a broken last layer breaks."""
    weight = torch.full((1, 24), 0.1, dtype=torch.float64)
    return Tracker("residual", torch.tensor([[2, 0]]), Logistic(weight, torch.zeros(1).double()))


RUNS = {
    "trace": lambda m, b: trace(m, PROMPTS, b.decoding),
    "decode": lambda m, b: decode_live(m, PROMPTS, b),
    "answer": lambda m, b: decode(m, PROMPTS, b),
    "stream": lambda m, b: list(stream(m, PROMPTS[0], b)),
    "score": lambda m, b: score(m, CHOICES, b),
}
AT = dict.fromkeys(RUNS, -1) | {"score": -2}
"""The token that is broken; what a candidate's last token predicts is never scored."""


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("when", ["token", "prompt", "always", "never"])
@pytest.mark.parametrize("run", RUNS)
def test_a_state_that_is_not_finite_is_refused_by_all_that_reads_it(model, run, when, value):
    bundle = some_bundle(model, when=when)
    with broken(model, value, AT[run]), pytest.raises(ModelError, match=LINE) as caught:
        RUNS[run](model, bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("run", ["decode", "stream", "score"])
def test_an_overflow_is_no_certain_p(model, run, value):
    """Of activations alone: what the model makes of them is finite."""
    head = model.model.model.norm
    finite = head.register_forward_pre_hook(lambda _, x: (x[0].nan_to_num(0.0, 0.0, 0.0),))
    bundle = replace(some_bundle(model), tracker=last_tracker(model))
    try:
        with broken(model, value), pytest.raises(ModelError, match="a tracked activation is not"):
            RUNS[run](model, bundle)
        with broken(model, value):
            assert trace(model, PROMPTS, bundle.decoding).length.all()
    finally:
        finite.remove()


def test_observing_and_sweeping_an_answer_refuse_what_overflows(model):
    bundle = replace(some_bundle(model), tracker=last_tracker(model))
    traced = trace(model, PROMPTS, bundle.decoding)
    with broken(model, np.inf), pytest.raises(ModelError, match="a tracked activation is not"):
        observe(model, PROMPTS, traced, [bundle.tracker])
    with broken(model, np.inf), pytest.raises(ModelError, match="a tracked activation is not"):
        sweep(model, PROMPTS, traced, [bundle, bundle.with_policy(alpha=1.0)])
    with broken(model, np.nan), pytest.raises(ModelError, match="a tracked activation is not"):
        side_effects(model, PROMPTS, [bundle])


def test_what_stands_in_the_padding_may_be_anything(model):
    """Masked slots see nothing; what a model makes of them is nobody's business."""
    bundle = replace(some_bundle(model, batch=5), tracker=last_tracker(model))
    traced = trace(model, PROMPTS, bundle.decoding)
    expected = observe(model, PROMPTS, traced, [bundle.tracker], 5)[0]
    never = bundle.with_policy(beta=1.0)
    scores = score(model, CHOICES, never)
    assert len({len(prompt) for prompt in PROMPTS}) > 1
    with broken(model, np.nan, at=0):
        assert np.array_equal(
            observe(model, PROMPTS, traced, [bundle.tracker], 5)[0], expected, equal_nan=True
        )
        assert np.array_equal(score(model, CHOICES, never).logprob, scores.logprob)


def test_sampling_sees_a_logit_that_is_not_finite_whichever_token_is_drawn(model):
    bundle = some_bundle(model, when="never")
    decoding = bundle.decoding.model_copy(update={"temperature": 1.0})
    for value in (np.nan, np.inf):
        with (
            broken(model, value, module=model.model.lm_head, entry=150),
            pytest.raises(ModelError, match="a logit is not finite"),
        ):
            trace(model, PROMPTS, decoding)


def test_a_token_that_a_model_rules_out_is_no_fault(model):
    """Its logit is minus infinity; it is never chosen."""
    plain = trace(model, PROMPTS, some_bundle(model).decoding)
    unused = next(i for i in range(3, 160) if not (plain.tokens == i).any())
    with broken(model, -np.inf, module=model.model.lm_head, entry=unused):
        assert trace(model, PROMPTS, some_bundle(model).decoding).rows() == plain.rows()


@pytest.mark.parametrize("run", RUNS)
def test_float16_that_overflows_is_refused(run):
    model = tiny_model(dtype="float16")
    bundle = some_bundle(model, when="token" if run != "trace" else "never")
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight *= 30000
    with pytest.raises(ModelError, match=r"is not finite in torch\.float16; set the model's dtype"):
        RUNS[run](model, bundle)


@pytest.mark.parametrize("run", ["decode", "answer", "stream", "score"])
def test_a_strength_that_overflows_is_refused(run):
    model = tiny_model(dtype="float16")
    bundle = some_bundle(model, when="always", alpha=1e6)
    with pytest.raises(ModelError, match="or lower the strength"):
        RUNS[run](model, bundle)


@pytest.mark.parametrize("run", ["decode", "answer", "stream", "score"])
def test_a_tracker_that_gives_nan_is_refused(model, run):
    bundle = some_bundle(model)
    nan = replace(bundle.tracker.score, bias=bundle.tracker.score.bias * float("nan"))
    bundle = replace(bundle, tracker=replace(bundle.tracker, score=nan))
    with pytest.raises(ModelError, match="a tracked activation is not finite"):
        RUNS[run](model, bundle)


@pytest.mark.parametrize("run", ["decode", "answer", "stream", "score"])
def test_a_tracker_of_another_width_is_refused(model, run):
    bundle = some_bundle(model)
    heads = Tracker("head", torch.tensor([[0, 0]]), Logistic(torch.ones(1, 16), torch.ones(1)))
    layers = replace(last_tracker(model), site="attention", at=torch.tensor([[3, 0]]))
    for tracker, message in (
        (
            heads,
            "classifiers of 16 values, but this model's head activations have 8; use a tracker",
        ),
        (layers, "this model has 3 layers"),
    ):
        with pytest.raises(FasbError, match=message):
            RUNS[run](model, replace(bundle, tracker=tracker))


def test_the_engine_stays_usable_after_a_refusal(model):
    expected = decode(model, PROMPTS, some_bundle(model)).after.rows()
    with broken(model, np.nan), pytest.raises(ModelError):
        engine.decode(model, PROMPTS, some_bundle(model))
    assert decode(model, PROMPTS, some_bundle(model)).after.rows() == expected
