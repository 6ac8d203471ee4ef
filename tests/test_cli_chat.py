"""`fasb chat`: what is said, what is part of the conversation, and how it ends."""

import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from steering import some_bundle
from tiny import tiny_model

import fasb.user.steering
from fasb.cli import group
from fasb.errors import ModelError
from fasb.model.chat import settled
from fasb.settings import PromptSettings

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with a chat template, and bundles of a chat and of a plain prompt."""
    folder = tmp_path_factory.mktemp("chat")
    model = tiny_model(dtype="float32")
    model.tokenizer.chat_template = TEMPLATE
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    bundle = some_bundle(model, tokens=5)
    bundle = replace(bundle, fingerprint=model.fingerprint)
    bundle.save(folder / "plain.bundle")
    replace(bundle, prompt=settled(model, PromptSettings(chat="on"))).save(folder / "my.bundle")
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What the model was asked: the messages before each answer."""
    found, real = [], fasb.user.steering.prompts_of

    def prompts_of(model, bundle, questions):
        found.append([dict(message) for message in questions[0]])
        return real(model, bundle, questions)

    monkeypatch.setattr(fasb.user.steering, "prompts_of", prompts_of)
    return found


def chat(folder, said, bundle="my.bundle"):
    """What `fasb chat` prints when `said` is typed."""
    arguments = ["chat", "--model", str(folder / "model"), "--bundle", str(folder / bundle)]
    found = CliRunner().invoke(group, arguments, input=said, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


def test_answers_are_part_of_what_follows(folder, asked):
    found = chat(folder, "Why?\n\n  How?  \n/quit\nNot asked.\n")
    assert [message["content"] for message in asked[0]] == ["Why?"]
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][-1]["content"] == "How?"
    assert len(asked) == 2
    assert "steered" in found.stdout


def test_the_end_of_the_input_ends_the_conversation(folder, asked):
    assert chat(folder, "").stdout == ""
    chat(folder, "Why?")  # the last line may lack its end
    assert len(asked) == 1


def test_an_answer_that_is_stopped_is_forgotten(folder, asked, monkeypatch):
    import fasb.decoding.stream

    real, calls = fasb.decoding.stream.stream, []

    def stream(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(fasb.decoding.stream, "stream", stream)
    found = chat(folder, "Why?\nHow?\n")
    assert "stopped, and forgotten" in found.stderr
    assert [[message["content"] for message in one] for one in asked] == [["Why?"], ["How?"]]


def test_a_plain_prompt_asks_every_question_by_itself(folder, asked):
    found = chat(folder, "Why?\nHow?\n", "plain.bundle")
    assert "every question stands alone" in found.stderr
    assert [len(one) for one in asked] == [1, 1]


def test_no_input_at_all_is_the_end_too(folder):
    code = "import sys; sys.stdin = None; from fasb.cli.chat import _question; print(_question())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "None\n"


@pytest.fixture
def short(monkeypatch):
    """A context of 60 tokens."""
    room = fasb.user.steering.LoadedModel.check_room

    def check_room(model, rows, more, batch):
        if max(map(len, rows)) > 60:
            raise ModelError("the context is full")
        room(model, rows, more, batch)

    monkeypatch.setattr(fasb.user.steering.LoadedModel, "check_room", check_room)


def test_a_full_context_forgets_what_was_said_and_goes_on(folder, asked, short):
    found = chat(folder, "Why is the sky blue?\nHow long is a river of blue water?\nWhen?\n")
    assert "the context is full; what was said before is forgotten" in found.stderr
    assert len(asked[-1]) < 5
    assert asked[-1][-1] == {"role": "user", "content": "When?"}


def test_a_line_longer_than_the_context_is_forgotten_and_the_next_is_answered(folder, asked, short):
    found = chat(folder, f"{'Why is the sky blue? ' * 20}\nWhen?\n")
    assert "the context is full; this line is forgotten" in found.stderr
    assert [one[-1]["content"] for one in asked][-1] == "When?"
    assert len(asked[-1]) == 1
