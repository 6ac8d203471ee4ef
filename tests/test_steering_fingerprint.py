"""A model is known by its content: names, folders and ways of loading do not matter."""

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from llama_cpp_model import write_model
from tiny import CONFIGS, FURTHER, tiny_checkpoint, tiny_model, tiny_tokenizer
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fasb.errors import BundleError
from fasb.model.identity import config_text
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "rope_parameters",
            {"rope_type": "default", "rope_theta": 5e5},
            '{"rope_theta": 500000.0}',
        ),
        (
            "rope_parameters",
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
            '"factor": 2.0',
        ),
        ("hidden_act", "gelu", 'hidden_act "silu", but the model\'s config has "gelu"'),
        ("rms_norm_eps", 1e-5, "rms_norm_eps 1e-06, but the model's config has 1e-05"),
        ("max_position_embeddings", 128, "max_position_embeddings 2048.0, but"),
    ],
)
def test_the_same_weights_under_another_config_are_another_model(
    folder, tmp_path, key, value, message
):
    config = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {key: value}))
    other = loaded(tmp_path / "other")
    assert other.weights == loaded(folder).weights
    with pytest.raises(BundleError, match=re.escape(message)):
        loaded(folder).check(other)
    loaded(folder).check(other, siblings=True)


def test_another_window_is_another_model(tmp_path):
    texts = {config_text(tiny_model("mistral").model.config)}
    for width in (None, 7):
        model = tiny_model("mistral").model
        model.config.sliding_window = width
        texts.add(config_text(model.config))
    assert len(texts) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": False, "initializer_range": 0.5, "attention_dropout": 0.3, "mine": 1},
        {"eos_token_id": 7, "transformers_version": "5.0.0", "dtype": "bfloat16"},
        # as older checkpoints say it, and as GGUF files keep numbers
        {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": None},
        {"rms_norm_eps": 9.999999974752427e-07},
    ],
)
def test_what_decides_no_logit_does_not_matter(folder, tmp_path, change):
    config = json.loads((folder / "config.json").read_text()) | change
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert loaded(tmp_path / "other").config == loaded(folder).config


@pytest.mark.parametrize("name", [*CONFIGS, *FURTHER])
def test_a_model_that_is_saved_again_keeps_its_config(name, tmp_path):
    model = tiny_model(name).model
    model.config.save_pretrained(tmp_path)
    assert config_text(AutoConfig.from_pretrained(tmp_path)) == config_text(model.config)


def test_a_gguf_file_is_the_model_that_it_was_made_of(tmp_path):
    pytest.importorskip("gguf")
    model = tiny_model(dtype="float32")
    write_model(tmp_path / "model.gguf", model)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    model.fingerprint.check(wrap(read, model.tokenizer).fingerprint)


def test_a_key_that_another_version_does_not_know_is_passed_over(folder):
    here = loaded(folder)
    values = json.loads(here.config)
    here.check(replace(here, config=json.dumps(values | {"of_a_newer_version": 1.5})))
    # what is off is known, and no other than what is on
    with pytest.raises(BundleError, match="mlp_bias null, but the model's config has true"):
        here.check(replace(here, config=json.dumps(values | {"mlp_bias": True})))
    for nothing in ("", "{}", "[]", "not JSON"):
        with pytest.raises(BundleError, match='model_type "llama", but'):
            here.check(replace(here, config=nothing))


def test_buffers_that_a_checkpoint_holds_are_weights():
    hashes = set()
    for value, kept in ((1.0, True), (2.0, True), (1.0, False), (2.0, False)):
        layer = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.ones_(layer.weight)
        layer.register_buffer("scales", torch.tensor([value]), persistent=kept)
        hashes.add(weights_hash(layer))
    assert len(hashes) == 3


def test_the_scaling_of_an_adapter_counts():
    hashes = set()
    for scaling, off in ((1.0, False), (2.0, False), (1.0, True)):
        layer = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.ones_(layer.weight)
        # as layers of PEFT have them
        layer.scaling, layer.active_adapters = {"default": scaling}, ["default"]
        layer.disable_adapters, layer.merged_adapters = off, []
        hashes.add(weights_hash(layer))
    assert len(hashes) == 3


class Scaled(torch.nn.Linear):
    """A layer that keeps something beside its weights as bitsandbytes' do: in what it saves."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.scale"] = self.scale
        destination[f"{prefix}weight_format"] = "row"


def test_what_a_layer_saves_beside_its_weights_counts():
    layer, hashes = Scaled(2, 2), set()
    for scale in (1.0, 2.0):
        layer.scale = torch.tensor([scale])
        hashes.add(weights_hash(layer))
    assert len(hashes) == 2


def test_of_a_tensor_that_is_made_of_others_each_counts():
    layer, hashes = torch.nn.Linear(2, 2, bias=False), set()
    for whole, scale in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (1.0, 1.0)):
        both = TwoTensor(torch.full((2, 2), whole), torch.full((2, 2), scale))
        layer.weight = torch.nn.Parameter(both, requires_grad=False)
        hashes.add(weights_hash(layer))
    assert len(hashes) == 3
