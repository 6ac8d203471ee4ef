"""Checkpoints of the paper's kinds of model, tiny and random, made in seconds without network.

    python tests/checkpoints.py FOLDER

writes FOLDER/llama2, FOLDER/llama3, FOLDER/qwen2.5 and the two judges FOLDER/truth-judge,
FOLDER/info-judge. Each splits text as its model does and has its special tokens; the vocabulary is
learned from this repository's own pages. Like the real ones, Llama's have no padding token, Qwen's
has no BOS and more rows than tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LEARNED = 700
"""Tokens beside the special and the byte ones."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Where Llama 3 splits before it merges; Qwen 2.5 takes digits one by one, as the library's own
class says."""

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}


def checkpoint(kind: str, folder: Path, judge: bool = False) -> Path:
    """A folder that a hub id stands for: `kind` is llama2, llama3 or qwen2.5.

    A judge says yes to about half.
    """
    import torch

    tokenizer = TOKENIZERS[kind]()
    model = _model(kind, tokenizer)
    generator = torch.Generator().manual_seed(sorted(TOKENIZERS).index(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
        if judge:
            _decided(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _decided(model: Any, tokenizer: Any) -> None:
    """Make a model that says yes or no and nothing else, each after about half of all answers."""
    import torch

    asked = [f"Q: {line}\nA: {line[::-1]}\nTrue:" for line in _lines()[:64] if line]
    states = torch.stack(
        [model.model(tokenizer(text, return_tensors="pt")["input_ids"])[0][0, -1] for text in asked]
    )
    mean = states.mean(0) / states.mean(0).norm()
    direction = torch.linalg.svd(states - states.mean(0), full_matrices=False)[2][:4].sum(
        0
    )  # along which answers differ most
    direction -= direction @ mean * mean  # and whose sign is not the same for all
    direction *= 20 / (states @ direction).std()
    before, yes, no = (tokenizer(f"True:{word}")["input_ids"] for word in ("", " yes", " no"))
    yes, no = yes[len(before)], no[len(before)]
    model.lm_head.weight.zero_()
    model.lm_head.weight[yes], model.lm_head.weight[no] = direction, -direction


def checkpoints(folder: Path) -> Path:
    """All three kinds and both judges."""
    for kind in TOKENIZERS:
        checkpoint(kind, folder / kind)
    for kind, name in (("llama2", "truth-judge"), ("llama3", "info-judge")):
        checkpoint(kind, folder / name, judge=True)
    return folder


def llama2_tokenizer():
    """SentencePiece's BPE.

    A visible space before each word and the text, digits one by one, bytes for the rest.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(True)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED + len(special),
        special_tokens=special,
        limit_alphabet=90,
        show_progress=False,
    )
    learned = _learned(learner, trainer, _lines())
    return LlamaTokenizer(*learned, add_bos_token=True, add_eos_token=False)


def llama3_tokenizer():
    """Bytes, split at words and after every third digit; a beginning, no padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _learned(tokenizer, _byte_trainer(), _with_questions())
    bos, *others = "<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"
    tokenizer.add_special_tokens([bos, *others])
    place = [(bos, tokenizer.token_to_id(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{bos} $A", f"{bos} $A {bos} $B", special_tokens=place
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|eot_id|>"
    )


def qwen_tokenizer():
    """Bytes, split at words and after every digit; no beginning."""
    from tokenizers import Tokenizer, models
    from transformers import Qwen2Tokenizer

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    end = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    learned = _learned(learner, _byte_trainer(), _with_questions())
    return Qwen2Tokenizer(*learned, **end, extra_special_tokens=["<|im_start|>"])


TOKENIZERS = {"llama2": llama2_tokenizer, "llama3": llama3_tokenizer, "qwen2.5": qwen_tokenizer}


def _byte_trainer():
    from tokenizers import pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trainers.BpeTrainer(
        vocab_size=256 + LEARNED, initial_alphabet=alphabet, show_progress=False
    )


def _learned(learner, trainer, lines: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    learner.train_from_iterator(lines, trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _lines() -> list[str]:
    """English that never changes, and digits to be joined."""
    return [*(ROOT / "LICENSE").read_text("utf-8").splitlines(), *["123456"] * 1000]


def _with_questions() -> list[str]:
    """As the models' own vocabularies, which split text alike, these join a question's end."""
    return [*_lines(), *["?\n"] * 1000]


def _model(kind: str, tokenizer) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    size = len(tokenizer)
    if kind == "llama2":
        return LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=size, rms_norm_eps=1e-5, **special))
    if kind == "llama3":
        ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
        rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 1024}
        special["eos_token_id"] = ends
        return LlamaForCausalLM(
            LlamaConfig(**GROUPED, vocab_size=size, rope_parameters=rope, **special)
        )
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return Qwen2ForCausalLM(
        Qwen2Config(
            **GROUPED,
            vocab_size=size + 7,
            rope_parameters=rope,
            tie_word_embeddings=True,
            **special,
        )
    )


if __name__ == "__main__":
    checkpoints(Path(sys.argv[1]))
