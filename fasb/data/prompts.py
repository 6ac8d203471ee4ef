"""Prompts: the texts a model is given, and the answer within the text it writes.

In: a question's text, perhaps an answer, and the prompt settings. Out: text. Knows no tokens and no
model.
"""

import re
from dataclasses import dataclass

from fasb.errors import ConfigError
from fasb.settings import PromptSettings, template_places


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
    """Return what the model is given to answer a question (docs/method.md Q4)."""
    return prompt.prefix + fill("prompt.question", prompt.question, question=question) + prompt.open


def choice_text(prompt: PromptSettings, question: str, answer: str) -> ChoiceText:
    """Return what the model is given to score an answer."""
    before = prompt.prefix + fill("prompt.question", prompt.question, question=question)
    lead = prompt.answer.partition("{answer}")[0]
    start = len(before) + len(fill("prompt.answer", lead))
    return ChoiceText(
        before + fill("prompt.answer", prompt.answer, answer=answer),
        start=start,
        end=start + len(answer),
        before=before,
    )


def clean_answer(text: str, prompt: PromptSettings) -> str:
    """Return the answer within a generated text (docs/method.md Q6).

    The text is cut at the first stop string and the first question mark. What stands between the
    first answer mark and the next is the answer; where the prompt itself ends with the mark, the
    answer begins at once, and a mark that the model repeats is passed over; without any mark the
    whole text is the answer. Marks count where a line begins: "DNA: deoxyribonucleic acid" is one
    answer. With `marks: anywhere` they count within words too, as in the released program.
    """
    text = text.strip()
    for stop in prompt.stop:
        text = text.partition(stop)[0]
    text = _split(text, prompt.question_mark, prompt.marks)[0]
    parts = _split(text, prompt.answer_mark, prompt.marks)
    begun = bool(prompt.answer_mark) and prompt.answer_mark in prompt.open
    if not begun and len(parts) > 1:
        parts = parts[1:]
    if prompt.marks == "anywhere":
        return parts[0].strip()
    return next((part.strip() for part in parts if part.strip()), "")


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
