"""Prompts: the texts a model is given, and the answer within the text it writes.

In: a question's text, perhaps an answer, and the prompt settings. Out: text. Knows no tokens and no
model.
"""

from dataclasses import dataclass

from fasb.errors import ConfigError
from fasb.settings import PromptSettings


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


def generation_prompt(prompt: PromptSettings, question: str) -> str:
    """What the model is given to answer a question (docs/method.md Q4)."""
    return prompt.prefix + fill("prompt.question", prompt.question, question=question) + prompt.open


def choice_text(prompt: PromptSettings, question: str, answer: str) -> ChoiceText:
    """What the model is given to score an answer.

    Raises:
        ConfigError: the template has no place for the answer.
    """
    before = prompt.prefix + fill("prompt.question", prompt.question, question=question)
    lead, place, _ = prompt.answer.partition("{answer}")
    if not place:
        raise ConfigError(
            f"prompt.answer: {prompt.answer!r} has no place for the answer; put {{answer}} into it"
        )
    start = len(before) + len(fill("prompt.answer", lead))
    return ChoiceText(
        before + fill("prompt.answer", prompt.answer, answer=answer),
        start=start,
        end=start + len(answer),
        before=before,
    )


def clean_answer(text: str, prompt: PromptSettings) -> str:
    """The answer within a generated text: cut at the first stop string, then as docs/method.md Q6 says.

    Q6 takes what stands between the first and the second answer mark, before the next question
    mark. Where the prompt itself ends with the mark, the answer begins at once; without any mark
    the whole text is the answer.
    """
    text = text.strip()
    for stop in (*prompt.stop, prompt.question_mark):
        if stop:
            text = text.partition(stop)[0]
    mark = prompt.answer_mark
    if mark and mark in prompt.open:
        text = mark + text
    if mark and mark in text:
        text = text.split(mark)[1]
    return text.strip()


def fill(key: str, template: str, **values: str) -> str:
    """The template with its places filled in.

    Raises:
        ConfigError: it has another place; `key` is named.
    """
    try:
        return template.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values) or "none"
        raise ConfigError(
            f"{key}: {template!r} cannot be filled in ({error}); places: {known}, and write other braces twice"
        ) from None
