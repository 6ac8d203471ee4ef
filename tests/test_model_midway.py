"""Passes that begin behind a layer give what whole passes give, and leave the model as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import placed, some_bundle, some_operation
from tiny import CONFIGS, FURTHER, SHAPE, randomised, tiny_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fasb.decoding.score import Choice, score, score_sweep
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import editing
from fasb.model.load import wrap
from fasb.model.midway import Entrance, entrance, layer_before
from fasb.steering.edit import Edit

TEXT = [0, 10, 11, 12, 13, 14, 15, 16, 17, 18]
CHOICES = [
    Choice((0, 10, 11, 12, 20, 21, 22, 23), 3, 4),
    Choice((0, 10, 11, 12, 30, 31), 3, 4),
    Choice((0, 10, 15, 40, 41, 42, 43, 44, 45), 4, 5),
    Choice((0, 10, 15), 2, 3),  # nothing follows the edit
]


def an_edit(model, site, layers):
    at = torch.tensor([[layer, 0] for layer in layers])
    operation = some_operation("add", len(layers), model.layout.site(site).width)
    return Edit.of(site, at, operation)


def passes_of(module):
    """Count how often a module is run."""
    runs = []
    module.register_forward_hook(lambda *_: runs.append(1))
    return runs


def plain_score(model, choice, bundle):
    """Score one choice in one pass over its whole text, with the edit where it is to be."""
    strengths = torch.from_numpy(choice.strengths(bundle.active, 0, bundle.policy.alpha))
    batch = batch_of(model, [choice.tokens])
    with editing(model.layout, bundle.edit) as dial:
        dial.strength = strengths[None].to(model.device)
        logprob = forward(model, batch)[0, :-1].log_softmax(-1)
    ids = torch.tensor(choice.tokens[1:], device=model.device)
    return float(logprob.gather(-1, ids[:, None])[choice.scored_start - 1 :].sum())


@pytest.mark.parametrize("site", ["head", "residual"])
@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_choices_score_alike_wherever_their_passes_begin(name, site, monkeypatch):
    model = tiny_model(name)
    bundle = replace(
        some_bundle(model, when="always", alpha=3.0), edit=an_edit(model, site, [2, 1])
    )
    runs = passes_of(model.layout.projections[0])
    found = score(model, CHOICES, bundle)
    # what all share and all unsteered; two texts of the trial, or one and all steered
    assert len(runs) == 4
    monkeypatch.setattr("fasb.decoding.score.entrance", lambda *_: None)
    expected = score(model, CHOICES, bundle)
    assert found.fired.tolist() == [True, True, True, True]
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-12)


@pytest.mark.parametrize("positions", ["from_answer", "all", "prompt_end"])
def test_edits_of_one_sweep_begin_where_each_may(positions):
    model = tiny_model()
    bundles = []
    for layers in ([0, 2], [1], [2], [1, 2]):
        edit = an_edit(model, "head", layers)
        edit = replace(edit, active=placed(positions))
        bundles.append(replace(some_bundle(model, when="always", alpha=2.0), edit=edit))
    for bundle, swept in zip(bundles, score_sweep(model, CHOICES, bundles), strict=True):
        alone = score(model, CHOICES, bundle)
        np.testing.assert_allclose(swept.logprob, alone.logprob, atol=1e-12)
        for i, choice in enumerate(CHOICES):
            expected = plain_score(model, choice, bundle)
            assert swept.logprob[i] == pytest.approx(expected, abs=1e-9)


def test_the_last_layer_that_an_edit_leaves_as_it_is():
    model = tiny_model()
    assert layer_before(an_edit(model, "head", [2, 1])) == 0
    assert layer_before(an_edit(model, "mlp", [0])) == -1
    assert layer_before(an_edit(model, "residual", [2])) == 2
    both = [an_edit(model, "residual", [1]).changes[0], an_edit(model, "neuron", [1]).changes[0]]
    assert layer_before(Edit(tuple(both))) == 0


def test_a_layer_that_hands_on_more_than_its_states_is_no_entrance():
    model = tiny_model()
    assert entrance(model, an_edit(model, "head", [0, 2])) is None
    assert entrance(model, an_edit(model, "head", [2])) == Entrance(1, 0)
    model = tiny_model()
    # the last layer reads what the second keeps beside its states
    second, last = model.layout.layers[1:]
    second.mlp.register_forward_hook(lambda _module, _, output: setattr(second, "kept", output))
    last.register_forward_pre_hook(lambda _, inputs: (inputs[0] + second.kept.mean(), *inputs[1:]))
    assert entrance(model, an_edit(model, "head", [1])) == Entrance(0, 0)
    assert entrance(model, an_edit(model, "head", [2])) is None


def test_layers_that_give_something_else_beside_their_states_are_no_entrance():
    for name, expected in (("bloom", None), ("falcon", Entrance(1, 2))):
        model = tiny_model(name)
        assert entrance(model, an_edit(model, "head", [2])) == expected


def test_the_model_is_left_as_it_was_also_after_an_error():
    model = tiny_model()
    layers = model.layout.layers
    own = layers[0].forward

    def placed_by_accelerate(*args, **named):
        return own(*args, **named)

    layers[0].forward = placed_by_accelerate
    before = forward(model, batch_of(model, [TEXT]))
    states = torch.zeros(1, len(TEXT), model.layout.hidden, dtype=torch.float64)
    with pytest.raises(RuntimeError), Entrance(1, 0).entered(model.layout, states):
        changed = forward(model, batch_of(model, [TEXT]))
        raise RuntimeError
    assert not torch.equal(changed, before)
    assert layers[0].forward is placed_by_accelerate
    assert "forward" not in vars(layers[1])
    assert torch.equal(forward(model, batch_of(model, [TEXT])), before)


def test_a_model_of_six_tokens():
    words = {"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, "T": 5}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<s>")), eos_token="</s>"
    )
    sizes = SHAPE | {"vocab_size": len(words), "intermediate_size": 48}
    model = wrap(randomised(LlamaForCausalLM(LlamaConfig(**sizes)).double()), tokenizer, "six")
    bundle = replace(some_bundle(model, when="always", alpha=3.0), edit=an_edit(model, "head", [2]))
    choice = Choice((0, 2, 3, 4, 5, 2), 3, 4)
    assert entrance(model, bundle.edit) is not None
    found = score(model, [choice], bundle).logprob[0]
    assert found == pytest.approx(plain_score(model, choice, bundle), abs=1e-9)
