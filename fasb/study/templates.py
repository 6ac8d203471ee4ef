"""What a chat template writes around a question, for `fasb plan`: rendered without torch.

In: a model's entry, prompt settings. Out: tokens before a question and behind it. Nothing is
downloaded: where no template is at hand, `MESSAGE` tokens stand for what it writes around a
message.
"""

import contextlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.data.prompts import conversation
from fasb.settings import PromptSettings
from fasb.study.entries import ModelEntry
from fasb.textfiles import UNREADABLE

CHARACTERS = 4
"""Characters of a token: a usual figure for English, so that nothing has to be downloaded."""
MESSAGE = 5
"""Tokens around a message where the template is not known: as many as ChatML's and Llama 3's."""
SPECIAL = re.compile(r"<\|[^<>|]*\|>|</?[a-z_]+>|\[/?[A-Z]+\]")
"""What templates write as one token, whatever its length."""
QUESTION = "\uf8f0question\uf8f1"


@dataclass(frozen=True, slots=True)
class Around:
    """Tokens before a question, equal for all, and behind it up to where the answer begins.

    known: whether the template was at hand.
    """

    before: int
    behind: int
    known: bool


def tokens_of(characters: int) -> int:
    """Return how many tokens so many characters are reckoned as."""
    return math.ceil(characters / CHARACTERS)


def around(entry: ModelEntry, prompt: PromptSettings) -> Around:
    """Return what the model's chat template writes around a question under these settings."""
    messages = [dict(message) for message in conversation(prompt, QUESTION)]
    written = _rendered(template_at_hand(entry), messages)
    if written is None:
        said = sum(tokens_of(len(message["content"])) + MESSAGE for message in messages[:-1])
        return Around(said, 2 * MESSAGE, False)  # the question's own, and the answer's beginning
    before, _, behind = written.rpartition(QUESTION)
    return Around(_counted(before), _counted(behind), True)


def template_at_hand(entry: ModelEntry) -> str | None:
    """Return the template in the model's folder or in the hub's cache, None where there is none."""
    with contextlib.suppress(OSError, *UNREADABLE):
        if file := _file(entry, "chat_template.jinja"):
            return file.read_text(encoding="utf-8")
        if file := _file(entry, "tokenizer_config.json"):
            options = json.loads(file.read_text(encoding="utf-8"))
            found = options.get("chat_template") if isinstance(options, dict) else None
            # several, by name
            for one in found if isinstance(found, list) else ():
                if isinstance(one, dict) and one.get("name") == "default":
                    found = one.get("template")
            return found if isinstance(found, str) else None
    return None


def _file(entry: ModelEntry, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    path = entry.tokenizer or entry.path
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    revision = None if entry.tokenizer else entry.revision
    found = try_to_load_from_cache(path, name, revision=revision)
    # of a file that is known not to exist the cache says so, by an object of its own
    return Path(found) if isinstance(found, str) else None


def _rendered(template: str | None, messages: list[dict[str, str]]) -> str | None:
    """Return the conversation up to where the answer begins; None where that cannot be said."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if template is None:
        return None

    def refuse(reason: str) -> Any:
        raise TemplateError(reason)

    blocks = {"trim_blocks": True, "lstrip_blocks": True}  # as the transformers library has it
    # a template is a stranger's program
    known = ImmutableSandboxedEnvironment(**blocks, extensions=["jinja2.ext.loopcontrols"])
    # the date is that of D4
    known.globals.update(raise_exception=refuse, strftime_now=lambda _: "26 Jul 2024")
    own = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}
    try:
        text = known.from_string(template).render(
            messages=messages, add_generation_prompt=True, **own
        )
    except Exception:  # a template is somebody's program
        return None
    return text if QUESTION in text else None


def _counted(text: str) -> int:
    rest, n_special = SPECIAL.subn("", text)
    return n_special + tokens_of(len(rest))
