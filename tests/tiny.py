"""Tiny models with random weights, their tokenizer, and small banks: what tests run on. No network.

Wherever the architecture allows, heads * head_dim differs from hidden, and two query heads share a
key head.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import torch

from fasb.data.protocol import Question
from fasb.fitting.bank import FORMAT, Bank
from fasb.hdf5files import writing_hdf5
from fasb.model.load import LoadedModel, wrap
from fasb.settings import SiteName
from fasb.steering.fingerprint import Fingerprint

DEVICE = os.environ.get("FASB_TEST_DEVICE", "cpu")
"""Where tiny models stand: `cuda` runs the tests that build one on a GPU (docs/benchmarks.md)."""

TEXTS = (
    "Q: What is the colour of the sky? A: The sky is blue.",
    "Q: Who lives in the old house by the river?\nA: Nobody lives there.\n\nQ: Why? A: I have "
    "no comment.",
    "The quick brown fox jumps over the lazy dog, and then it answers: no, that is not true.",
)

SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 24, "vocab_size": 160}
GQA = SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32}
WINDOW = {"sliding_window": 5}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

CONFIGS = {
    "llama": ("LlamaConfig", GQA),
    "mistral": ("MistralConfig", GQA | WINDOW),
    "qwen2": ("Qwen2Config", GQA),
    "qwen3": ("Qwen3Config", GQA),
    "gemma2": ("Gemma2Config", GQA | WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        GQA | WINDOW | {"query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    ),
    "phi3": ("Phi3Config", GQA),
    "gpt2": (
        "GPT2Config",
        {"n_layer": 3, "n_head": 4, "n_embd": 32, "vocab_size": 160, "n_positions": 256},
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        SHAPE | {"hidden_size": 32, "intermediate_size": 32, "rotary_pct": 0.5},
    ),
    "opt": ("OPTConfig", SHAPE | {"hidden_size": 32, "ffn_dim": 32, "word_embed_proj_dim": 24}),
    "falcon": (
        "FalconConfig",
        SHAPE | {"hidden_size": 32, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "bloom": ("BloomConfig", {"n_layer": 3, "n_head": 4, "hidden_size": 32, "vocab_size": 160}),
    "mixtral": ("MixtralConfig", GQA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", GQA | MOE),
}
"""Config class and its arguments, for every architecture the tests run over."""

OLD = {"vocab_size": 160, "n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 256}
LOCAL = {
    "attention_types": [[["global", "local", "global"], 1]],
    "window_size": 5,
    "max_position_embeddings": 256,
}
FURTHER = {
    "phi": ("PhiConfig", GQA),
    "gptj": ("GPTJConfig", OLD | {"rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeoConfig",
        LOCAL | {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "vocab_size": 160},
    ),
    "gpt_bigcode": ("GPTBigCodeConfig", OLD),
    "mpt": (
        "MptConfig",
        {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 256, "vocab_size": 160},
    ),
    "falcon-alibi": (
        "FalconConfig",
        SHAPE | {"hidden_size": 32, "alibi": True, "multi_query": False},
    ),
    "gpt_oss": ("GptOssConfig", GQA | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
"""Architectures of which only reading, prefill and decoding are tested."""


def tiny_model(
    name: str = "llama", seed: int = 0, dtype: str = "float64", attention: str | None = None
) -> LoadedModel:
    """A random model whose weights are large enough that every head matters.

    `attention` None: the library's choice.
    """
    import transformers

    kind, arguments = (CONFIGS | FURTHER)[name]
    tokenizer = tiny_tokenizer()
    special = {
        f"{token}_token_id": getattr(tokenizer, f"{token}_token_id")
        for token in ("bos", "eos", "pad")
    }
    config = getattr(transformers, kind)(**arguments, **special)
    chosen = {"attn_implementation": attention} if attention else {}
    model = transformers.AutoModelForCausalLM.from_config(config, **chosen).to(
        getattr(torch, dtype)
    )
    return wrap(randomised(model, seed).to(DEVICE), tokenizer, f"tiny-{name}")


def randomised(model, seed: int = 0):
    """The model with weights so large that every head matters."""
    model.set_experts_implementation("eager")  # grouped products know no float64
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.4 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return model


def tiny_tokenizer():
    """A byte-level BPE tokenizer of 160 tokens over printable ASCII, with BOS before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [
        pre_tokenizers.ByteLevel(False).pre_tokenize_str(chr(c))[0][0]
        for c in (10, *range(32, 127))
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
    )


def tiny_checkpoint(folder: Path, name: str = "llama", seed: int = 0) -> Path:
    """A folder that `load_model` and the transformers library load."""
    model = tiny_model(name, seed, "float32")
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def tiny_bank(
    path: Path,
    n_answers: int = 80,
    shape: tuple[int, int, int] = (2, 3, 5),
    seed: int = 0,
    ahead: int = 0,
    site: SiteName = "head",
) -> Bank:
    """A bank of random head outputs, four answers to a question.

    Later heads tell true from false better.

    `ahead`: how many questions on the one is that was drawn behind a row.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n_answers) % 2
    known = np.linspace(0.2, 1.5, shape[0] * shape[1]).reshape(1, *shape[:2], 1)
    x = rng.normal(size=(n_answers, *shape)) + 0.5 * rng.normal(size=(1, *shape))
    x += known * (label[:, None, None, None] - 0.5) * rng.normal(size=(1, *shape))
    with writing_hdf5(path, {}) as file:
        file.attrs.update(format=FORMAT, site=site)
        file.attrs["fingerprint"] = json.dumps(asdict(Fingerprint("tiny", *shape, "vocabulary")))
        chunks = (min(50, n_answers), 1, *shape[1:])
        file.create_dataset(
            "activations", data=x.astype(np.float32), chunks=chunks, fletcher32=True
        )
        file["label"] = label.astype(np.int8)
        question = [f"q{i // 4}" for i in range(n_answers)]
        drawn = question[4 * ahead :] + question[: 4 * ahead]
        for name, column in (
            ("question", question),
            ("drawn", drawn),
            ("answer", ["a"] * n_answers),
        ):
            file.create_dataset(name, data=column, dtype=h5py.string_dtype())
    return Bank.open(path)


def tiny_questions(n: int = 5) -> list[Question]:
    """Questions with true and false answers, every other with a second phrasing."""
    return [
        Question(
            id=f"q{i}",
            text=f"Who lives in house {i}?",
            true=tuple(f"Fox {j} lives there." for j in range(i % 3 + 1)),
            false=("Nobody.", "The sky lives in it.")[: i % 2 + 1],
            best="Fox 0 lives there.",
            group=f"g{i // 2}",
            paraphrases=(f"House {i}: who lives there?",) * (i % 2),
        )
        for i in range(n)
    ]
