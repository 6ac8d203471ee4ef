"""A model is known by its content: names, folders and ways of loading do not matter."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from fasb.errors import BundleError
from fasb.model.load import load_model, tokenizer_hash, wrap
from fasb.model.weights import weights_hash
from fasb.settings import ModelSettings
from fasb.steering.fingerprint import Fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "one" / "final")


def loaded(folder, **settings):
    return load_model(ModelSettings(path=str(folder), **settings)).fingerprint


def test_a_copy_a_link_and_a_model_in_memory_are_the_same(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "copy")
    memory = wrap(
        AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )
    here = loaded(folder)
    for other in (loaded(tmp_path / "link"), loaded(tmp_path / "copy"), memory.fingerprint):
        here.check(other)
        assert replace(other, model=here.model) == here


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_dtype_that_weights_are_loaded_in_does_not_matter(folder, dtype):
    loaded(folder).check(loaded(folder, dtype=dtype))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_checkpoint_of_16_bits_is_the_same_in_every_dtype(stored):
    model = tiny_model(dtype="float32").model.to(stored)
    found = [
        weights_hash(model.to(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    assert len(set(found)) == 1


def test_another_checkpoint_in_a_folder_of_the_same_name_is_refused(folder, tmp_path):
    other = tiny_checkpoint(tmp_path / "two" / "final", seed=1)
    with pytest.raises(BundleError, match=r"made for 'final' \(weights \w{8}\), but this is 'fi"):
        loaded(folder).check(loaded(other))
    loaded(folder).check(loaded(other), siblings=True)


@pytest.mark.parametrize("change", ["one row", "one bias", "a little everywhere"])
def test_changed_weights_are_other_weights(change):
    model = tiny_model("qwen2", dtype="float32")
    with torch.no_grad():
        if change == "one row":
            model.model.model.embed_tokens.weight[7] = 0
        elif change == "one bias":
            model.model.model.layers[1].self_attn.q_proj.bias[3] += 1
        else:
            for parameter in model.model.parameters():
                parameter *= 1.001
    assert weights_hash(model.model) != model.fingerprint.weights


def test_every_row_of_a_large_embedding_counts():
    large = torch.nn.Embedding(70_000, 3)
    before = weights_hash(large)
    for row in (0, 12_345, 69_999):
        changed = torch.nn.Embedding(70_000, 3)
        changed.load_state_dict(large.state_dict())
        with torch.no_grad():
            changed.weight[row] = 5
        assert weights_hash(changed) != before


def test_a_tokenizer_is_known_by_how_it_splits_text():
    one, other = tiny_tokenizer(), tiny_tokenizer()
    other(["a", "bb"], padding=True, truncation=True, max_length=4)
    assert tokenizer_hash(one) == tokenizer_hash(other)
    spec = json.loads(other._tokenizer.to_str())
    spec["model"]["merges"] = spec["model"]["merges"][:-1]
    fewer = type(other._tokenizer).from_str(json.dumps(spec))
    assert tokenizer_hash(type(one)(tokenizer_object=fewer)) != tokenizer_hash(one)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {},
        {"model": "a"},
        asdict(tiny_model().fingerprint) | {"n_layers": "3"},
        asdict(tiny_model().fingerprint) | {"extra": 1},
        asdict(tiny_model().fingerprint) | {"n_heads": True},
    ],
)
def test_a_damaged_fingerprint_is_one_line(value):
    with pytest.raises(BundleError, match="mine.bundle: not a fingerprint of"):
        Fingerprint.read(value, "mine.bundle")


def test_what_was_written_is_read():
    mine = tiny_model().fingerprint
    assert Fingerprint.read(json.loads(json.dumps(asdict(mine))), "x") == mine
