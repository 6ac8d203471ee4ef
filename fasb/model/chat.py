"""A model's own prompt: its tokenizer's chat template (docs/method.md D1 to D6).

In: prompt settings and a loaded model. Out: how conversations are written (`Render`), and prompts
as token ids. The template alone says where special tokens stand, so none is added to its texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fasb.data.prompts import Asked, Messages, Render, generation_prompt
from fasb.errors import BundleError, ConfigError, DataError, first_line
from fasb.extensions import validated
from fasb.model.load import LoadedModel
from fasb.provenance import content_hash
from fasb.settings import PromptSettings

# the empty text behind it: templates trim a line break that follows a block
TODAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"
"""The date for templates that write one into the prompt (D4): answers depend on no day."""
# private characters, so that what is found in a prompt is this and no word of the template
SYSTEM, USER = "\uf8f0system\uf8f1", "\uf8f0user\uf8f1"


def settled(model: LoadedModel, prompt: PromptSettings) -> PromptSettings:
    """Return the settings with `chat` on or off, and what a chat has to know of its template.

    Raises:
        ConfigError: on, but there is no template; or a key that is not used then.
    """
    template = template_of(model)
    chat = prompt.chat
    if chat == "auto":
        chat = "on" if template else "off"
    # only what was set: a default of plain text would take the place of a chat's own
    given = {**prompt.model_dump(exclude_unset=True), "chat": chat}
    if chat == "off":
        return validated(PromptSettings, given, "prompt")
    own = validated(PromptSettings, {**given, "template": content_hash(template)}, "prompt")
    opened = generation_prompt(own, "Why?", render_of(model, own))
    return own.model_copy(update={"thinks": opened.rstrip().endswith("<think>")})


def template_of(model: LoadedModel) -> Any:
    """Return the tokenizer's chat template or templates; None where it has none."""
    return getattr(model.tokenizer, "chat_template", None) or None


def render_of(model: LoadedModel, prompt: PromptSettings) -> Render | None:
    """Return how conversations are written; None where the prompt is plain text.

    Raises:
        ConfigError: a chat, but the tokenizer has no template.
        BundleError: its template is not the bundle's.
    """
    name, template = model.settings.path, template_of(model)
    if prompt.chat == "auto":
        raise ConfigError("prompt.chat: auto, which only 'fasb fit' decides; set it to on or off")
    if prompt.chat == "off":
        return None
    if template is None:
        raise ConfigError(
            f"prompt.chat: on, but the tokenizer of {name} has no chat template; set it to off"
        )
    if prompt.template not in ("", content_hash(template)):
        raise BundleError(
            f"prompt.template: the chat template of {name} is not the one that the bundle was "
            "fitted with; fit one for it"
        )
    return renderer(model.tokenizer, name)


def renderer(tokenizer: Any, name: str) -> Render:
    """Return how a tokenizer's template writes conversations.

    A template without a place for a system message gets it at the beginning of the user's first
    turn (D3). Where a template has a switch for thoughts, they are off (D5).
    """

    def written(messages: Messages, opened: bool) -> str:
        template = tokenizer.get_chat_template()
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=TODAY + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=opened,
                enable_thinking=False,  # ignored by templates without it
            )
        )

    def takes_system() -> bool:
        one = {"role": "system", "content": SYSTEM}
        try:
            return SYSTEM in written([one, {"role": "user", "content": USER}], True)
        except Exception:  # a template is somebody's program
            return False

    folds = not takes_system()

    def render(messages: Messages, opened: bool) -> str:
        try:
            return written(_folded(messages) if folds else messages, opened)
        except Exception as error:  # a template is somebody's program
            reason = first_line(error)
            raise ConfigError(
                f"prompt.chat: the chat template of {name} refuses the conversation ({reason}); "
                "change its turns, or set chat to off"
            ) from None

    return render


def encode_prompts(
    model: LoadedModel, prompt: PromptSettings, questions: Sequence[Asked]
) -> list[list[int]]:
    """Return questions, or conversations, as the prompt puts them, as token ids.

    Raises:
        ConfigError: a chat, but the tokenizer has no template, or another.
        DataError: messages that are no conversation, or one that a plain prompt has no place for;
            or no token at all.
    """
    render = render_of(model, prompt)
    texts = [generation_prompt(prompt, question, render) for question in questions]
    encoded = model.encode(texts, special=render is None)
    if not all(encoded):
        raise DataError(
            f"question {encoded.index([]) + 1}: it and its prompt have no token; ask something, or "
            "set prompt.question or prompt.open"
        )
    return encoded


def _folded(messages: Messages) -> list[Mapping[str, str]]:
    """Return the messages with the system's at the beginning of the first user's."""
    if messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    i = next(i for i, message in enumerate(rest) if message["role"] == "user")
    joined = f"{system['content']}\n\n{rest[i]['content']}"
    return [*rest[:i], {"role": "user", "content": joined}, *rest[i + 1 :]]
