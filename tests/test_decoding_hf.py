from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from steering import some_bundle
from tiny import tiny_model
from transformers import MaxTimeCriteria, StoppingCriteriaList

from fasb.decoding.decode import decode
from fasb.decoding.hf import steered
from fasb.errors import BundleError, ConfigError, ModelError
from fasb.settings import DecodingSettings

TEXTS = ["Q: Who lives there?", "Why?", "Q: What is the colour of the sky? A: no"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def inputs(model):
    rows = model.tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    return rows.to(model.device)


def test_generate_gives_the_steered_answers(model, inputs):
    bundle = some_bundle(model, tokens=12)
    output = model.model.generate(
        **inputs, max_new_tokens=12, custom_generate=steered(bundle, model.tokenizer)
    )
    answers = decode(model, model.encode(TEXTS), bundle)
    assert answers.decision.fired.any()
    assert torch.equal(output[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    new = output[:, inputs["input_ids"].shape[1] :]
    for row, tokens in zip(new.tolist(), answers.after.rows(), strict=True):
        assert row == tokens + [model.pad] * (len(row) - len(tokens))


def test_strength_0_is_plain_generate(model, inputs):
    bundle = some_bundle(model, alpha=0.0)
    with_bundle = model.model.generate(
        **inputs, max_new_tokens=12, custom_generate=steered(bundle, model.tokenizer)
    )
    assert torch.equal(
        with_bundle, model.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    )


def test_a_single_unpadded_row_needs_no_mask(model):
    ids = torch.tensor(model.encode(TEXTS[:1]), device=model.device)
    bundle = some_bundle(model)
    output = model.model.generate(
        ids, max_new_tokens=7, custom_generate=steered(bundle, model.tokenizer)
    )
    expected = decode(
        model, model.encode(TEXTS[:1]), replace(bundle, decoding=DecodingSettings(tokens=7))
    )
    assert output[0, ids.shape[1] :].tolist() == expected.after.rows()[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"do_sample": True}, r"generate\.do_sample: True.*set it to False"),
        ({"num_beams": 2}, r"generate\.num_beams: 2.*set it to 1"),
        ({"repetition_penalty": 1.5}, r"generate\.logits_processor: Repetition.*leave them out"),
        ({"return_dict_in_generate": True}, r"generate\.return_dict_in_generate: True.*to False"),
        ({"max_time": 1.0}, r"generate\.stopping_criteria: MaxTimeCriteria would not be asked"),
        (
            {"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(1.0)])},
            r"generate\.stopping_criteria: MaxTimeCriteria would not be asked; leave out",
        ),
    ],
)
def test_what_cannot_be_steered_is_refused(model, inputs, asked, message):
    with pytest.raises(ConfigError, match=message):
        model.model.generate(
            **inputs,
            max_new_tokens=3,
            custom_generate=steered(some_bundle(model), model.tokenizer),
            **asked,
        )


def test_what_generate_hands_on_beside_tokens_is_refused(model):
    """Images and embeddings would be passed over, as would positions of one's own."""
    decode = steered(some_bundle(model), model.tokenizer)
    ids = torch.tensor(model.encode(TEXTS[:1]), device=model.device)
    config = model.model.generation_config
    for key in ("pixel_values", "inputs_embeds", "encoder_outputs"):
        with pytest.raises(ConfigError, match=rf"generate\.{key}: a steered answer follows from"):
            decode(model.model, ids, config, **{key: torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"generate\.input_ids: no token to go on from"):
        decode(model.model, ids[:, :0], config)
    shifted = torch.arange(ids.shape[1])[None] + 3
    with pytest.raises(ConfigError, match=r"generate\.position_ids: .*; leave them out"):
        model.model.generate(ids, position_ids=shifted, max_new_tokens=3, custom_generate=decode)


def test_a_training_step_between_two_calls_makes_another_model(inputs):
    model = tiny_model()
    bundle = replace(some_bundle(model), fingerprint=model.fingerprint)
    writes = steered(bundle, model.tokenizer)
    model.model.generate(**inputs, max_new_tokens=2, custom_generate=writes)
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    for _ in range(2):
        with pytest.raises(BundleError, match="whose weights differ"):
            model.model.generate(**inputs, max_new_tokens=2, custom_generate=writes)


def test_a_model_that_is_being_trained_stays_so(inputs):
    model = tiny_model()
    network, decode = model.model, steered(some_bundle(model), model.tokenizer)
    network.train()
    for i, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(i % 2 == 0)
    before = [parameter.requires_grad for parameter in network.parameters()]
    for _ in range(2):
        network.generate(**inputs, max_new_tokens=3, custom_generate=decode)
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    assert all(module.training for module in network.modules())


def test_an_adapter_that_works_on_the_prompt_is_refused(model, inputs, monkeypatch):
    """Its wrapper calls the base model's `generate`, which knows nothing of the virtual tokens."""

    class Wrapper:
        def __init__(self):
            one = SimpleNamespace(is_prompt_learning=True, peft_type="PROMPT")
            self.peft_config = {"default": one}

        def get_base_model(self):
            return model.model

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **named):
            return {"input_ids": input_ids, **named}

    prepare = Wrapper().prepare_inputs_for_generation
    monkeypatch.setattr(model.model, "prepare_inputs_for_generation", prepare)
    with pytest.raises(ModelError, match="its PROMPT adapter works on the prompt"):
        model.model.generate(
            **inputs, max_new_tokens=3, custom_generate=steered(some_bundle(model), model.tokenizer)
        )


def test_a_bundles_file_will_do(model, inputs, tmp_path):
    bundle = some_bundle(model, tokens=5)
    bundle.save(tmp_path / "my.bundle")
    both = [
        model.model.generate(
            **inputs, max_new_tokens=5, custom_generate=steered(one, model.tokenizer)
        )
        for one in (bundle, tmp_path / "my.bundle")
    ]
    assert torch.equal(*both)


def test_a_bundle_of_another_model_is_refused(model, inputs):
    bundle = replace(some_bundle(model), fingerprint=replace(model.fingerprint, n_heads=5))
    decode = steered(bundle, model.tokenizer)
    # again, as a cell of a notebook is run again
    for _ in range(2):
        with pytest.raises(BundleError, match="made for n_heads 5"):
            model.model.generate(**inputs, max_new_tokens=3, custom_generate=decode)
