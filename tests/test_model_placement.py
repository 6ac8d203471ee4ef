"""The same heads and the same effect of an edit, wherever and however the weights are held."""

import pytest
import torch
from tiny import CONFIGS, TEXTS, tiny_checkpoint, tiny_model
from transformers import AutoModelForCausalLM

from fasb.decoding.decode import trace
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import editing, recording
from fasb.model.load import available, load_model, wrap
from fasb.model.weights import weights_hash
from fasb.settings import DecodingSettings, ModelSettings
from fasb.steering.edit import Edit

CHOSEN = torch.tensor([[2, 1], [0, 3], [1, 2]])
ONE_KERNEL = {"gemma2", "bloom"}  # the library offers eager attention only
ROUNDING = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.1}
"""Largest relative distance of all heads: a few hundred times each dtype's rounding, at these large
weights."""


def heads_and_effect(model):
    """Head outputs of a text, chosen and all, and its logits unedited and edited, in float64."""
    tokens = model.encode(TEXTS[:1])
    vector = torch.randn(3, model.layout.head_dim, generator=torch.Generator().manual_seed(1))
    with (
        recording(model.layout, "head") as every,
        recording(model.layout, "head", CHOSEN) as chosen,
        editing(model.layout, Edit.add(CHOSEN, vector)) as dial,
    ):
        plain = forward(model, batch_of(model, tokens))
        read = every.pop(), chosen.pop()
        dial.strength = torch.full((1, len(tokens[0])), 0.7, device=model.device)
        edited = forward(model, batch_of(model, tokens))
    return [x.double().cpu() for x in (*read, plain, edited)]


def distance(x, y):
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_dtype_reads_the_same_heads(name, dtype):
    exact, *_ = heads_and_effect(tiny_model(name))
    read, *_ = heads_and_effect(tiny_model(name, dtype=dtype))
    assert distance(read, exact) < ROUNDING[dtype]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ONE_KERNEL])
def test_attention_kernels_read_the_same_heads_and_are_edited_alike(name):
    found = [heads_and_effect(tiny_model(name, attention=kernel)) for kernel in ("eager", "sdpa")]
    for eager, sdpa in zip(*found, strict=True):
        assert distance(sdpa, eager) < ROUNDING["float32"]  # in which the eager softmax runs


@pytest.mark.gpu
def test_flash_attention_reads_the_same_heads():
    pytest.importorskip("flash_attn", reason="flash_attn is not installed")
    if not torch.cuda.is_available():
        pytest.skip("flash attention needs a CUDA device")
    models = [
        tiny_model(dtype="bfloat16", attention=kernel) for kernel in ("sdpa", "flash_attention_2")
    ]
    found = [heads_and_effect(wrap(model.model.cuda(), model.tokenizer)) for model in models]
    assert distance(found[1][0], found[0][0]) < ROUNDING["bfloat16"]


MAPS = {
    "all on disk": lambda parts: dict.fromkeys(parts, "disk"),
    "layers on disk": lambda parts: {part: "disk" if "layers" in part else "cpu" for part in parts},
    "alternating": lambda parts: {part: ("cpu", "disk")[i % 2] for i, part in enumerate(parts)},
}


@pytest.mark.parametrize("spread", MAPS)
def test_a_spread_model_reads_edits_and_decodes_as_a_whole_one(tmp_path, spread):
    pytest.importorskip("accelerate", reason="accelerate is not installed (extra: multi-gpu)")
    folder = tiny_checkpoint(tmp_path / "tiny")
    whole = load_model(ModelSettings(path=str(folder)))
    parts = [
        "model.embed_tokens",
        *(f"model.layers.{i}" for i in range(3)),
        "model.norm",
        "model.rotary_emb",
        "lm_head",
    ]
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map=MAPS[spread](parts),
        offload_folder=tmp_path / "offloaded",
    )
    spread_out = wrap(model, whole.tokenizer)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    assert spread_out.device == torch.device("cpu")
    for ours, theirs in zip(heads_and_effect(spread_out), heads_and_effect(whole), strict=True):
        assert torch.equal(ours, theirs)
    prompts, decoding = whole.encode(TEXTS), DecodingSettings(tokens=6)
    assert trace(spread_out, prompts, decoding).rows() == trace(whole, prompts, decoding).rows()


def test_device_auto_loads_what_one_device_holds(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed (extra: multi-gpu)")
    folder = str(tiny_checkpoint(tmp_path / "tiny"))
    found = [
        heads_and_effect(load_model(ModelSettings(path=folder, device=device)))
        for device in ("auto", "cpu")
    ]
    assert distance(found[0][0], found[1][0]) < ROUNDING["float32"]


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_projection_is_read_and_edited_at_its_plain_input(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed (extra: multi-gpu)")
    quantiser = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    folder, small = tiny_checkpoint(tmp_path / "tiny"), tmp_path / "small"
    settings = {
        "quantization_config": BitsAndBytesConfig(load_in_8bit=True),
        "device_map": {"": "cpu"},
    }
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings).save_pretrained(
        small
    )
    whole = load_model(ModelSettings(path=str(folder)))
    whole.tokenizer.save_pretrained(small)
    model = load_model(ModelSettings(path=str(small)))
    assert isinstance(model.layout.projections[0], quantiser.nn.Linear8bitLt)
    assert model.layout.head_dim == whole.layout.head_dim
    seen = []
    hook = model.layout.projections[2].register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].double())
    )
    every, chosen, plain, edited = heads_and_effect(model)
    hook.remove()
    assert torch.equal(every[:, :, 2].flatten(-2), seen[0])
    assert torch.equal(chosen[:, :, 0], every[:, :, 2, 1])
    assert distance(every, heads_and_effect(whole)[0]) < 0.1
    assert distance(edited - plain, (lambda x: x[3] - x[2])(heads_and_effect(whole))) < 0.2
    assert "weights at hand" in available(ModelSettings(path=str(small)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_the_scales_of_a_quantised_checkpoint_are_among_its_weights(tmp_path, bits):
    pytest.importorskip("accelerate", reason="accelerate is not installed (extra: multi-gpu)")
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    # blocks of 4-bit weights are of 64 values
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4}
    whole = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, vocab_size=160, **sizes))
    whole.save_pretrained(tmp_path)
    quantised = {"quantization_config": BitsAndBytesConfig(**{bits: True}), "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, **quantised)
    before = weights_hash(model)
    model(torch.tensor([[5, 6, 7]]))
    assert weights_hash(model) == before
    projection = model.model.layers[1].self_attn.o_proj
    if bits == "load_in_8bit":
        scales = projection.state.SCB if projection.weight.SCB is None else projection.weight.SCB
    else:
        scales = projection.weight.quant_state.absmax
    scales *= 2
    assert weights_hash(model) != before
