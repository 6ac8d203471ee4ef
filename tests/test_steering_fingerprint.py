"""A model is known by its content: names, folders and ways of loading do not matter."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer

from fasb.errors import BundleError
from fasb.model.load import load_model, tokenizer_hash, wrap
from fasb.model.weights import NO_FUNCTION, config_of_function, weights_hash
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


def configured(folder, to, **settings):
    """A copy of a checkpoint whose config says something else of the same weights."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | settings))
    return to


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("rope_parameters", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            "rope_parameters",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        ),
        ("hidden_act", {"hidden_act": "gelu"}),
        ("rms_norm_eps", {"rms_norm_eps": 1e-3}),
    ],
)
def test_the_same_weights_under_another_config_are_another_model(folder, tmp_path, key, settings):
    other = loaded(configured(folder, tmp_path / "other", **settings))
    with pytest.raises(BundleError, match=rf"with {key} .*, but this one has .*fit one for it"):
        loaded(folder).check(other)
    loaded(folder).check(other, siblings=True)


def test_what_a_config_says_beside_its_function_makes_no_other_model(folder, tmp_path):
    settings = {"use_cache": False, "attention_dropout": 0.1, "a_key_of_ours": 1}
    loaded(folder).check(loaded(configured(folder, tmp_path / "other", **settings)))


def test_a_model_that_is_saved_again_keeps_its_fingerprint(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert loaded(tmp_path).config == loaded(folder).config


# an assistant's config refuses its own defaults
KINDS = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING if "Assistant" not in kind.__name__]


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda one: one.__name__))
def test_every_config_class_says_what_it_computes(kind):
    config = kind()
    said = json.loads(config_of_function(config))
    assert said["model_type"] == config.get_text_config(decoder=True).model_type
    assert not set(said) & NO_FUNCTION


def test_buffers_that_are_saved_count(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = weights_hash(model)
    model.register_buffer("scratch", torch.ones(3), persistent=False)
    assert weights_hash(model) == before
    model.register_buffer("correction", torch.ones(3))
    kept = weights_hash(model)
    model.correction += 1
    assert len({before, kept, weights_hash(model)}) == 3


def test_how_strongly_an_adapter_acts_counts(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = set()
    for settings in (
        {"scaling": {"default": 2.0, "idle": 1.0}, "active_adapters": ["default"]},
        {"scaling": {"default": 4.0, "idle": 1.0}, "active_adapters": ["default"]},
        {"scaling": {"default": 4.0, "idle": 1.0}, "active_adapters": ["idle"]},
        {"scaling": {"default": 4.0}, "active_adapters": ["default"], "disable_adapters": True},
    ):
        # what PEFT's LoRA layers say of themselves
        for name, value in settings.items():
            setattr(model.model.layers[0].self_attn.o_proj, name, value)
        found.add(weights_hash(model))
    assert len(found) == 4


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
