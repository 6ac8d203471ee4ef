"""What stands around a model: seen through where it computes the same, else refused in one line."""

import pytest
import torch
import transformers
from steering import some_bundle, some_prompts
from tiny import GQA, TEXTS, tiny_model, tiny_tokenizer
from torch import nn

from fasb.decoding.decode import decode_live, sweep, trace
from fasb.errors import ModelError
from fasb.model.load import wrap

SPECIAL = {"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}


def answers(model):
    """Unsteered, offline and live answers of some prompts."""
    bundle, prompts = some_bundle(model), model.encode(TEXTS) + some_prompts(3)
    before = trace(model, prompts, bundle.decoding)
    after = sweep(model, prompts, before, [bundle])[0].after
    return before.rows(), after.rows(), decode_live(model, prompts, bundle).after.rows()


def refused(model, message):
    with pytest.raises(ModelError, match=message) as caught:
        wrap(model, tiny_tokenizer(), "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("around", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_a_compiled_or_parallel_model_gives_the_answers_of_the_model_within(around):
    plain = tiny_model()
    wrapped = wrap(around(tiny_model().model), tiny_tokenizer())
    assert answers(wrapped) == answers(plain)
    wrapped.fingerprint.check(plain.fingerprint)


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.model.layers[1]])
def test_modules_that_are_compiled_in_place_are_refused(part):
    model = tiny_model().model
    part(model).compile(backend="eager")
    refused(model, r"mine: compiled in place \(.*\), where hooks do not fire; load")


@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestPeft:
    def adapted(self, **settings):
        peft = pytest.importorskip("peft", reason="peft is not installed")
        config = peft.LoraConfig(
            r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", **settings
        )
        return peft.get_peft_model(tiny_model().model, config)

    def test_an_adapter_that_does_nothing_yet_changes_no_answer(self):
        assert answers(wrap(self.adapted(), tiny_tokenizer())) == answers(tiny_model())

    def test_an_adapter_counts_as_other_weights_and_gives_its_own_answers(self):
        torch.manual_seed(0)
        model = self.adapted(init_lora_weights=False)
        merged = self.adapted()
        merged.load_state_dict(model.state_dict())
        inside, baked = (wrap(one, tiny_tokenizer()) for one in (model, merged.merge_and_unload()))
        prompt = torch.tensor(inside.encode(TEXTS[:1]))
        plain = tiny_model()
        assert torch.allclose(inside.model(prompt).logits, baked.model(prompt).logits)
        assert len({one.fingerprint.weights for one in (inside, baked, plain)}) == 3

    def test_an_adapter_of_another_alpha_counts_as_other_weights(self):
        one, other = (self.adapted(init_lora_weights=False, lora_alpha=a) for a in (2, 16))
        other.load_state_dict(one.state_dict())
        hashes = {wrap(model, tiny_tokenizer()).fingerprint.weights for model in (one, other)}
        other.disable_adapter_layers()
        hashes.add(wrap(other, tiny_tokenizer()).fingerprint.weights)
        assert len(hashes) == 3

    def test_an_adapter_of_the_prompt_is_refused(self):
        peft = pytest.importorskip("peft", reason="peft is not installed")
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        refused(peft.get_peft_model(tiny_model().model, config), "works on the prompt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "a NoneType is not a causal LM"),
        (lambda: nn.Linear(2, 2), "a Linear is not a causal LM"),
        (lambda: tiny_model().model.model, "a LlamaModel is not a causal LM"),
        (
            lambda: transformers.BertLMHeadModel(
                transformers.BertConfig(vocab_size=160, hidden_size=12, num_hidden_layers=1)
            ),
            "a BertLMHeadModel is not a causal LM",
        ),
        (
            lambda: transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=160, d_model=16, num_layers=1, d_ff=16)
            ),
            "encoder-decoder",
        ),
    ],
)
def test_what_is_no_causal_lm_is_refused(make, message):
    refused(make(), message)


LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
FOUR = GQA | SPECIAL | {"num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Qwen3NextConfig", FOUR | LINEAR | EXPERTS, "its layers 0, 1, 2 have no attention"),
        ("Lfm2Config", FOUR | {"full_attn_idxs": [1, 3]}, "its layers 0, 2 have no attention"),
        (
            "FalconH1Config",
            FOUR | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
            "keeps a recurrent state",
        ),
        (
            "MambaConfig",
            {"vocab_size": 160, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
            "keeps a recurrent state",
        ),
    ],
)
def test_hybrid_and_recurrent_models_are_refused_with_the_reason(kind, settings, message):
    config = getattr(transformers, kind)(**settings)
    refused(transformers.AutoModelForCausalLM.from_config(config), message)


@pytest.mark.parametrize("n_vision", [2, 3])
def test_a_vision_language_model_is_steered_in_its_text_model(n_vision):
    text = GQA | SPECIAL | {"sliding_window": 5, "query_pre_attn_scalar": 8}
    vision = {
        "num_hidden_layers": n_vision,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens, **SPECIAL
    )
    torch.manual_seed(0)
    both = transformers.Gemma3ForConditionalGeneration(config).double()
    alone = transformers.Gemma3ForCausalLM(config.text_config).double()
    alone.model.load_state_dict(both.model.language_model.state_dict())
    alone.lm_head.load_state_dict(both.lm_head.state_dict())
    seeing, reading = (wrap(model, tiny_tokenizer()) for model in (both, alone))
    assert seeing.layout.projections[0] is both.model.language_model.layers[0].self_attn.o_proj
    assert answers(seeing) == answers(reading)
