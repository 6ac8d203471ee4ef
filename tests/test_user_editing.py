"""Always-on steering inside a block: the same as decoding, gone behind it."""

import copy
from dataclasses import replace

import pytest
import torch
from steering import placed, some_bundle
from tiny import tiny_model

import fasb
from fasb.decoding.decode import decode_live
from fasb.decoding.observe import logits_of
from fasb.errors import BundleError, ConfigError, ModelError
from fasb.steering.edit import Active, Edit
from tests.unchecked import unchecked

TEXTS = ["Q: Who lives there?", "Why?", "Q: What is the colour of the sky? A: no"]
N = 9


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def written(model, **how):
    """The tokens that `generate` writes behind each text."""
    inputs = model.tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.model.generate(**inputs, max_new_tokens=N, **{"do_sample": False, **how})
    return output[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("positions", ["from_answer", "all", "prompt_end", "scheduled"])
def test_generate_writes_what_always_on_decoding_writes(model, positions):
    bundle = some_bundle(model, tokens=N, when="always", alpha=3.0)
    bundle = replace(bundle, edit=Edit(bundle.edit.changes, placed(positions)))
    expected = decode_live(model, model.encode(TEXTS), bundle).after.rows()
    with fasb.editing(model.model, bundle) as inside:
        assert inside is model.model
        found = written(model)
    assert not torch.equal(found, written(model))
    for row, tokens in zip(found.tolist(), expected, strict=True):
        assert row == tokens + [model.pad] * (len(row) - len(tokens))


def test_an_edit_takes_a_strength_and_a_bundle_may(model):
    bundle = some_bundle(model, tokens=N, when="always", alpha=3.0)
    with fasb.editing(model, bundle.edit, 3):
        by_edit = written(model)
    with fasb.editing(model, replace(bundle, policy=replace(bundle.policy, alpha=1.0)), 3.0):
        by_bundle = written(model)
    assert torch.equal(by_edit, by_bundle)
    with fasb.editing(model, bundle, 0.0):
        assert torch.equal(written(model), written(model))
    for strength in (None, float("nan"), float("inf"), True):
        wrong = pytest.raises(ConfigError, match=r"strength: .*; give a number")
        with wrong, fasb.editing(model, bundle.edit, strength):
            pass


def test_a_strength_that_is_text_is_one_line():
    """Where nobody but the library looks at types."""
    said = unchecked(
        "import sys; sys.path.insert(0, 'tests')\n"
        "import fasb\n"
        "from steering import some_bundle\n"
        "from tiny import tiny_model\n"
        "model = tiny_model()\n"
        "try:\n"
        "    with fasb.editing(model, some_bundle(model), '4'): pass\n"
        "except fasb.FasbError as error:\n"
        "    print(error)"
    )
    assert said == "strength: '4'; give a number\n"


def with_positions(model, positions):
    return replace(some_bundle(model).edit, active=Active(positions))


@pytest.mark.parametrize("positions", ["from_answer", "prompt_end"])
@pytest.mark.parametrize(
    "how",
    [
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 2},
        {"prefill_chunk_size": 3},
        {"assistant_model": "itself"},
        {"custom_generate": lambda *_, **__: None},
    ],
    ids=lambda how: next(iter(how)),
)
def test_settings_of_generate_that_hide_which_tokens_to_edit_are_refused(model, how, positions):
    if "assistant_model" in how:
        how = {"assistant_model": model.model}
    (key,) = how
    line = rf"^editing: generate\.{key} is set, .*leave out use_cache, .*positions are all$"
    with fasb.editing(model, with_positions(model, positions), 8.0):
        with pytest.raises(ConfigError, match=line):
            written(model, **how)
        if key in ("use_cache", "prefill_chunk_size"):
            config = copy.deepcopy(model.model.generation_config)
            setattr(config, key, how[key])
            with pytest.raises(ConfigError, match=line):
                written(model, generation_config=config)
        written(model)


def test_an_edit_at_all_tokens_needs_no_order_of_reading(model):
    with fasb.editing(model, with_positions(model, "all"), 3.0):
        expected = written(model)
        for how in ({"use_cache": False}, {"prefill_chunk_size": 3}):
            assert torch.equal(written(model, **how), expected)
    assert not torch.equal(written(model), expected)


def test_rows_that_are_packed_into_one_are_refused(model):
    network, prompts = model.model, model.encode(TEXTS[:2])
    packed = torch.tensor([[*prompts[0], *prompts[1]]])
    positions = torch.cat([torch.arange(len(prompt)) for prompt in prompts])[None]
    ends = torch.tensor([0, len(prompts[0]), packed.shape[1]], dtype=torch.int32)
    plain = network(packed, position_ids=positions).logits
    with fasb.editing(network, with_positions(model, "from_answer"), 8.0):
        for told in ({"position_ids": positions}, {"cu_seq_lens_q": ends}):
            with pytest.raises(ConfigError, match="^editing: rows are packed into one, .* all$"):
                network(packed, **told)
        with pytest.raises(ConfigError, match="^editing: generate_batch writes the tokens of all"):
            network.generate_batch(prompts)
    with fasb.editing(network, with_positions(model, "all"), 8.0):
        assert not torch.equal(network(packed, position_ids=positions).logits, plain)
        with pytest.raises(ConfigError, match="^editing: generate_batch"):
            network.generate_batch(prompts)
    assert "init_continuous_batching" not in vars(network)


def test_a_config_that_keeps_no_cache_is_refused_at_the_second_pass(model, monkeypatch):
    network = model.model
    prepare = network.prepare_inputs_for_generation

    def without(input_ids, **kwargs):
        return prepare(input_ids, **{**kwargs, "past_key_values": None, "use_cache": False})

    monkeypatch.setattr(network, "prepare_inputs_for_generation", without)
    with (
        pytest.raises(ConfigError, match="does not go on, by one token, from the cache"),
        fasb.editing(model, some_bundle(model).edit, 8.0),
    ):
        written(model)


def test_rows_padded_on_the_right_are_refused_and_without_padding_are_not(model):
    tokenizer, edit = copy.deepcopy(model.tokenizer), some_bundle(model).edit
    tokenizer.padding_side = "right"
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    right = r"^editing: a row is padded on the right.*padding_side to left$"
    with fasb.editing(model, edit, 8.0):
        with pytest.raises(ConfigError, match=right):
            model.model.generate(**inputs, max_new_tokens=2)
        with pytest.raises(ConfigError, match=right):
            model.model.generate(
                **inputs, max_new_tokens=2, cache_implementation="static", do_sample=False
            )
        with pytest.raises(ConfigError, match=right):
            model.model(**inputs)
        model.model(**{key: value[:1, :3] for key, value in inputs.items()})


def test_a_static_cache_writes_the_same(model):
    with fasb.editing(model, some_bundle(model).edit, 3.0):
        assert torch.equal(written(model, cache_implementation="static"), written(model))


def test_a_prompt_of_one_token_behind_a_conversation_is_a_prompt(model):
    edit, network = with_positions(model, "prompt_end"), model.model
    first = torch.tensor(model.encode(TEXTS[:1]))
    whole = torch.cat([first, torch.tensor([[20]])], 1)
    cache = network(first, use_cache=True).past_key_values
    with fasb.editing(model, edit, 8.0):
        expected = network.generate(whole, max_new_tokens=5, do_sample=False)
        found = network.generate(whole, past_key_values=cache, max_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)
    assert not torch.equal(network.generate(whole, max_new_tokens=5, do_sample=False), expected)


def test_a_loop_of_ones_own_follows_a_schedule_and_begins_with_the_prompt(model):
    edit, network = Edit(some_bundle(model).edit.changes, placed("scheduled")), model.model
    prompt = torch.tensor(model.encode(TEXTS[:1]))

    def loop(ids, cache, n):
        tokens = []
        for _ in range(n):
            found = network(ids, past_key_values=cache, use_cache=True)
            ids, cache = found.logits[:, -1:].argmax(-1), found.past_key_values
            tokens.append(ids)
        return torch.cat(tokens, 1), cache

    with fasb.editing(model, edit, 8.0):
        expected = network.generate(prompt, max_new_tokens=6, do_sample=False)
        found, _ = loop(prompt, None, 6)
    assert torch.equal(
        found[:, : expected.shape[1] - prompt.shape[1]], expected[:, prompt.shape[1] :]
    )
    assert not torch.equal(found, loop(prompt, None, 6)[0])
    first, cache = loop(prompt, None, 1)
    line = r"^editing: the cache holds a prompt that was run before the block, .*in the block$"
    with fasb.editing(model, edit, 8.0), pytest.raises(ConfigError, match=line):
        loop(first, cache, 1)


def test_a_strength_under_which_logits_are_no_numbers_is_one_line(model):
    narrow = tiny_model(dtype="float32")
    edit = some_bundle(narrow).edit
    line = r"^LlamaForCausalLM: a logit is not finite in torch\.float32.*lower the strength"
    with fasb.editing(narrow, edit, 1e38), pytest.raises(ModelError, match=line):
        written(narrow)
    with fasb.editing(narrow, edit, 1e38), pytest.raises(ModelError, match=line):
        narrow.model(torch.tensor([[0, 20, 21]]))
    written(narrow)


def test_beams_and_samples_are_edited_too(model):
    edit = some_bundle(model).edit
    for how in ({"num_beams": 3}, {"do_sample": True}):
        torch.manual_seed(0)
        plain = written(model, **how)
        torch.manual_seed(0)
        with fasb.editing(model, edit, 8.0):
            assert not torch.equal(written(model, **how), plain)


def test_a_second_turn_behind_a_cache_edits_its_prompts_last_token_alone(model):
    """As the same conversation without a cache."""
    edit = some_bundle(model).edit
    first, second = (torch.tensor(model.encode([text])) for text in TEXTS[:2])
    network = model.model
    cache = network(first, use_cache=True).past_key_values
    with fasb.editing(model, edit, 8.0):
        behind = network(second, past_key_values=cache, use_cache=True).logits[0, -1]
    conversation = torch.cat([first, second], 1)
    with fasb.editing(model, edit, 8.0):
        whole = network(conversation, use_cache=True).logits[0, -1]
    torch.testing.assert_close(behind, whole, rtol=0, atol=1e-9)
    assert (whole - network(conversation).logits[0, -1]).abs().max() > 1e-3


def test_a_compiled_model_is_refused(model):
    """Hooks that are set after it has run never fire, and nothing would be steered."""
    compiled = torch.compile(model.model, backend="eager")
    edit = some_bundle(model).edit
    for around in (compiled, torch.nn.DataParallel(compiled)):
        refused = pytest.raises(ModelError, match=r"editing: a model compiled .*_orig_mod")
        with refused, fasb.editing(around, edit, 8.0):
            pass


def test_nothing_stays_behind_the_block_also_after_an_error(model):
    edit = some_bundle(model).edit
    text = model.encode(TEXTS[:1])[0]
    plain = logits_of(model, text)
    n_hooks = sum(len(part._forward_pre_hooks) for part in model.model.modules())
    with pytest.raises(KeyError), fasb.editing(model, edit, 8.0):
        raise KeyError
    assert torch.equal(logits_of(model, text), plain)
    assert "generate" not in vars(model.model)
    with fasb.editing(model, edit, 8.0):
        around = model.model.generate
        with fasb.editing(model, edit, 8.0):
            pass
        assert model.model.generate is around
    assert sum(len(part._forward_pre_hooks) for part in model.model.modules()) == n_hooks


def test_a_bundle_of_another_model_is_refused(model):
    other = tiny_model(seed=1)
    with (
        pytest.raises(BundleError, match="siblings"),
        fasb.editing(other.model, some_bundle(model)),
    ):
        pass
    with fasb.editing(other.model, some_bundle(model), siblings=True):
        pass


def test_a_bundle_that_was_switched_off_is_refused_unless_a_strength_is_given(model):
    off = some_bundle(model).with_policy(when="never")
    with pytest.raises(BundleError, match="switched off"), fasb.editing(model, off):
        pass
    with fasb.editing(model, off, strength=3):
        pass


def test_a_bundle_without_an_edit_is_refused(model):
    nothing = fasb.Bundle(fasb.Policy(when="never"))
    with pytest.raises(BundleError, match="it has no edit"), fasb.editing(model, nothing):
        pass
