"""Loading: what a loaded model knows of itself, and one line for everything that can go wrong."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from tiny import TEXTS, tiny_checkpoint, tiny_model, tiny_questions, tiny_tokenizer
from transformers import LlamaConfig

from fasb.errors import ModelError
from fasb.model import access
from fasb.model.load import load_model, wrap
from fasb.settings import DecodingSettings, ModelSettings, PromptSettings
from fasb.study.run import traced


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def test_a_folder_loads_as_the_model_that_was_saved(folder):
    loaded, saved = load_model(ModelSettings(path=str(folder))), tiny_model(dtype="float32")
    tokens = torch.tensor(saved.encode(TEXTS[:1]))
    assert loaded.encode(TEXTS) == saved.encode(TEXTS)
    assert torch.equal(loaded.model(tokens).logits, saved.model(tokens).logits)
    assert loaded.fingerprint.model == "tiny"
    assert loaded.fingerprint.tokenizer == saved.fingerprint.tokenizer
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "left"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_weights_come_in_the_asked_dtype(folder, dtype):
    assert load_model(ModelSettings(path=str(folder), dtype=dtype)).model.dtype == getattr(
        torch, dtype
    )


def test_texts_begin_with_bos_and_have_no_end():
    model = tiny_model()
    assert [row[0] for row in model.encode(TEXTS)] == [model.tokenizer.bos_token_id] * 3
    assert model.encode([]) == []
    assert model.decode(model.encode(TEXTS[:1])[0]) == TEXTS[0]


def test_an_end_that_the_tokenizer_appends_is_left_out():
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    special = [("<s>", 0), ("</s>", 1)]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=special
    )
    model = wrap(tiny_model().model, tokenizer)
    assert model.encode(TEXTS) == tiny_model().encode(TEXTS)
    assert model.encode_with_offsets("ab")[1] == [(0, 0), (0, 1), (1, 2)]


@pytest.mark.parametrize("appends", [False, True])
def test_special_tokens_that_a_person_wrote_stay_and_none_is_added_to_them(appends):
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        f"<s> $A{' </s>' * appends}", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model = wrap(tiny_model().model, tokenizer)
    (plain,) = model.encode(["ab"])
    assert model.encode(["<s>ab", "ab</s>", "<s>ab</s>"]) == [plain, [*plain, 1], [*plain, 1]]
    assert model.encode_with_offsets("<s>a</s>")[1] == [(0, 3), (3, 4), (4, 8)]


def test_offsets_cover_the_text_and_leave_out_bos():
    model = tiny_model()
    tokens, offsets = model.encode_with_offsets(TEXTS[1])
    assert tokens == model.encode([TEXTS[1]])[0]
    assert offsets[0] == (0, 0)
    assert "".join(TEXTS[1][a:b] for a, b in offsets) == TEXTS[1]


def test_pieces_join_to_the_text_and_show_special_tokens():
    model = tiny_model()
    tokens = model.encode([TEXTS[1]])[0]
    pieces = model.pieces([*tokens, 1])
    assert len(pieces) == len(tokens) + 1
    assert (pieces[0], pieces[-1]) == ("<s>", "</s>")
    assert "".join(pieces[1:-1]) == TEXTS[1]


def test_a_character_of_several_tokens_is_added_by_its_last():
    class Bytes:
        def decode(self, tokens, clean_up_tokenization_spaces):
            return bytes(tokens).decode(errors="replace")

    spelled = replace(tiny_model(), tokenizer=Bytes())
    assert spelled.pieces("aéb".encode()) == ["a", "", "é", "b"]


def test_everything_that_ends_a_text_is_known():
    model = tiny_model()
    model.model.generation_config.eos_token_id = [7, 9]
    model.model.config.eos_token_id = 8
    assert wrap(model.model, model.tokenizer).eos == {1, 7, 8, 9}


def test_a_tokenizer_without_pad_borrows_another_token_and_without_any_is_refused():
    model, tokenizer = tiny_model().model, tiny_tokenizer()
    tokenizer.pad_token = None
    assert wrap(model, tokenizer).pad == tokenizer.eos_token_id
    tokenizer.eos_token = tokenizer.bos_token = None
    with pytest.raises(ModelError, match=r"mine: .*no pad.*; set tokenizer\.pad_token"):
        wrap(model, tokenizer, "mine")


def refused(settings, remedy):
    with pytest.raises(ModelError, match=remedy) as caught:
        load_model(settings)
    assert "\n" not in str(caught.value)


def test_a_pad_token_that_only_the_tokenizer_knows_is_not_given_to_the_model():
    model, tokenizer = tiny_model().model, tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == len(model.get_input_embeddings().weight)
    assert wrap(model, tokenizer).pad == tokenizer.eos_token_id


def test_a_path_that_is_nowhere_says_so(tmp_path):
    refused(
        ModelSettings(path=str(tmp_path / "absent")), r"absent: no such folder.*correct the path"
    )
    refused(
        ModelSettings(path="nobody/has-this-model"),
        r"nobody/has-this-model: no such folder, .*unset HF_HUB",
    )


def test_a_folder_without_weights_says_so(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    (part / "model.safetensors").unlink()
    refused(ModelSettings(path=str(part)), "part: an incomplete model folder; make it again")


def test_a_damaged_config_is_one_line(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type"}))
    refused(ModelSettings(path=str(broken)), r"broken: cannot be loaded \(.*\)")


def spoilt(folder, copy, change):
    """A copy of the checkpoint whose tensors `change` has changed."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return ModelSettings(path=str(copy))


def configured(folder, copy, **values):
    """A copy of the checkpoint with other values in its config."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | values))
    return ModelSettings(path=str(copy))


def without(part):
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(without("lm_head"), "1 tensors missing .*lm_head.weight", id="no head"),
        pytest.param(without("layers.1."), r"9 tensors missing .*layers\.1\.", id="no layer"),
        pytest.param(without("q_proj"), "3 tensors missing .*q_proj", id="no queries"),
        pytest.param(
            lambda tensors: tensors.update(score=torch.ones(2)),
            "1 tensors in its weights that config.json knows nothing of, score among",
            id="one too many",
        ),
        pytest.param(
            lambda tensors: tensors["lm_head.weight"][3].fill_(torch.nan),
            r"24 of 3,840 values of its weight lm_head.weight are NaN",
            id="NaN",
        ),
        *(
            pytest.param(
                lambda tensors, kind=kind: tensors.update(
                    {"lm_head.weight": (10 * tensors["lm_head.weight"]).to(kind)}
                ),
                "its weight lm_head.weight is of type .*; get the config.json that belongs to it",
                id=str(kind),
            )
            for kind in (torch.int8, torch.uint8, torch.int32, torch.bool)
        ),
    ],
)
def test_weights_that_are_not_all_there_are_refused(folder, tmp_path, change, message):
    refused(spoilt(folder, tmp_path / "spoilt", change), message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 4}, "9 tensors missing from its weights"),
        ({"num_hidden_layers": 2}, "9 tensors in its weights that config.json knows nothing of"),
        ({"vocab_size": 161}, "2 tensors of another shape than config.json says"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000 in config.json"),
        ({"hidden_size": 10**9}, "its weights take .* GB"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"quantization_config": [1]}, "cannot be loaded"),
        ({"model_type": "t5"}, "a model of kind t5 is not a causal LM"),
        ({"model_type": "none", "auto_map": {"AutoConfig": "x.Y"}}, "custom code"),
    ],
)
def test_a_config_of_other_weights_or_none_is_refused(folder, tmp_path, values, message):
    refused(configured(folder, tmp_path / "other", **values), message)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "\xe9"}', None])
def test_a_damaged_file_of_a_checkpoint_is_one_line(folder, tmp_path, name, content):
    copy = shutil.copytree(folder, tmp_path / "damaged")
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    named = f"damaged/{name}" if name in access.OPTIONS else "damaged"
    refused(ModelSettings(path=str(copy)), f"{named}: .*; ")


@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"]
)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_of_a_checkpoint_that_cannot_be_read_does_not_count_as_absent(
    folder, tmp_path, name, kind
):
    copy = shutil.copytree(folder, tmp_path / "other")
    (copy / name).unlink(missing_ok=True)
    make = {"link": lambda path: path.symlink_to("gone"), "pipe": os.mkfifo, "folder": Path.mkdir}
    make[kind](copy / name)
    told = rf"other/{name}: (a link to nothing|no file); get the files again, or remove it"
    refused(ModelSettings(path=str(copy)), told)
    refused(ModelSettings(path=str(folder), tokenizer=str(copy)), told)


@pytest.mark.parametrize("ends", ["</s>", 1.5, True, {"a": 1}, [[1]], [None], ["1"], [1, False]])
def test_an_end_that_is_no_token_is_one_line(folder, tmp_path, ends):
    copy = shutil.copytree(folder, tmp_path / "other")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    refused(ModelSettings(path=str(copy)), "other: eos_token_id of its generation_config is .*; ")


def test_a_tokenizer_that_fails_at_every_text_is_one_line(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "other")
    options = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**options, "model_max_length": "a"}))
    refused(ModelSettings(path=str(copy)), "other: its tokenizer fails at a text .*; correct its")


def test_a_model_without_values_and_a_bare_tokenizer_are_one_line():
    model = tiny_model()
    with torch.device("meta"):
        empty = type(model.model)(model.model.config)
    with pytest.raises(ModelError, match="the weights of model.embed_tokens have no values"):
        wrap(empty, model.tokenizer, "mine")
    with pytest.raises(ModelError, match="^mine: no tokenizer of the transformers library"):
        wrap(model.model, model.tokenizer.backend_tokenizer, "mine")


def test_a_name_that_is_too_long_for_a_file_is_one_line():
    refused(ModelSettings(path="a" * 5000), "File name too long")


@pytest.mark.parametrize(
    "device", ["mps", "xpu", "xpu:0", "cpu:zig", "cpu:", "cuda:zig", "cpu:1e9"]
)
def test_a_device_that_is_not_there_is_named(folder, device):
    refused(ModelSettings(path=str(folder), device=device), f"^device: .*{device}.*; set ")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_holds_more_than_weights_is_refused(folder, tmp_path):
    import pickle

    copy = shutil.copytree(folder, tmp_path / "pickled")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}))
    refused(ModelSettings(path=str(copy)), "more than weights; ask for a safetensors checkpoint")


def test_an_adapter_without_its_base_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "adapter")
    (copy / "adapter_config.json").write_text("{}")
    refused(ModelSettings(path=str(copy)), "an adapter .*; merge it into its base")


def test_a_head_that_is_the_embedding_needs_no_tensor_of_its_own(folder, tmp_path):
    settings = configured(folder, tmp_path / "tied", tie_word_embeddings=True)
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "tied" / "model.safetensors", {"format": "pt"})
    model = load_model(settings).model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_model_without_its_tokenizer_is_refused():
    model = tiny_model()
    with pytest.raises(ModelError, match=r"no tokenizer .*; give it as fasb\.load\(model, tok"):
        wrap(model.model, None)
    many = tiny_tokenizer()
    many.add_tokens([f"word{i}" for i in range(3)])
    added = wrap(model.model, many)
    with pytest.raises(ModelError, match=r"gives token 161, but the model knows 160"):
        added.encode(["word1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is there")
def test_a_missing_gpu_says_so(folder):
    refused(
        ModelSettings(path=str(folder), device="cuda"), "no CUDA device is visible; set device: cpu"
    )


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


OFFLINE = (
    r"run 'hf download some/model( --revision abc)?' where there is network, "
    r"or unset HF_HUB_OFFLINE"
)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            lambda: errors.GatedRepoError("403", response=response(403)),
            r"gated; accept its licence .*'hf auth login'",
        ),
        (
            lambda: errors.RevisionNotFoundError("404", response=response(404)),
            r"no revision 'abc'; correct `revision`",
        ),
        (
            lambda: errors.RepositoryNotFoundError("401", response=response(401)),
            "no such model on the hub; correct",
        ),
        (
            lambda: errors.HfHubHTTPError("401", response=response(401)),
            r"refuses your token; run 'hf auth login'",
        ),
        (
            lambda: errors.HfHubHTTPError("503 busy", response=response(503)),
            r"the hub fails \(503 busy\); try again",
        ),
        (
            lambda: errors.RemoteEntryNotFoundError("404", response=response(404)),
            "with config.json",
        ),
        (lambda: errors.LocalTokenNotFoundError("none"), "'hf auth login'"),
        (lambda: errors.OfflineModeIsEnabled("off"), OFFLINE),
        (lambda: errors.LocalEntryNotFoundError("nowhere"), OFFLINE),
        (
            lambda: errors.HFValidationError("a//b"),
            "no such folder, and no name of a model on the hub",
        ),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_hub_raises_becomes_a_remedy_before_anything_is_read(
    error, remedy, wrapped, monkeypatch
):
    def fail(*_arguments, **_options):
        if wrapped:
            raise OSError("cannot load\nhere") from error()
        raise error()

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    refused(ModelSettings(path="some/model", revision="abc"), f"^some/model: .*{remedy}")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "too large for cpu in float32; set dtype: bfloat16",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB"),
            "too large for cpu in float32",
        ),
        (ImportError("Using a `device_map` requires `accelerate`"), "pip install accelerate"),
        (ImportError("8 bits require `bitsandbytes`"), r"not installed \(.*`\); install it$"),
        (ValueError("odd\nsecond line"), r"cannot be loaded \(odd second line\); "),
    ],
)
def test_what_fails_while_weights_are_read_becomes_a_remedy(error, remedy, folder, monkeypatch):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    refused(ModelSettings(path=str(folder)), remedy)


@pytest.mark.parametrize(
    ("dtype", "remedy"), [("float32", "set dtype: bfloat16, device: auto"), ("float16", "auto")]
)
def test_a_model_larger_than_free_memory_is_refused_before_its_weights_are_read(
    folder, monkeypatch, dtype, remedy
):
    read = []
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", read.append)
    monkeypatch.setattr(access, "_host_bytes", lambda: 1000)
    refused(
        ModelSettings(path=str(folder), dtype=dtype),
        rf"its weights take .* GB in {dtype}, .*0\.0 GB free; .*{remedy}",
    )
    assert read == []


def test_memory_that_this_process_holds_unused_on_a_gpu_is_free(monkeypatch):
    held = {
        "mem_get_info": (100, 1000),
        "memory_reserved": 50,
        "memory_allocated": 20,
        "device_count": 2,
    }
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(access, "_host_bytes", lambda: 7)
    assert [access.free_bytes(device) for device in ("cuda", "cuda:1", "auto", "cpu")] == [
        130,
        130,
        267,
        7,
    ]


def test_a_containers_limit_counts_as_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "CGROUP_LIMIT", tmp_path / "memory.max")
    for limit, free in (("max\n", None), ("4096\n", 4096)):
        access.CGROUP_LIMIT.write_text(limit)
        assert (access.free_bytes("cpu") == free) == (free is not None)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe", "bloom"])
def test_bytes_are_those_of_the_model_as_it_is_held(name):
    model = tiny_model(name).model.to(torch.float32)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert access.weight_bytes(model.config, "float32") == held
    assert access.weight_bytes(model.config, "bfloat16") == held / 2
    cache = model(torch.arange(12).reshape(2, 6), use_cache=True).past_key_values
    kept = sum(
        x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values)
    )
    assert access.cache_bytes(model.config, 12, torch.float32) == kept


def test_a_quantised_checkpoint_needs_less():
    config = tiny_model().model.config.to_dict()
    whole = access.weight_bytes(LlamaConfig(**config), "float16")
    for said, share in (({"load_in_4bit": True}, 4), ({"bits": 8}, 2)):
        quantised = LlamaConfig(
            **config, quantization_config={"quant_method": "bitsandbytes", **said}
        )
        assert access.weight_bytes(quantised, "float16") == whole // share


def test_texts_beyond_the_context_are_refused_before_they_are_decoded():
    model = tiny_model("gpt2")
    model.check_room([[1] * 250], 6, 1)
    with pytest.raises(ModelError, match=r"context is 256; shorten prompt\.prefix") as caught:
        model.check_room([[1], [1] * 250], 7, 1)
    assert "longest text has 257 tokens, its answer included" in str(caught.value)
    with pytest.raises(ModelError, match="the model's context is 256"):
        traced(model, tiny_questions(), PromptSettings(prefix="word " * 300), DecodingSettings())


def test_a_batch_beyond_free_memory_is_refused(monkeypatch):
    monkeypatch.setattr(access, "_host_bytes", lambda: 3 * 2 * 2 * 8 * 8 * 100)
    model = tiny_model()  # 3 layers of 2 key heads of 8 float64: 768 bytes a token
    model.check_room([[1] * 10] * 200, 0, 10)
    with pytest.raises(
        ModelError, match=r"11 x 10 tokens take .* of keys and values, .*; lower `batch`"
    ):
        model.check_room([[1] * 10] * 200, 0, 11)
    on_gpu = replace(model, device=torch.device("meta"))
    on_gpu.check_room([[1] * 10] * 200, 0, 11)
    with pytest.raises(ModelError, match=r"1 x 101 tokens take"):
        on_gpu.check_room([[1] * 101], 0, 11)


def cached(folder, hub, monkeypatch, commit="1" * 40, files=None):
    """A hub cache that holds a checkpoint as `some/model`, at this commit."""
    repository = hub / "models--some--model"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        if files is None or file.name in files:
            shutil.copy(file, snapshot / file.name)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_a_file_of_the_hubs_cache_that_cannot_be_read_is_named(
    folder, tmp_path, monkeypatch, content
):
    cached(folder, tmp_path, monkeypatch)
    (file,) = tmp_path.rglob("generation_config.json")
    file.unlink()
    file.symlink_to("gone") if content is None else file.write_text(content)
    refused(ModelSettings(path="some/model"), "generation_config.json: .*; get |some/model: cannot")


def test_the_commit_that_a_hub_model_was_resolved_to_is_known(folder, tmp_path, monkeypatch):
    cached(folder, tmp_path, monkeypatch)
    first = load_model(ModelSettings(path="some/model"))
    assert first.fingerprint.revision == "1" * 40
    cached(folder, tmp_path, monkeypatch, commit="2" * 40)
    later = load_model(ModelSettings(path="some/model"))
    assert later.fingerprint.revision == "2" * 40
    first.fingerprint.check(later.fingerprint)  # the same weights


def test_a_model_that_is_only_half_in_the_cache_says_how_to_get_it(folder, tmp_path, monkeypatch):
    cached(
        folder,
        tmp_path,
        monkeypatch,
        files=("config.json", "tokenizer.json", "tokenizer_config.json"),
    )
    refused(
        ModelSettings(path="some/model"),
        r"not whole in the local cache.*'hf download some/model --revision 1+'",
    )


def test_reading_weights_leaves_the_log_alone(folder, capsys):
    load_model(ModelSettings(path=str(folder)))
    assert capsys.readouterr().err == ""
