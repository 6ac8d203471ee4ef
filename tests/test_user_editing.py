"""Always-on steering inside a block: the same as decoding, gone behind it."""

from dataclasses import replace

import pytest
import torch
from steering import some_bundle
from tiny import tiny_model

import fasb
from fasb.decoding.decode import decode
from fasb.decoding.observe import logits_of
from fasb.errors import BundleError, ConfigError, ModelError

TEXTS = ["Q: Who lives there?", "Why?", "Q: What is the colour of the sky? A: no"]
N = 9


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def written(model, **how):
    """The tokens that `generate` writes behind each text."""
    inputs = model.tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.model.generate(**inputs, max_new_tokens=N, **{"do_sample": False, **how})
    return output[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("positions", ["from_answer", "all", "prompt_end"])
def test_generate_writes_what_always_on_decoding_writes(model, positions):
    bundle = some_bundle(model, tokens=N, when="always", alpha=3.0)
    bundle = replace(bundle, edit=replace(bundle.edit, positions=positions))
    expected = decode(model, model.encode(TEXTS), bundle).after.rows()
    with fasb.editing(model.model, bundle) as inside:
        assert inside is model.model
        found = written(model)
    assert not torch.equal(found, written(model))
    for row, tokens in zip(found.tolist(), expected, strict=True):
        assert row == tokens + [model.pad] * (len(row) - len(tokens))


def test_an_edit_takes_a_strength_and_a_bundle_may(model):
    bundle = some_bundle(model, tokens=N, when="always", alpha=3.0)
    with fasb.editing(model, bundle.edit, 3):
        by_edit = written(model)
    with fasb.editing(model, replace(bundle, policy=replace(bundle.policy, alpha=1.0)), 3.0):
        by_bundle = written(model)
    assert torch.equal(by_edit, by_bundle)
    with fasb.editing(model, bundle, 0.0):
        assert torch.equal(written(model), written(model))
    for strength in (None, float("nan"), float("inf")):
        wrong = pytest.raises(ConfigError, match=r"strength: .*; give a number")
        with wrong, fasb.editing(model, bundle.edit, strength):
            pass


def test_beams_and_samples_are_edited_too(model):
    edit = some_bundle(model).edit
    for how in ({"num_beams": 3}, {"do_sample": True}):
        torch.manual_seed(0)
        plain = written(model, **how)
        torch.manual_seed(0)
        with fasb.editing(model, edit, 8.0):
            assert not torch.equal(written(model, **how), plain)


def test_a_second_turn_behind_a_cache_edits_its_prompts_last_token_alone(model):
    """As the same conversation without a cache."""
    edit = some_bundle(model).edit
    first, second = (torch.tensor(model.encode([text])) for text in TEXTS[:2])
    network = model.model
    cache = network(first, use_cache=True).past_key_values
    with fasb.editing(model, edit, 8.0):
        behind = network(second, past_key_values=cache, use_cache=True).logits[0, -1]
    conversation = torch.cat([first, second], 1)
    with fasb.editing(model, edit, 8.0):
        whole = network(conversation, use_cache=True).logits[0, -1]
    torch.testing.assert_close(behind, whole, rtol=0, atol=1e-9)
    assert (whole - network(conversation).logits[0, -1]).abs().max() > 1e-3


def test_a_compiled_model_is_refused(model):
    """Hooks that are set after it has run never fire, and nothing would be steered."""
    compiled = torch.compile(model.model, backend="eager")
    edit = some_bundle(model).edit
    for around in (compiled, torch.nn.DataParallel(compiled)):
        refused = pytest.raises(ModelError, match=r"editing: a model compiled .*_orig_mod")
        with refused, fasb.editing(around, edit, 8.0):
            pass


def test_nothing_stays_behind_the_block_also_after_an_error(model):
    edit = some_bundle(model).edit
    text = model.encode(TEXTS[:1])[0]
    plain = logits_of(model, text)
    n_hooks = sum(len(part._forward_pre_hooks) for part in model.model.modules())
    with pytest.raises(KeyError), fasb.editing(model, edit, 8.0):
        raise KeyError
    assert torch.equal(logits_of(model, text), plain)
    assert sum(len(part._forward_pre_hooks) for part in model.model.modules()) == n_hooks


def test_a_bundle_of_another_model_is_refused(model):
    other = tiny_model(seed=1)
    with (
        pytest.raises(BundleError, match="siblings"),
        fasb.editing(other.model, some_bundle(model)),
    ):
        pass
    with fasb.editing(other.model, some_bundle(model), siblings=True):
        pass


def test_a_bundle_that_was_switched_off_is_refused_unless_a_strength_is_given(model):
    off = some_bundle(model).with_policy(when="never")
    with pytest.raises(BundleError, match="switched off"), fasb.editing(model, off):
        pass
    with fasb.editing(model, off, strength=3):
        pass


def test_a_bundle_without_an_edit_is_refused(model):
    nothing = fasb.Bundle(fasb.Policy(when="never"))
    with pytest.raises(BundleError, match="it has no edit"), fasb.editing(model, nothing):
        pass
