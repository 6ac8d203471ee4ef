"""Heads are found on every architecture, and what is read is what attention says it is.

The oracle is the library's own attention weights times the values of its cache: it knows no
projection and no name.
"""

import pytest
import torch
from tiny import CONFIGS, FURTHER, TEXTS, tiny_model
from torch import nn
from transformers import DynamicCache

from fasb.errors import ModelError
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import recording
from fasb.model.layout import PROJECTIONS, layout_of

WITHOUT_SDPA = {"gemma2", "bloom"}  # the library offers eager attention only
FREE_WIDTH = set(CONFIGS) - {
    "gpt2",
    "gpt_neox",
    "opt",
    "falcon",
    "bloom",
}  # heads * head_dim may differ from hidden


def each_for_its_group(values, shared):
    return values.repeat_interleave(shared, 0)


def all_in_turn(values, shared):
    return values.repeat(shared, 1, 1)


def attended(model, tokens, repeat=each_for_its_group):
    """Attention weights times values: [layer, token, head, head_dim] of one row."""
    out = model.model(
        torch.tensor([tokens]), past_key_values=DynamicCache(), output_attentions=True
    )
    heads = []
    for weights, cached in zip(out.attentions, out.past_key_values.layers):
        values = cached.values[0]
        shared = weights.shape[1] // len(values)
        values = repeat(values, shared)
        heads.append((weights[0] @ values).transpose(0, 1))
    return torch.stack(heads)


def read(model, tokens):
    with recording(model.layout, "head") as recorder:
        forward(model, batch_of(model, [tokens]))
        return recorder.pop()[0].transpose(0, 1)


@pytest.fixture(scope="module", params=CONFIGS)
def eager(request):
    model = tiny_model(request.param, attention="eager")
    return model, model.encode(TEXTS[:1])[0][:12]


def test_what_is_read_is_attention_times_values(eager):
    model, tokens = eager
    torch.testing.assert_close(read(model, tokens), attended(model, tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FURTHER)
def test_further_architectures_read_attention_times_values(name):
    model = tiny_model(name, attention="eager")
    tokens = model.encode(TEXTS[:1])[0][:12]
    torch.testing.assert_close(read(model, tokens), attended(model, tokens), rtol=0, atol=1e-10)


def test_every_known_path_is_tested():
    seen = set()
    for name in CONFIGS | FURTHER:
        model = tiny_model(name)
        modules = dict(model.model.named_modules())
        first = next(
            path for path, module in modules.items() if module is model.layout.projections[0]
        )
        seen.add(first.partition(".0.")[2])
    assert seen == set(PROJECTIONS)


def test_heads_in_another_order_would_be_noticed(eager):
    model, tokens = eager
    expected = attended(model, tokens)
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3]):
        assert (read(model, tokens)[:, :, order] - expected).abs().amax((1, 2, 3)).min() > 1e-3


def test_groups_repeated_the_wrong_way_would_be_noticed(eager):
    model, tokens = eager
    wrong = attended(model, tokens, repeat=all_in_turn)
    batch = batch_of(model, [tokens])
    forward(model, batch)
    if batch.cache.layers[0].values.shape[1] < model.layout.n_heads:
        assert (read(model, tokens) - wrong).abs().amax((1, 2, 3)).min() > 1e-3
    else:  # no shared keys, or Falcon, whose cache holds them repeated
        assert model.settings.path.removeprefix("tiny-") in (
            "gpt2",
            "gpt_neox",
            "opt",
            "bloom",
            "falcon",
        )


def test_reading_after_the_projection_would_be_noticed(eager):
    model, tokens = eager
    after = []
    hooks = [
        p.register_forward_hook(lambda _m, _i, out: after.append(out[0]))
        for p in model.layout.projections
    ]
    before = read(model, tokens).flatten(-2)
    for hook in hooks:
        hook.remove()
    after = torch.stack(after)
    if after.shape == before.shape:
        assert (after - before).abs().amax((1, 2)).min() > 1e-3
    else:
        assert after.shape[-1] == model.model.config.hidden_size != before.shape[-1]


@pytest.mark.parametrize("name", sorted(FREE_WIDTH))
def test_head_dim_comes_from_the_projection_not_from_hidden(name):
    model = tiny_model(name)
    layout, hidden = model.layout, model.model.config.hidden_size
    assert (layout.n_layers, layout.n_heads, layout.head_dim) == (3, 4, 8)
    assert layout.n_heads * layout.head_dim != hidden


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - WITHOUT_SDPA))
def test_eager_and_sdpa_attention_read_the_same(name):
    tokens = tiny_model(name).encode(TEXTS[:1])[0][:12]
    eager, sdpa = (read(tiny_model(name, attention=kind), tokens) for kind in ("eager", "sdpa"))
    # eager attention takes its softmax in float32, whatever the model computes in
    torch.testing.assert_close(eager, sdpa, rtol=1e-4, atol=1e-4)


def test_the_projection_of_the_mlp_is_never_taken():
    model = tiny_model("gpt2")
    assert [
        p is block.attn.c_proj
        for p, block in zip(model.layout.projections, model.model.transformer.h)
    ] == [True] * 3


def test_a_split_projection_is_put_together(monkeypatch):
    model = tiny_model("bloom")
    parts = [model.model.config, *(block.self_attention for block in model.model.transformer.h)]
    for part in parts:
        part.pretraining_tp = 2
    layout_of(model.model)
    assert [part.pretraining_tp for part in parts] == [1] * 4


def test_an_unknown_architecture_says_where_to_add_it():
    model = tiny_model().model
    for layer in model.model.layers:
        layer.mixer = layer._modules.pop("self_attn")
    with pytest.raises(
        ModelError,
        match=r"LlamaForCausalLM: .*3 layers; add its path.*PROJECTIONS in fasb/model/layout",
    ):
        layout_of(model)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_layers_that_were_taken_out_or_added_are_counted(n):
    model = tiny_model().model
    layers = list(model.model.layers)
    model.model.layers = nn.ModuleList([*layers, *layers][:n])
    with pytest.raises(ModelError, match=f"has {n} layers, but its config says 3; set num_hidd"):
        layout_of(model)


def test_a_layer_without_attention_is_not_skipped():
    model = tiny_model().model
    del model.model.layers[1].self_attn
    with pytest.raises(ModelError, match="no attention output projection"):
        layout_of(model)


def test_layers_with_other_heads_are_refused():
    model = tiny_model().model
    model.model.layers[1].self_attn.o_proj = nn.Linear(64, 24)
    with pytest.raises(ModelError, match=r"take 32, 64 values.*choose another"):
        layout_of(model)
