"""Recorded steps give what steps give.

Without a GPU, a tape stands for the CUDA graph: it holds the kernels of a call, with the tensors
that they read and write, and replays them alone. What a graph freezes is frozen, and a call in
which the host reads a value is refused.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering import some_edit, some_prompts, some_tracker
from test_equivalence import EASY, bundle_of, model_of, parts_of, policies, stops
from tiny import CONFIGS, FURTHER, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fasb.decoding import slots as room
from fasb.decoding.decode import answer, observe, trace
from fasb.decoding.stream import live
from fasb.errors import ModelError
from fasb.model import recording
from fasb.model.load import wrap
from fasb.settings import DecodingSettings
from fasb.steering.policy import Policy

EXPERTS = "mixtral", "qwen3_moe", "gpt_oss"
"""Their products in float64 ask the host which rows each expert gets."""

FIXED = [
    name for name in CONFIGS | FURTHER if tiny_model(name).fixed_shapes and name not in EXPERTS
]


class Tape(TorchDispatchMode):
    """The kernels of what runs inside, with their tensors; a replay writes all of them anew, where they were."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        if kernel is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host reads a value")
        out = kernel(*args, **(kwargs or {}))
        self.kernels.append((kernel, args, kwargs or {}, out))
        return out

    def replay(self):
        for kernel, args, kwargs, out in self.kernels:
            for old, new in zip(
                tree_leaves(out), tree_leaves(kernel(*args, **kwargs)), strict=True
            ):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # no view
                    old.copy_(new)


@pytest.fixture
def replays(monkeypatch):
    """Recordings on tape; how many replays there were."""
    count = []

    def record(call):
        with Tape() as tape:
            found = call()
        return lambda: count.append(1) or tape.replay() or found

    monkeypatch.setattr(recording, "check_recordable", lambda model: None)
    monkeypatch.setattr(recording, "record", record)
    # transformers reads no values while a stream is captured; that it is, it would ask of CUDA
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)
    return count


def assert_equal(one, other):
    assert one.after.rows() == other.after.rows()
    assert one.after.ended.tolist() == other.after.ended.tolist()
    assert one.decision.kept.tolist() == other.decision.kept.tolist()
    np.testing.assert_allclose(
        one.decision.strength, other.decision.strength, rtol=1e-6
    )  # some take a softmax in float32


def half_firing(model, prompts, parts, decoding):
    """A policy under which half of the rows fire; beta is no state's p."""
    p = observe(model, prompts, trace(model, prompts, decoding), [parts[1]])[0]
    highest = np.sort(np.nan_to_num(p[:, 2:]).max(axis=1))
    return Policy(3.0, float(highest[1:3].mean()), 2)


def plain_and_recorded(bundle):
    """The bundle, and the same with its steps recorded."""
    decoding = bundle.decoding.model_copy(update={"cuda_graphs": True})
    return bundle, type(bundle)(bundle.policy, bundle.edit, bundle.tracker, bundle.prompt, decoding)


@EASY
@given(
    policy=policies,
    decoding=st.builds(
        DecodingSettings,
        tokens=st.integers(2, 14),
        batch=st.integers(1, 7),
        edit=st.sampled_from(["persistent", "transient"]),
        temperature=st.sampled_from([0.0, 0.0, 1.0]),
    ),
    stop=stops,
    seed=st.integers(0, 3),
    slack=st.sampled_from([3, 32]),
)
def test_any_policy_gives_the_same_answers(replays, policy, decoding, stop, seed, slack):
    model, prompts = model_of(0), some_prompts(6, seed=seed, longest=9)
    plain, recorded = plain_and_recorded(
        bundle_of(model, parts_of(seed, False), policy, decoding, stop)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "SLACK", slack)
        assert_equal(live(model, prompts, plain), live(model, prompts, recorded))


@pytest.mark.parametrize("name", FIXED)
def test_every_architecture_that_takes_fixed_shapes_can_be_recorded(name, replays):
    """Live, as rows come, go and step back; and a trace with its suffixes."""
    model, prompts = model_of(0, "float64", name), some_prompts(5, seed=1, longest=7)
    parts, decoding = parts_of(0, False, "float64", name), DecodingSettings(tokens=7, batch=2)
    policy = half_firing(model, prompts, parts, decoding)
    plain, recorded = plain_and_recorded(bundle_of(model, parts, policy, decoding, ()))
    expected = live(model, prompts, plain)
    assert 0 < expected.decision.fired.sum() < len(prompts)
    replays.clear()
    assert_equal(expected, live(model, prompts, recorded))
    assert_equal(expected, answer(model, prompts, recorded))
    assert len(replays) > 20


def test_most_steps_are_replays(replays):
    """All but the first of each kind, in buffers that stay; twice as many where rows are steered and are not."""
    model, prompts = model_of(0), some_prompts(4, seed=0, longest=6)
    decoding = DecodingSettings(tokens=40, batch=4, cuda_graphs=True)
    assert len(trace(model, prompts, decoding).rows()) == 4
    assert len(replays) >= 40 - 1 - 2 * (40 // room.SLACK + 1)


def test_a_recording_freezes_what_the_host_decides(replays):
    at, x = {"place": 0}, torch.zeros(3)
    recordings = recording.Recordings(model_of(0))
    for at["place"] in range(3):
        recordings.run(
            "buffers", "kind", lambda: x.index_fill_(0, torch.tensor([at["place"]]), 1.0)
        )
    assert x.tolist() == [1, 0, 0]
    recordings.run("others", "kind", lambda: x.index_fill_(0, torch.tensor([at["place"]]), 1.0))
    assert x.tolist() == [1, 0, 1]


def test_a_recording_has_no_place_for_a_host_that_waits(replays):
    x = torch.ones(2)
    with pytest.raises(
        ModelError, match=r"can't be recorded \(the host reads a value\); leave decoding"
    ):
        recording.Recordings(model_of(0)).run("buffers", "kind", lambda: x * float(x.sum()))


def test_refused_where_nothing_can_be_recorded():
    with pytest.raises(
        ModelError, match="only a model that is on one GPU can be recorded; leave decoding"
    ):
        trace(model_of(0), some_prompts(2, seed=0), DecodingSettings(cuda_graphs=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("name", FIXED)
def test_on_a_gpu_recorded_steps_give_the_same_answers(name):
    tiny = tiny_model(name)
    model, prompts = (
        wrap(tiny.model.cuda(), tiny.tokenizer, name),
        some_prompts(5, seed=1, longest=7),
    )
    parts, decoding = (
        (some_edit(model, seed=0), some_tracker(model, seed=0)),
        DecodingSettings(tokens=40, batch=2),
    )
    policy = half_firing(model, prompts, parts, decoding)
    plain, recorded = plain_and_recorded(bundle_of(model, parts, policy, decoding, ()))
    assert_equal(live(model, prompts, plain), live(model, prompts, recorded))
    assert_equal(answer(model, prompts, plain), answer(model, prompts, recorded))
