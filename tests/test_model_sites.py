"""Every site of every architecture: read where it is written, and edited there.

The oracles are the library's own `output_hidden_states`, and sums: what a layer adds to the
residual stream is what its attention and its feed-forward block give.
"""

import pytest
import torch
from tiny import CONFIGS, FURTHER, TEXTS, tiny_model
from torch import nn

from fasb.errors import ModelError
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import editing, recording
from fasb.model.layout import MLPS, NEURONS, layout_of
from fasb.steering.edit import Edit
from fasb.steering.operations import Add, Scale

POST_NORMS = {"gemma2", "gemma3"}
"""Their layers normalise what attention and the feed-forward block give before it is added."""

PARALLEL = {"gpt_neox", "falcon", "falcon-alibi", "phi", "gptj"}
"""Their feed-forward blocks do not see what attention of the same layer gives."""

MIXTURES = {"mixtral", "qwen3_moe", "gpt_oss"}
"""Their experts' activation functions see some tokens only."""


@pytest.fixture(scope="module", params=CONFIGS | FURTHER)
def case(request):
    model = tiny_model(request.param)
    return request.param, model, model.encode(TEXTS[:1])[0][:12]


def everything(model, tokens):
    """Of each site, all activations [layer, token, width] of one pass, and its hidden states."""
    names = ("attention", "mlp", "residual")
    with (
        recording(model.layout, "attention") as attention,
        recording(model.layout, "mlp") as mlp,
        recording(model.layout, "residual") as residual,
        torch.no_grad(),
    ):
        ids = torch.tensor([tokens], device=model.device)
        out = model.model(ids, output_hidden_states=True, use_cache=False)
        found = [one.pop()[0, :, :, 0].transpose(0, 1) for one in (attention, mlp, residual)]
    return dict(zip(names, found, strict=True)), [x[0] for x in out.hidden_states]


def logits(model, tokens, edit=None, first=0):
    with editing(model.layout, edit) as dial, torch.no_grad():
        dial.strength = torch.zeros(1, len(tokens), dtype=torch.float64)
        dial.strength[:, first:] = 1.0
        return forward(model, batch_of(model, [tokens]))[0]


def adding(model, site, layer, vector):
    return Edit.of(site, torch.tensor([[layer, 0]]), Add(vector[None]))


def some_vector(model):
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.layout.hidden, generator=generator, dtype=torch.float64)
    return vector.to(model.device)


def close(x, y, tolerance=1e-9):
    torch.testing.assert_close(x, y, rtol=0, atol=tolerance * float(y.abs().max()))


def test_the_residual_stream_is_what_the_library_calls_hidden_states(case):
    _, model, tokens = case
    found, hidden = everything(model, tokens)
    assert len(hidden) == model.layout.n_layers + 1
    for layer in range(model.layout.n_layers - 1):
        close(found["residual"][layer], hidden[layer + 1])
    # the last are behind the final norm; the layers are in order
    assert model.layout.site("residual").modules == model.layout.layers


def test_a_layer_adds_what_attention_and_mlp_give(case):
    """Which tells each of them from every other module of its width."""
    name, model, tokens = case
    found, hidden = everything(model, tokens)
    for i, layer in enumerate(model.layout.layers):
        attention, mlp = found["attention"][i], found["mlp"][i]
        if name in POST_NORMS:
            with torch.no_grad():
                attention = layer.post_attention_layernorm(attention)
                mlp = layer.post_feedforward_layernorm(mlp)
        close(hidden[i] + attention + mlp, found["residual"][i])
        assert min(x.abs().max() for x in (attention, mlp)) > 1e-3
        # another layer's would be noticed
        other = found["mlp"][i - 1]
        assert (other - found["mlp"][i]).abs().max() > 1e-3


def test_attention_is_the_projection_of_the_heads(case):
    _, model, tokens = case
    with (
        recording(model.layout, "head") as heads,
        recording(model.layout, "attention") as after,
        torch.no_grad(),
    ):
        forward(model, batch_of(model, [tokens]))
        heads, after = heads.pop(), after.pop()
        for layer, projection in enumerate(model.layout.projections):
            close(projection(heads[:, :, layer].flatten(-2)), after[:, :, layer, 0])


def test_an_edit_of_the_mlp_is_one_of_the_residual_stream_behind_it(case):
    name, model, tokens = case
    plain, vector = logits(model, tokens), some_vector(model)
    for layer in range(model.layout.n_layers):
        found = {
            site: logits(model, tokens, adding(model, site, layer, vector), first=4)
            for site in ("attention", "mlp", "residual")
        }
        for edited in found.values():
            assert torch.equal(edited[:4], plain[:4])
            assert ((edited[4:] - plain[4:]).abs().amax(-1) > 1e-6).all()
        same = (found["mlp"] - found["residual"]).abs().max() < 1e-6 * plain.abs().max()
        assert same == (name not in POST_NORMS)
        same = (found["attention"] - found["residual"]).abs().max() < 1e-6 * plain.abs().max()
        assert same == (name in PARALLEL)


def test_neurons_are_what_the_activation_function_gives_on_its_way_to_the_block_output(case):
    """Editing them by as much as the library's own function gives leaves none of the block."""
    name, model, tokens = case
    if name in MIXTURES:
        with pytest.raises(ModelError, match="no activation function found; .* NEURONS in fasb"):
            model.layout.site("neuron")
        return
    neurons = model.layout.site("neuron")
    edit = Edit.of("neuron", torch.tensor([[1, 0]]), Scale(-torch.ones(1, neurons.width).double()))
    with recording(model.layout, "mlp") as block, recording(model.layout, "neuron") as inside:
        logits(model, tokens, edit, first=4)
        given, seen = block.pop()[0, :, 1, 0], inside.pop()[0, :, 1, 0]
    bias = given[4:]
    # nothing of it is left but the last projection's bias
    close(bias, bias[:1].expand_as(bias))
    assert (given[:4] - bias[0]).abs().max() > 1e-3
    assert seen.shape == (len(tokens), neurons.width)
    assert seen.abs().amax(-1).min() > 1e-3


def test_every_known_path_of_an_activation_function_is_tested():
    seen = set()
    for name in (CONFIGS | FURTHER).keys() - MIXTURES:
        layout = tiny_model(name).layout
        layer, function = layout.layers[0], layout.site("neuron").modules[0]
        seen |= {path for path, module in layer.named_modules() if module is function}
        assert len(set(map(id, layout.site("neuron").modules))) == layout.n_layers
    assert seen == set(NEURONS)


def test_an_edit_of_attention_is_one_of_the_heads_projected(case):
    _, model, tokens = case
    layout, layer = model.layout, 1
    heads = torch.tensor([[layer, head] for head in range(layout.n_heads)])
    generator = torch.Generator().manual_seed(0)
    size = (layout.n_heads, layout.head_dim)
    vectors = torch.randn(size, generator=generator, dtype=torch.float64).to(model.device)
    projection, zero = layout.projections[layer], vectors.new_zeros(1, 1, vectors.numel())
    with torch.no_grad():
        projected = projection(zero + vectors.flatten()) - projection(zero)
    mine = logits(model, tokens, adding(model, "attention", layer, projected[0, 0]))
    close(mine, logits(model, tokens, Edit.add(heads, vectors)), 1e-6)


def test_an_edit_of_the_stream_moves_the_next_layers_input_by_as_much(case):
    _, model, tokens = case
    vector, seen = some_vector(model), []

    def see(_module, inputs, named):
        seen.append((inputs[0] if inputs else named["hidden_states"])[0])

    handle = model.layout.layers[1].register_forward_pre_hook(see, with_kwargs=True)
    try:
        logits(model, tokens)
        logits(model, tokens, adding(model, "residual", 0, vector), first=4)
    finally:
        handle.remove()
    plain, edited = seen
    assert torch.equal(edited[:4], plain[:4])
    close(edited[4:], plain[4:] + vector)


@pytest.mark.parametrize("site", ["attention", "mlp", "residual"])
def test_strength_0_is_the_plain_model_to_the_bit(case, site):
    _, model, tokens = case
    edit = adding(model, site, 1, some_vector(model))
    assert torch.equal(logits(model, tokens, edit, first=len(tokens)), logits(model, tokens))


def test_every_known_path_of_a_feed_forward_block_is_tested():
    seen = set()
    for name in CONFIGS | FURTHER:
        layout = tiny_model(name).layout
        layer, block = layout.layers[0], layout.site("mlp").modules[0]
        seen |= {path for path, module in layer.named_modules() if module is block}
    # mixtures of experts have been called `mlp` since version 5 of the library
    assert seen | {"block_sparse_moe"} == set(MLPS)


def test_a_layer_without_a_feed_forward_block_says_where_to_add_it():
    model = tiny_model()
    for layer in model.model.model.layers:
        layer.other = layer._modules.pop("mlp")
    with pytest.raises(ModelError, match=r"LlamaDecoderLayer: no feed-forward block.*MLPS in fasb"):
        model.layout.site("mlp")


def test_a_batch_of_ragged_rows_is_read_and_edited_row_by_row(case):
    """Also where a module takes the tokens of all rows in one series."""
    _, model, tokens = case
    prompts = [tokens, tokens[:5], tokens[3:]]
    strength = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    tolerance = 1e-9 if model.model.config._attn_implementation == "sdpa" else 1e-4
    for site in ("attention", "mlp", "residual"):
        edit = adding(model, site, 1, some_vector(model))
        batch = batch_of(model, prompts)
        with (
            editing(model.layout, edit) as dial,
            recording(model.layout, site) as recorder,
            torch.no_grad(),
        ):
            dial.strength = strength[:, None].expand(batch.ids.shape)
            together, seen = forward(model, batch)[:, -1], recorder.pop()[:, -1]
            for row, prompt in enumerate(prompts):
                dial.strength = strength[row].expand(1, len(prompt))
                alone = forward(model, batch_of(model, [prompt]))[0, -1]
                close(together[row], alone, tolerance)
                close(seen[row], recorder.pop()[0, -1], tolerance)


def test_a_list_of_layers_without_projections_is_passed_over():
    """As a vision model's encoder before the decoder would be."""
    model = tiny_model().model
    decoder = model.model.layers
    del model.model.layers
    model.model.encoder = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
    model.model.layers = decoder
    assert layout_of(model).layers == tuple(decoder)
