"""Prompts: the texts a model is given, and the answer within the text it writes.

In: a question's text or a conversation, perhaps an answer, and the prompt settings; for a chat also
`render`, which writes a conversation as the model's own template does (`fasb/model/chat.py`). Out:
text. Knows no tokens and no model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fasb.errors import ConfigError, DataError
from fasb.settings import PromptSettings, template_places

Messages = Sequence[Mapping[str, str]]
"""A conversation: who (`role`) said what (`content`)."""
Asked = str | Messages
"""A question, or a conversation that ends with one."""
Render = Callable[[Messages, bool], str]
"""Writes a conversation as text; with True, up to where the assistant's next turn begins."""
ANSWER, NEXT = "\uf8f0answer\uf8f1", "\uf8f0next\uf8f1"
"""Stand in a conversation for what is put there later: no template and no text has these."""


@dataclass(frozen=True, slots=True)
class ChoiceText:
    """A question with one of its answers, for scoring: `text[start:end]` is the answer.

    `before` is the same prompt without the answer and what introduces it (its tokens are L in
    docs/method.md M1).
    """

    text: str
    start: int
    end: int
    before: str


def instructed(prompt: PromptSettings, instruction: str | None) -> PromptSettings:
    """Return the prompt with an instruction in place of its own, examples included (C12).

    It is the system message of a chat, and stands before the question of a plain prompt; None
    leaves the prompt as it is.
    """
    if instruction is None:
        return prompt
    if prompt.chat == "on":
        return prompt.model_copy(update={"system": instruction})
    prefix = f"{instruction}\n\n" if instruction else ""
    return prompt.model_copy(update={"prefix": prefix})


def generation_prompt(prompt: PromptSettings, question: Asked, render: Render | None = None) -> str:
    """Return what the model is given to answer a question (docs/method.md Q4, D1)."""
    if render is not None:
        return render(conversation(prompt, question), True)
    question = plain_question(question)
    return prompt.prefix + fill("prompt.question", prompt.question, question=question) + prompt.open


def choice_text(
    prompt: PromptSettings, question: Asked, answer: str, render: Render | None = None
) -> ChoiceText:
    """Return what the model is given to score an answer."""
    if render is not None:
        before = render(conversation(prompt, question), True)
        begun = _answered(prompt, question, "", render)
        return ChoiceText(begun + answer, len(begun), len(begun + answer), before)
    question = plain_question(question)
    before = prompt.prefix + fill("prompt.question", prompt.question, question=question)
    # filled in before it is measured: a brace that is written twice is one character
    lead = prompt.answer.partition("{answer}")[0]
    start = len(before) + len(fill("prompt.answer", lead))
    return ChoiceText(
        before + fill("prompt.answer", prompt.answer, answer=answer),
        start=start,
        end=start + len(answer),
        before=before,
    )


def answer_tokens(
    choice: ChoiceText, offsets: Sequence[tuple[int, int]], rendered: bool
) -> list[int]:
    """Return which tokens of `choice.text` are the answer's: those that hold a character of it.

    And the space before it where that is a token of its own: the model has to write it, behind
    "A:" (M3). rendered: by a chat template, which writes what stands before an answer itself.
    """
    inside = [i for i, (a, b) in enumerate(offsets) if b > choice.start and a < choice.end]
    if inside and not rendered and inside[0]:
        before = inside[0] - 1
        if choice.text[slice(*offsets[before])] == " ":
            inside.insert(0, before)
    return inside


def probe_text(
    prompt: PromptSettings,
    question: str,
    answer: str,
    following: str | None = None,
    render: Render | None = None,
) -> str:
    """Return a text whose last token is read: an answer's, or that of a question behind it.

    docs/method.md A3, A4, D2.
    """
    if render is not None and following is not None:
        # the text ends with the question, not with what the template puts behind a turn (A4, D2)
        answered = {"role": "assistant", "content": ANSWER}
        text = render([*conversation(prompt, question), answered, *_asked(NEXT)], False)
        return _before(text, NEXT).replace(ANSWER, answer) + following
    if render is not None:
        return _answered(prompt, question, answer, render)
    text = fill("prompt.probe", prompt.probe, question=question, answer=answer)
    if following is None:
        return text
    return text + fill("prompt.next_question", prompt.next_question, next=following)


def conversation(prompt: PromptSettings, question: Asked) -> list[Mapping[str, str]]:
    """Return the messages of a question: system message, earlier turns, the question.

    A system message of the conversation itself takes the place of the prompt's.

    Raises:
        DataError: messages that are no conversation, or that do not end with the user's.
    """
    said: Messages = _asked(question) if isinstance(question, str) else question
    check_messages(said)
    system: Messages = []
    if said[0]["role"] == "system":
        system, said = said[:1], said[1:]
    elif prompt.system:
        system = [{"role": "system", "content": prompt.system}]
    return [*system, *(turn.model_dump() for turn in prompt.turns), *said]


def check_messages(messages: Messages) -> None:
    """Refuse what is no conversation that ends with a question.

    Raises:
        DataError: naming the first message that is wrong.
    """
    for i, message in enumerate(messages):
        known = isinstance(message, Mapping) and set(message) == {"role", "content"}
        if not known or not all(isinstance(value, str) for value in message.values()):
            raise DataError(
                f"messages.{i}: {str(message)[:80]!r} is no message; give "
                '{"role": …, "content": …}, both text'
            )
        allowed = ("user", "assistant") if i else ("system", "user", "assistant")
        if message["role"] not in allowed:
            raise DataError(
                f"messages.{i}.role: {message['role']!r}, but it is one of {', '.join(allowed)}"
            )
    if not messages or messages[-1]["role"] != "user":
        raise DataError("messages: the last one is the user's; give the question that is answered")


def plain_question(question: Asked) -> str:
    """Return a question's text, of a conversation that is nothing but the question.

    Raises:
        DataError: there is more, which a plain prompt has no place for.
    """
    if isinstance(question, str):
        return question
    check_messages(question)
    if len(question) > 1:
        raise DataError(
            f"messages: {len(question)} of them, but the prompt is plain text, which has a place "
            "for one question; fit a bundle with prompt.chat on"
        )
    return question[0]["content"]


def _asked(question: str) -> Messages:
    return [{"role": "user", "content": question}]


def _answered(prompt: PromptSettings, question: Asked, answer: str, render: Render) -> str:
    """Return a conversation up to the end of an answer.

    The template is given a stand-in, so that it is found again: it may also occur elsewhere.
    """
    opened = render(conversation(prompt, question), True)
    if opened.rstrip().endswith("</think>"):
        # some templates leave out of a turn that was said what they begin it with
        return opened + answer
    answered = {"role": "assistant", "content": ANSWER}
    text = render([*conversation(prompt, question), answered], False)
    return _before(text, ANSWER) + answer


def _before(text: str, place: str) -> str:
    before, found, _ = text.rpartition(place)
    if not found:
        raise ConfigError(
            "prompt.chat: the chat template does not show what is said; set it to off"
        )
    return before


def clean_answer(text: str, prompt: PromptSettings) -> str:
    """Return the answer within a generated text (docs/method.md Q6).

    The text is cut at the first stop string and the first question mark. What stands between the
    first answer mark and the next is the answer; where the prompt itself ends with the mark, the
    answer begins at once, and a mark that the model repeats is passed over; without any mark the
    whole text is the answer. Marks count where a line begins: "DNA: deoxyribonucleic acid" is one
    answer. With `marks: anywhere` they count within words too, as in the released program. A
    thought, and one that does not end, is no part of the answer (D5).
    """
    text = _without_thought(text, prompt).strip()
    # one after the other, which leaves what stands before the earliest of them
    for stop in prompt.stop:
        text = text.partition(stop)[0]
    text = _split(text, prompt.question_mark, prompt.marks)[0]
    parts = _split(text, prompt.answer_mark, prompt.marks)
    begun = bool(prompt.answer_mark) and prompt.answer_mark in prompt.open
    if not begun and len(parts) > 1:
        parts = parts[1:]
    # the released program takes the first part, empty or not (Q6)
    if prompt.marks == "anywhere":
        return parts[0].strip()
    return next((part.strip() for part in parts if part.strip()), "")


def unended_thought(text: str, prompt: PromptSettings) -> bool:
    """Whether a generated text is a thought that does not end, and so holds no answer (D5)."""
    return "</think>" not in text and (prompt.thinks or "<think>" in text)


def _without_thought(text: str, prompt: PromptSettings) -> str:
    return "" if unended_thought(text, prompt) else text.rpartition("</think>")[2]


def _split(text: str, mark: str, marks: str) -> list[str]:
    """Return what stands between the marks that count."""
    if not mark:
        return [text]
    if marks == "anywhere":
        return text.split(mark)
    return re.split(rf"^[ \t]*{re.escape(mark)}", text, flags=re.MULTILINE)


def fill(key: str, template: str, **values: str) -> str:
    """Return the template with its places filled in; only plain places are taken.

    Raises:
        ConfigError: it has another place; `key` is named.
    """
    known = ", ".join(f"{{{name}}}" for name in values) or "none"
    try:
        parts = template_places(template)
        return "".join(text + (values[name] if name else "") for text, name in parts)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{key}: {template[:200]!r} cannot be filled in ({error}); places: {known}, and write "
            "other braces twice"
        ) from None
