"""Of the library's causal LMs each gives rows of a batch what they get alone, or is refused."""

import pytest
import torch
from test_model_batch import alone, together
from tiny import TEXTS, randomised, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, BartConfig, BartForCausalLM

from fasb.errors import ModelError
from fasb.model import padding
from fasb.model.load import wrap

SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "decoder_layers", "encoder_layers"), 3),
    **dict.fromkeys(("num_layers", "num_decoder_layers", "num_encoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_key_value_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "attention_chunk_size"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **{"num_experts_per_tok": 2, "qk_head_dim": 16, "sliding_window": 5, "rotary_dim": 4},
    **{"vocab_size": 160, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    "is_decoder": True,
}
"""What makes any config tiny, as far as it has such a name."""

COUNT_SLOTS = (
    *("bart", "mbart", "pegasus", "marian", "blenderbot", "blenderbot-small", "mvp", "plbart"),
    *("bigbird_pegasus", "whisper", "trocr"),
)
"""Decoders that take no positions, and count them from the cache's slots."""
EXACT = (
    *("apertus", "arcee", "biogpt", "bloom", "codegen", "cohere2", "deepseek_v2", "deepseek_v3"),
    *("diffllama", "doge", "exaone4", "falcon", "gemma", "gemma3_text", "glm4", "gpt_neox"),
    *("gpt_neox_japanese", "gpt_oss", "granite", "granitemoe", "helium", "hunyuan_v1_dense"),
    *("llama4_text", "minicpm3", "minimax_m2", "ministral", "mpt", "nemotron", "olmo2", "olmoe"),
    *("opt", "persimmon", "phimoe", "qwen2_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    "vaultgemma",
    *("afmoe", "aria_text", "beam", "bitnet", "cohere", "cohere2_moe", "cwm", "ernie4_5"),
    *("ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm", "glm4_moe", "granite_swa"),
    *("granitemoe_swa", "granitemoeshared", "hunyuan_v1_moe", "hy_v3", "hyperclovax"),
    *("internlm3", "iquestcoder", "jais2", "kolibri1", "laguna", "lfm2", "llama4"),
    *("mellum", "minimax_m3_vl_text", "ministral3", "nanochat", "olmo", "olmo3"),
    "solar_open",
)
REFUSED = {
    "openai-gpt": "keeps no keys and values",
    "prophetnet": "left-padded rows behind a cache",
    "deepseek_v32": "left-padded rows behind a cache",
    "minimax": r"layers 1 have attention of another kind \(self_attn.out_proj\)",
    "moshi": "MoshiLinear: a projection that does not say how wide",
    "bert": "no attention output projection",
    "mamba": "recurrent state",
    **dict.fromkeys(COUNT_SLOTS, "counts positions from the padding on"),
}


def tiny_of(kind):
    """A random model of any causal LM of the library, in float64."""
    whole = AutoConfig.for_model(kind)
    text = whole.get_text_config(decoder=True)
    # a decoder's text config lacks its own sizes
    known = {*vars(whole), *vars(text), *type(text).attribute_map}
    config = type(text)(**{key: value for key, value in SIZES.items() if key in known})
    model = AutoModelForCausalLM.from_config(config).to(torch.float64)
    return wrap(randomised(model).eval(), tiny_tokenizer(), f"tiny-{kind}")


@pytest.mark.parametrize("kind", EXACT)
def test_rows_of_a_batch_equal_rows_alone(kind):
    model = tiny_of(kind)
    prompts = [tokens[:n] for tokens, n in zip(model.encode(TEXTS), (21, 4, 14), strict=True)]
    logits, heads = together(model, prompts, None, steps=2)
    for i, prompt in enumerate(prompts):
        expected, expected_heads = alone(model, prompt, steps=2)
        # the library's own softmax in float32
        torch.testing.assert_close(logits[i], expected, rtol=0, atol=5e-5)
        torch.testing.assert_close(heads[i], expected_heads, rtol=0, atol=5e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_where_they_would_not_the_model_is_refused_in_one_line_that_says_why(kind):
    with pytest.raises(ModelError, match=REFUSED[kind]) as raised:
        tiny_of(kind)
    assert "\n" not in str(raised.value)


def of_slots(dtype):
    sizes = {key: value for key, value in SIZES.items() if key in vars(BartConfig())}
    return BartForCausalLM(BartConfig(**sizes)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_in_half_precision_is_told_from_other_positions(dtype):
    half = tiny_model().model.to(dtype)
    assert wrap(half, tiny_tokenizer()).model is half
    with pytest.raises(ModelError, match="BartForCausalLM gives a left-padded row other logits"):
        wrap(of_slots(dtype), tiny_tokenizer())


def test_memory_that_is_out_is_not_called_a_model_that_cannot_be_batched(monkeypatch):
    def out(*_, **__):
        raise torch.OutOfMemoryError("no more")

    model = tiny_model()
    monkeypatch.setattr(padding, "forward", out)
    with pytest.raises(torch.OutOfMemoryError):
        padding.check_rows(model, "mine")
