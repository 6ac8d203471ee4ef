"""Reading and editing heads: exactly where asked, nowhere else, and gone afterwards."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import CONFIGS, TEXTS, randomised, tiny_model, tiny_tokenizer
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from fasb.errors import FasbError, ModelError
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import editing, recording
from fasb.model.load import wrap
from fasb.steering.edit import Change, Edit
from fasb.steering.operations import Add, Scale

HEADS = torch.tensor([[2, 1], [0, 3], [2, 0], [1, 2]])


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def prompts(model):
    return model.encode(TEXTS[:2])


def an_edit(layout, heads=HEADS, seed=1):
    vector = torch.randn(
        len(heads),
        layout.head_dim,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return Edit.add(heads, vector)


def logits(model, prompts, edit=None, strength=None):
    batch = batch_of(model, prompts)
    with editing(model.layout, edit) as dial:
        dial.strength = (
            None if strength is None else torch.full(batch.ids.shape, strength, dtype=torch.float64)
        )
        return forward(model, batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_zero_strength_leaves_every_logit_unchanged_and_another_changes_all(name):
    model = tiny_model(name)
    prompts, edit = model.encode(TEXTS[:1]), an_edit(model.layout)
    plain = logits(model, prompts)
    assert torch.equal(logits(model, prompts, edit, 0.0), plain)
    assert torch.equal(logits(model, prompts, edit, None), plain)
    assert ((logits(model, prompts, edit, 0.5) - plain).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_edit_adds_the_projected_vector_to_the_projections_output(name):
    model = tiny_model(name)
    tokens, edit, layout = model.encode(TEXTS[:1]), an_edit(model.layout), model.layout

    def adding(layer):
        row = torch.zeros(layout.n_heads, layout.head_dim, dtype=torch.float64)
        row = row.to(model.device)
        for (at, head), vector in zip(HEADS.tolist(), edit.changes[0].operation.vector):
            row[head] += vector.to(row) * (at == layer)

        def add(module, _inputs, out):
            zero = row.new_zeros(1, 1, row.numel())
            return out + 0.7 * (module.forward(zero + row.flatten()) - module.forward(zero))

        return add

    hooks = [
        layout.projections[layer].register_forward_hook(adding(layer))
        for layer in range(layout.n_layers)
    ]
    expected = forward(model, batch_of(model, tokens))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(logits(model, tokens, edit, 0.7), expected, rtol=0, atol=1e-9)


def test_chosen_heads_come_in_the_order_asked_for(model, prompts):
    batch = batch_of(model, prompts)
    with (
        recording(model.layout, "head") as every,
        recording(model.layout, "head", HEADS) as chosen,
    ):
        forward(model, batch)
        all_heads, heads = every.pop(), chosen.pop()
    assert all_heads.shape == (2, batch.width, 3, 4, 8)
    for i, (layer, head) in enumerate(HEADS.tolist()):
        assert torch.equal(heads[:, :, i], all_heads[:, :, layer, head])


@pytest.mark.parametrize(
    "positions", [torch.tensor([7, 20]), torch.tensor([[7, 3], [20, 7]])], ids=["one", "several"]
)
@pytest.mark.parametrize("heads", [None, HEADS], ids=["all heads", "chosen heads"])
def test_only_the_asked_positions_are_kept(model, prompts, positions, heads):
    with recording(model.layout, "head", heads) as recorder:
        forward(model, batch_of(model, prompts))
        everything = recorder.pop()
        recorder.positions = positions
        forward(model, batch_of(model, prompts))
        kept = recorder.pop()
    assert torch.equal(kept, torch.stack([row[at] for row, at in zip(everything, positions)]))


@pytest.mark.parametrize("recording_first", [True, False])
def test_a_head_is_read_before_its_own_edit_and_after_those_below(model, prompts, recording_first):
    edit = an_edit(model.layout, torch.tensor([[1, 2]]))
    blocks = [lambda: recording(model.layout, "head"), lambda: editing(model.layout, edit)]
    order = (0, 1) if recording_first else (1, 0)
    batch = batch_of(model, prompts)
    with blocks[order[0]]() as first, blocks[order[1]]() as second:
        recorder, dial = (first, second) if recording_first else (second, first)
        forward(model, batch)
        plain = recorder.pop()
        dial.strength = torch.ones(batch.ids.shape, dtype=torch.float64)
        forward(model, batch_of(model, prompts))
        edited = recorder.pop()
    assert torch.equal(edited[:, :, :2], plain[:, :, :2])
    assert not torch.equal(edited[:, :, 2], plain[:, :, 2])


def test_strength_reaches_only_its_row_and_the_tokens_behind_it(model, prompts):
    batch, edit = batch_of(model, prompts), an_edit(model.layout)
    strength = torch.zeros(batch.ids.shape, dtype=torch.float64)
    strength[1, 15] = 2.0
    with editing(model.layout, edit) as dial:
        plain = forward(model, batch)
        dial.strength = strength
        edited = forward(model, batch_of(model, prompts))
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1, :15], plain[1, :15])
    assert ((edited[1, 15:] - plain[1, 15:]).abs().amax(-1) > 0).all()


def test_steering_twice_by_half_equals_once(model, prompts):
    edit = an_edit(model.layout)
    batch = batch_of(model, prompts)
    with editing(model.layout, edit) as first, editing(model.layout, edit) as second:
        first.strength = second.strength = torch.full(batch.ids.shape, 0.25, dtype=torch.float64)
        twice = forward(model, batch)
    torch.testing.assert_close(twice, logits(model, prompts, edit, 0.5), rtol=0, atol=1e-12)


def test_changes_of_one_edit_act_together_in_their_order(model, prompts):
    """Two changes of the same head: the second sees what the first has made of it."""
    at = torch.tensor([[0, 3]])
    doubled = Change("head", at, Scale(torch.ones(1, 8)))
    added = Change("head", at, an_edit(model.layout, at).changes[0].operation)
    found = []
    for changes in ((added, doubled), (doubled, added)):
        with (
            editing(model.layout, Edit(changes)) as dial,
            recording(model.layout, "attention") as after,
        ):
            batch = batch_of(model, prompts[:1])
            dial.strength = torch.ones(batch.ids.shape, dtype=torch.float64)
            forward(model, batch)
            found.append(after.pop()[0, :, 0, 0])
    with recording(model.layout, "head") as plain:
        forward(model, batch_of(model, prompts[:1]))
        heads = plain.pop()[0, :, 0]
    vector = added.operation.vector[0].to(model.device)
    for output, new in zip(found, (2 * (heads[:, 3] + vector), 2 * heads[:, 3] + vector)):
        changed = heads.clone()
        changed[:, 3] = new
        expected = model.layout.projections[0](changed.flatten(1))
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)


def test_without_an_edit_or_a_strength_nothing_is_touched(model, prompts):
    plain = logits(model, prompts)
    assert torch.equal(logits(model, prompts, None, 3.0), plain)
    assert torch.equal(logits(model, prompts, an_edit(model.layout), None), plain)


def test_hooks_leave_with_the_block_even_after_an_error(model, prompts):
    def leave(error):
        with recording(model.layout, "head"), editing(model.layout, an_edit(model.layout)) as dial:
            dial.strength = torch.ones(1, 1, dtype=torch.float64)
            if error:
                raise RuntimeError("in the block")

    plain = logits(model, prompts)
    leave(error=False)
    with pytest.raises(RuntimeError, match="in the block"):
        leave(error=True)
    for module in model.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    assert torch.equal(logits(model, prompts), plain)


@pytest.mark.parametrize("head", [(3, 0), (0, 4), (-1, 0)])
def test_heads_the_model_lacks_are_refused(model, head):
    with (
        pytest.raises(
            ModelError, match="this model has 3 layers of 4 units .*; use what was chosen"
        ),
        recording(model.layout, "head", torch.tensor([head])),
    ):
        pass
    with (
        pytest.raises(FasbError, match="this model has 3|holds layer or unit -1"),
        editing(model.layout, Edit.add(torch.tensor([head]), torch.ones(1, 8))),
    ):
        pass


def test_vectors_of_another_width_are_refused(model):
    edit = Edit.add(torch.tensor([[0, 0]]), torch.ones(1, 16))
    with (
        pytest.raises(ModelError, match="16 values.*have 8; use an edit"),
        editing(model.layout, edit),
    ):
        pass


def test_edits_survive_a_cache(model, prompts):
    """Persistent: an edited token's keys and values stay edited for the tokens behind it."""
    edit, tokens = an_edit(model.layout), prompts[0]
    for first, second in pairwise((3, 9, len(tokens))):
        whole = batch_of(model, [tokens[:second]])
        with editing(model.layout, edit) as dial:
            dial.strength = torch.zeros(whole.ids.shape, dtype=torch.float64)
            dial.strength[:, 2:] = 0.4
            expected = forward(model, whole)
            batch = batch_of(model, [tokens[:first]])
            dial.strength = torch.zeros(batch.ids.shape, dtype=torch.float64)
            dial.strength[:, 2:] = 0.4
            forward(model, batch)
            rest = replace(
                batch,
                ids=torch.tensor([tokens[first:second]], device=model.device),
                mask=whole.mask,
                slots=whole.slots[first:],
            )
            dial.strength = torch.full(rest.ids.shape, 0.4, dtype=torch.float64)
            torch.testing.assert_close(
                forward(model, rest), expected[:, first:], rtol=0, atol=1e-12
            )


def four_streams():
    """A tiny Gemma 3n, between whose layers four streams run: [stream, row, token, width]."""
    config = Gemma3nTextConfig(
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "vocab_size": 160},
        **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160, "laurel_rank": 8},
        **{"num_kv_shared_layers": 0, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    model = Gemma3nForCausalLM(config).to(torch.float64)
    return wrap(randomised(model), tiny_tokenizer())


def test_streams_are_not_taken_for_rows():
    model = four_streams()
    heads = an_edit(model.layout, HEADS)
    # as many rows as streams
    prompts = [model.encode(TEXTS[:1])[0]] * 4
    assert not torch.equal(logits(model, prompts, heads, 1.0), logits(model, prompts))
    stream = Edit((Change("residual", torch.tensor([[1, 0]]), Add(torch.ones(1, 32))),))
    refused = r"Gemma3nTextDecoderLayer: gives activations of shape \[4, 4, \d+, 32\], where"
    with pytest.raises(ModelError, match=refused):
        logits(model, prompts, stream, 1.0)
    with recording(model.layout, "residual"), pytest.raises(ModelError, match=refused):
        forward(model, batch_of(model, prompts))
    # its hooks are gone
    forward(model, batch_of(model, prompts))
