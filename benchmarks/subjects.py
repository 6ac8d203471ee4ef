"""What is measured.

Llama shapes with random weights, prompts, and bundles of which half the answers fire.

Speed does not depend on what weights say, so nothing is downloaded.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fasb.decoding.decode import trace
from fasb.decoding.deviation import observe
from fasb.model.load import LoadedModel, wrap
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import Policy
from fasb.steering.tracker import Logistic, Tracker

SHAPES = {
    "world": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 256,
    },
    "60m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "intermediate_size": 1408,
    },
    "7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    },
}
VOCABULARY = {"world": 165, "60m": 32000, "7b": 32000}
PREFIX, QUESTION = 48, 16
"""Tokens of the shared instruction, and about as many of a question."""


@dataclass(frozen=True)
class Subject:
    """A model, its prompts, and a bundle under which about half of the answers fire."""

    name: str
    model: LoadedModel
    prompts: list[list[int]]
    bundle: Bundle


def subject(
    name: str, n_prompts: int, tokens: int = 50, batch: int = 64, device: str = "cpu"
) -> Subject:
    """Everything seeded, on `device`; bfloat16 on a GPU, float32 else."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY[name],
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=None,
        **SHAPES[name],
    )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        lm = LlamaForCausalLM(config).to(dtype).eval()
    loaded = wrap(lm, _tokenizer(VOCABULARY[name]), name=f"random-{name}")
    prompts = _prompts(n_prompts, VOCABULARY[name])
    bundle = half_firing(loaded, prompts, DecodingSettings(tokens=tokens, batch=batch))
    return Subject(name, loaded, prompts, bundle)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, size)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _prompts(n: int, size: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    prefix = random.integers(3, size, PREFIX).tolist()
    lengths = random.integers(QUESTION // 2, QUESTION * 3 // 2, n)
    return [prefix + random.integers(3, size, length).tolist() for length in lengths]


def half_firing(
    model: LoadedModel, prompts: list[list[int]], decoding: DecodingSettings, k: int = 24
) -> Bundle:
    """Random anchors, k or half of all heads.

    Beta is the median over answers of the highest p that is judged.
    """
    random = torch.Generator().manual_seed(0)
    layout, s = model.layout, 10
    k = min(k, layout.n_layers * layout.n_heads // 2)
    flat = torch.randperm(layout.n_layers * layout.n_heads, generator=random)[:k]
    heads = torch.stack([flat // layout.n_heads, flat % layout.n_heads], 1)
    weight = torch.randn(k, layout.head_dim, generator=random) * 10
    tracker = Tracker("head", heads, Logistic(weight, torch.zeros(k)))
    edit = Edit.add(heads, torch.randn(k, layout.head_dim, generator=random) * 0.01)
    sample = prompts[:64]
    p = observe(model, sample, trace(model, sample, decoding), [tracker], decoding.batch)[0]
    beta = float(np.median(np.nanmax(p[:, s:], axis=1)))
    return Bundle(Policy(5.0, beta, s), edit, tracker, PromptSettings(stop=()), decoding)
