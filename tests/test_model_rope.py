"""Rotary positions that depend on the longest text are exact as far as they do not, or refused."""

import pytest
import torch
from test_model_batch import alone, together
from tiny import CONFIGS, randomised, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from fasb.errors import ModelError
from fasb.model.batch import batch_of, compute_prefix, forward
from fasb.model.load import wrap
from fasb.model.rope import context_of, fixed_until

LIMIT = 32
HALF = 4
"""Frequencies: half of a head's width."""
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * HALF,
    "long_factor": [4.0] * HALF,
    "original_max_position_embeddings": LIMIT,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
MODELS = {
    "longrope": (Phi3Config, LONG, 4 * LIMIT, {"original_max_position_embeddings": LIMIT}),
    "dynamic": (LlamaConfig, DYNAMIC, LIMIT, {}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    kind, rope, context, further = MODELS[request.param]
    # copied, as configs write to it
    sizes = CONFIGS["llama"][1] | {"hidden_size": 32, "rope_parameters": {**rope}} | further
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = kind(**sizes, **special, max_position_embeddings=context)
    lm = AutoModelForCausalLM.from_config(config).to(torch.float64)
    return wrap(randomised(lm), tiny_tokenizer(), "mine")


def test_texts_within_the_limit_are_exact_beside_each_other(model):
    prompts = [[0, *range(20, 20 + n)] for n in (LIMIT - 3, 3, 12)]
    logits, _ = together(model, prompts, None, steps=2)
    for row, prompt in zip(logits, prompts, strict=True):
        torch.testing.assert_close(row, alone(model, prompt, steps=2)[0], rtol=0, atol=1e-9)


def test_a_text_beyond_the_limit_would_change_those_beside_it_and_is_refused(model):
    short, long = [0, 20, 21, 22], [0, *range(20, 20 + LIMIT)]
    # what the library itself does to the short row
    ids = torch.tensor([[2] * (len(long) - len(short)) + short, long])
    mask = (torch.arange(len(long)) >= torch.tensor([[len(long) - len(short)], [0]])).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    beside = model.model(ids, attention_mask=mask, position_ids=positions).logits[0, -1]
    assert (beside - alone(model, short, 0)[0][0]).abs().max() > 1e-3
    line = rf"^mine: a text has 33 tokens.*beyond {LIMIT} the model's rotary positions .*shorten"
    with pytest.raises(ModelError, match=line):
        forward(model, batch_of(model, [short, long]))
    with pytest.raises(ModelError, match=line):
        compute_prefix(model, long)
    with pytest.raises(ModelError, match=line):
        model.check_room([short, long[:-2]], 2, 8)


def test_padding_does_not_count_as_text(model):
    # a prefix and rests of other lengths take more slots than any text has tokens
    prefix = compute_prefix(model, [0, *range(20, 20 + LIMIT - 3)])
    texts = [[*prefix.texts[0], 60], [0, *range(70, 70 + LIMIT - 2)]]
    batch = batch_of(model, texts, prefix)
    assert forward(model, batch, keep=1).shape[0] == 2


def test_other_rotary_positions_have_no_limit_and_layers_may_differ():
    assert fixed_until(LlamaConfig()) is None
    config = LlamaConfig()
    config.rope_parameters = {"full": LONG, "sliding": {"rope_type": "default"}}
    assert fixed_until(config) == LIMIT


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_text_beyond_the_context_is_refused_wherever_it_is_read(name):
    model = tiny_model(name)
    context = context_of(model.model.config)
    texts = [[0, 20], [20] * context]
    forward(model, batch_of(model, texts), keep=1)
    with pytest.raises(ModelError, match=rf"has {context + 1:,} tokens, .* context is {context:,}"):
        forward(model, batch_of(model, [texts[0], [*texts[1], 20]]), keep=1)
