"""Chat templates: what a conversation becomes, where its answer stands, and what is refused."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from steering import some_bundle
from tiny import tiny_model, tiny_questions
from tokenizers import AddedToken

import fasb
from fasb.data.prompts import choice_text, clean_answer, generation_prompt, probe_text
from fasb.decoding.decode import sweep
from fasb.decoding.score import encode_choices
from fasb.decoding.sequences import Ending
from fasb.errors import BundleError, ConfigError, DataError
from fasb.extensions import validated
from fasb.fitting.bank import texts_of
from fasb.fitting.reads import HEAD_READS
from fasb.model.chat import _folded, encode_prompts, render_of, settled
from fasb.model.load import wrap
from fasb.settings import PromptSettings, ScoringSettings
from fasb.steering.trace import LIMIT, Trace
from fasb.user.steering import cleaned_texts

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)
ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Smol.<|im_end|>\n"
    "{% endif %}" + CHATML
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set said = messages[1:] %}{% else %}{% set system = '' %}{% set said = messages %}"
    "{% endif %}{% for m in said %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
    "{{ '<s>[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}{{ ('<s>' if loop.first else '') + '<|head|>' + m['role'] + "
    "'<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<s>' }}" + REFUSES_SYSTEM + "{% for m in messages %}" + ALTERNATE + "{{ '<start_of_turn>' "
    "+ ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN_3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and "
    "loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
SMOL_3 = QWEN_3.replace("loop.last", "false")
R1 = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>\n{%")
DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
SPECIAL = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|head|>", "<|/head|>", "<|eot|>")
SPECIAL += ("<start_of_turn>", "<end_of_turn>")

ASKED = {
    "llama-2": "<s>[INST] Why? [/INST]",
    "llama-3": "<s><|head|>user<|/head|>\n\nWhy?<|eot|><|head|>assistant<|/head|>\n\n",
    "chatml": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "smol": "<|im_start|>system\nYou are Smol.<|im_end|>\n"
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<s><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "qwen-3": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
ASKED["smol-3"] = ASKED["qwen-3"]
"""What each template makes of a question."""
TEMPLATES = {
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "chatml": CHATML,
    "smol": SMOL,
    "gemma": GEMMA,
    "qwen-3": QWEN_3,
    "smol-3": SMOL_3,
}
LEAD = {"llama-2": " "}
"""What stands between a question and a given answer, beside what a model is asked with."""


@pytest.fixture(scope="module")
def plain():
    return tiny_model()


@pytest.fixture(scope="module")
def chatty():
    """A model whose tokenizer knows the special tokens of all templates."""
    model = tiny_model()
    tokens = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    model.tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    model.model.resize_token_embeddings(len(model.tokenizer), mean_resizing=False)
    return model


@pytest.fixture(params=list(TEMPLATES))
def model(request, chatty):
    """The model with one template after another."""
    chatty.tokenizer.chat_template = TEMPLATES[request.param]
    yield request.param, chatty
    chatty.tokenizer.chat_template = None


def chat(model, **settings):
    """The settings of a chat, as `fasb fit` settles them, and its renderer."""
    prompt = settled(model, PromptSettings(chat="auto", **settings))
    return prompt, render_of(model, prompt)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("chatml", "<|im_end|>"),
        ("qwen-3", "<|im_end|>"),
        ("llama-3", "<|eot|>"),
        ("gemma", "<end_of_turn>"),
        ("llama-2", "</s>"),
    ],
)
def test_an_answer_ends_with_its_turn_whatever_the_config_calls_the_end(chatty, name, end):
    chatty.tokenizer.chat_template = TEMPLATES[name]
    try:
        loaded = wrap(chatty.model, chatty.tokenizer)
    finally:
        chatty.tokenizer.chat_template = None
    token = chatty.tokenizer.convert_tokens_to_ids(end)
    assert loaded.eos == chatty.eos | {token}
    assert wrap(chatty.model, chatty.tokenizer).eos == chatty.eos


@pytest.mark.parametrize("fault", ["{{ 1 / 0 }}", "{{ range(10**9) }}", "{{ messages[9].x.y }}"])
def test_a_template_that_fails_stops_no_plain_prompt_and_is_one_line_in_a_chat(chatty, fault):
    chatty.tokenizer.chat_template = fault
    try:
        loaded = wrap(chatty.model, chatty.tokenizer)
        assert loaded.eos == chatty.eos
        encode_prompts(loaded, PromptSettings(), ["Why?"])
        with pytest.raises(ConfigError, match="the chat template of .* refuses the conversation"):
            encode_prompts(loaded, PromptSettings(chat="on"), ["Why?"])
    finally:
        chatty.tokenizer.chat_template = None


def test_a_prompt_without_any_token_is_refused(chatty, monkeypatch):
    """A tokenizer without BOS, and nothing asked."""
    monkeypatch.setattr("fasb.model.load.LoadedModel.encode", lambda *_, **__: [[5], []])
    with pytest.raises(DataError, match="question 2: it and its prompt have no token"):
        encode_prompts(chatty, PromptSettings(), ["Why?", ""])


def test_a_stop_string_that_is_a_special_token_ends_an_answer(chatty):
    """Texts of answers have no special tokens, so it would never be found there."""
    loaded = wrap(chatty.model, chatty.tokenizer)
    token = chatty.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ending = Ending.of(loaded, ("<|im_end|>", "no"))
    assert ending.eos[token]
    assert not Ending.of(loaded, ("no",)).eos[token]


def test_a_question_becomes_a_users_turn(model):
    name, model = model
    prompt, render = chat(model)
    assert prompt.chat == "on"
    assert generation_prompt(prompt, "Why?", render) == ASKED[name]


def test_special_tokens_stand_exactly_once(model):
    name, model = model
    prompt, _ = chat(model)
    tokens = encode_prompts(model, prompt, ["Why?"])[0]
    assert model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == ASKED[name]
    assert tokens.count(model.tokenizer.bos_token_id) == ASKED[name].count("<s>")


def test_the_scored_span_is_the_answer_within_the_assistants_turn(model):
    name, model = model
    prompt, render = chat(model)
    # a text that the template itself holds is no trap
    for answer in ("No reason.", "user", "end", "im"):
        given = choice_text(prompt, "Why?", answer, render)
        assert given.text == ASKED[name] + LEAD.get(name, "") + answer
        assert given.text[given.start : given.end] == answer
        (choice,) = encode_choices(model, prompt, ScoringSettings(), [("Why?", answer)])
        scored = model.decode(choice.tokens[choice.scored_start :])
        assert scored.strip() == answer
        assert choice.first_state == choice.scored_start - 1


def test_probes_read_the_end_of_the_answer_and_sigma_that_of_the_next_question(model):
    _, model = model
    prompt, render = chat(model)
    given = choice_text(prompt, "Why?", "No.", render)
    assert probe_text(prompt, "Why?", "No.", render=render) == given.text
    behind = probe_text(prompt, "Why?", "No.", "Who?", render)
    full = [("user", "Why?"), ("assistant", "No."), ("user", "Who?")]
    messages = [{"role": role, "content": content} for role, content in full]
    assert render(messages, True).startswith(behind)
    assert behind.endswith("Who?")


def test_system_message_and_earlier_turns_stand_before_the_question(model):
    name, model = model
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]
    prompt, render = chat(model, system="Be kind.", turns=turns)
    text = generation_prompt(prompt, "Why?", render)
    places = [text.index(part) for part in ("Be kind.", "Hi?", "Ho.", "Why?")]
    assert places == sorted(places)
    if name == "gemma":  # which refuses a system message
        assert "<start_of_turn>user\nBe kind.\n\nHi?<end_of_turn>" in text


def test_a_conversation_is_asked_as_it_is(model):
    _, model = model
    prompt, render = chat(model, system="Be kind.")
    said = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Ho."},
        {"role": "user", "content": "Why?"},
    ]
    text = generation_prompt(prompt, said, render)
    assert "Be short." in text
    assert "Be kind." not in text
    assert text.index("Ho.") < text.index("Why?")


def test_banks_hold_the_templates_texts(model):
    _, model = model
    prompt, render = chat(model)
    for read in HEAD_READS:
        texts = texts_of(tiny_questions(), read, prompt, render=render)
        assert texts.rendered
        assert all("Q:" not in text for text in texts.text)
    assert not texts_of(tiny_questions(), HEAD_READS[0], PromptSettings()).rendered


def test_auto_is_plain_text_without_a_template(plain):
    prompt, render = chat(plain)
    assert (prompt.chat, render) == ("off", None)
    assert encode_prompts(plain, prompt, ["Why?"]) == plain.encode(["Q: Why?\nA:"])


def test_on_without_a_template_is_one_line(plain):
    for asked in (
        lambda prompt: settled(plain, prompt),
        lambda prompt: encode_prompts(plain, prompt, ["Why?"]),
    ):
        with pytest.raises(ConfigError, match=r"has no chat template; set it to off") as caught:
            asked(PromptSettings(chat="on"))
        assert "\n" not in str(caught.value)


def test_another_template_than_the_bundles_is_refused(chatty):
    chatty.tokenizer.chat_template = CHATML
    prompt, _ = chat(chatty)
    chatty.tokenizer.chat_template = SMOL
    with pytest.raises(BundleError, match=r"is not the one that the bundle was fitted with"):
        render_of(chatty, prompt)


def test_what_a_template_refuses_is_one_line(chatty):
    chatty.tokenizer.chat_template = GEMMA
    prompt, render = chat(chatty)
    said = [{"role": "user", "content": "Hi?"}, {"role": "user", "content": "Why?"}]
    with pytest.raises(ConfigError, match=r"refuses the conversation \(Roles must alternate\)"):
        generation_prompt(prompt, said, render)


def test_answers_depend_on_no_day(chatty):
    chatty.tokenizer.chat_template = DATED
    prompt, render = chat(chatty)
    assert generation_prompt(prompt, "Why?", render).startswith("26 Jul 2024\n")


def test_a_thought_that_the_template_begins_is_no_answer(chatty):
    chatty.tokenizer.chat_template = R1
    prompt, _ = chat(chatty)
    assert prompt.thinks
    assert clean_answer("It may be so.\n</think>\n\nYes.", prompt) == "Yes."
    assert clean_answer("It may be so, or", prompt) == ""


def test_a_tracker_sees_a_thought_and_the_answer_is_what_stands_behind_it(chatty):
    chatty.tokenizer.chat_template = R1
    prompt, _ = chat(chatty)
    bundle = replace(some_bundle(chatty, s=2, beta=0.0), prompt=prompt)
    prompts = encode_prompts(chatty, prompt, ["Why?", "Why?"])
    thought = chatty.encode(["It may be so."], special=False)[0]
    whole = chatty.encode(["It may be so.</think>Yes."], special=False)[0]
    trace = Trace.of([thought, whole], [LIMIT, LIMIT])
    (answers,) = sweep(chatty, prompts, trace, [bundle])
    # p is there for every state, those of the thought too, and the first check may be within it
    assert np.isfinite(answers.before.p[0, : len(thought) + 1]).all()
    assert answers.decision.fired.all()
    assert answers.decision.fired_at[1] < len(thought)
    assert answers.decision.kept[1] < len(thought)
    assert cleaned_texts(chatty, bundle, trace.rows()) == ["", "Yes."]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nLet me see.\n\nQ: is it?\n</think>\n\nYes.", "Yes."),
        ("<think>\nLet me see, it is", ""),
        ("<think></think>Yes.", "Yes."),
        ("I think so.", "I think so."),
    ],
)
def test_thoughts_are_cut(text, answer):
    assert clean_answer(text, PromptSettings()) == answer
    assert clean_answer(text, PromptSettings(chat="on")) == answer


def test_a_chats_answer_may_have_paragraphs_and_marks():
    text = "First.\n\nQ: is no question here.\nA: neither."
    assert clean_answer(text, PromptSettings(chat="on")) == text
    assert clean_answer(text, PromptSettings(chat="on", stop=("\n\n",))) == "First."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chat": "on", "prefix": "Say."}, "prefix is not used where chat is on"),
        ({"chat": "on", "probe": "{answer}"}, "probe is not used where chat is on"),
        ({"system": "Say."}, "system is not used where chat is off"),
        ({"chat": "off", "thinks": True}, "thinks is not used where chat is off"),
        ({"chat": "on", "turns": [{"role": "user", "content": "a"}]}, "turns are of user and"),
        ({"chat": "perhaps"}, "prompt.chat"),
    ],
)
def test_settings_of_the_other_kind_of_prompt_are_refused(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        validated(PromptSettings, given, "prompt")
    assert "\n" not in str(caught.value)


def test_yaml_may_say_on_and_off_bare():
    assert validated(PromptSettings, {"chat": True}, "prompt").chat == "on"
    assert validated(PromptSettings, {"chat": False}, "prompt").chat == "off"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the last one is the user's"),
        ([{"role": "assistant", "content": "Ho."}], "the last one is the user's"),
        ([{"role": "user"}], r"messages.0: .* is no message"),
        ([{"role": "user", "content": None}], r"messages.0: .* is no message"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], r"1.role: 'tool'"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], r"1.role"),
    ],
)
def test_what_is_no_conversation_is_one_line(messages, message):
    render = lambda said, opened: ""  # noqa: E731 - never called
    with pytest.raises(DataError, match=message):
        generation_prompt(PromptSettings(chat="on"), messages, render)


REAL = Path(os.environ.get("FASB_SMOLLM2", Path(__file__).parents[1] / "models" / "smollm2"))


@pytest.mark.realmodel
@pytest.mark.skipif(
    not (REAL / "config.json").is_file(),
    reason="no smollm2: run 'fasb get smollm2', or set FASB_SMOLLM2",
)
def test_the_demonstration_model_answers_in_its_own_prompt():
    model = fasb.load(REAL)
    prompt, _ = chat(model)
    bundle = replace(some_bundle(model), prompt=prompt, policy=fasb.Policy(when="never"))
    bundle = replace(bundle, edit=None, tracker=None)
    (answer,) = fasb.steer(model, bundle, ["What is the capital of France?"])
    assert answer.text == "The capital of France is Paris."
    tokens = encode_prompts(model, prompt, ["Hi"])[0]
    assert tokens.count(model.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3


def test_a_system_message_that_a_template_refuses_goes_to_the_first_users_turn():
    said = [("system", "Be kind."), ("assistant", "Hello"), ("user", "Why?"), ("user", "Who?")]
    folded = _folded([{"role": role, "content": content} for role, content in said])
    assert [(one["role"], one["content"]) for one in folded] == [
        ("assistant", "Hello"),
        ("user", "Be kind.\n\nWhy?"),
        ("user", "Who?"),
    ]
