from dataclasses import replace

import pytest
import torch
from steering import some_bundle
from tiny import tiny_model
from transformers import MaxTimeCriteria, StoppingCriteriaList

from fasb.decoding.decode import answer
from fasb.decoding.hf import steered
from fasb.errors import BundleError, ConfigError
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
    answers = answer(model, model.encode(TEXTS), bundle)
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
    expected = answer(
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
    with pytest.raises(BundleError, match="made for n_heads 5"):
        model.model.generate(
            **inputs, max_new_tokens=3, custom_generate=steered(bundle, model.tokenizer)
        )
