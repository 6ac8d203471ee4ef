"""Ends: which tokens end a text, by all that a checkpoint and its tokenizer say.

In: a model and its tokenizer. Out: token ids. Knows no prompt and no answer.
"""

from operator import index
from typing import Any

from fasb.data.prompts import ANSWER
from fasb.errors import ModelError


def ends_of(model: Any, config: Any, tokenizer: Any, name: str) -> frozenset[int]:
    """Return all ids that end a text, by generation config, config, tokenizer or chat template.

    Raises:
        ModelError: one of them gives what is no id; `name` is the model's.
    """
    ends = _turn_ends(tokenizer)
    sources = {
        "generation_config": getattr(model, "generation_config", None),
        "config": config,
        "tokenizer": tokenizer,
    }
    for kind, source in sources.items():
        given = getattr(source, "eos_token_id", None)
        try:
            ends.update(_ids(given))
        except TypeError:
            raise ModelError(
                f"{name}: eos_token_id of its {kind} is {given!r}, no id of a token and no list of "
                "some; correct it"
            ) from None
    return frozenset(ends)


def _turn_ends(tokenizer: Any) -> set[int]:
    """Return the token of its own that a chat template puts behind an answer, if it does (D6).

    Base models that ship a template often name another token as their end, and would run on into
    the next turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        return set()
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # a template is somebody's program
        return set()  # what is wrong with it is said where a chat is asked for
    _, found, behind = text.rpartition(ANSWER)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    own = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return {token for token in ids[:1] if token in own}


def _ids(value: Any) -> list[int]:
    """Return one id, or several, as a list.

    Raises:
        TypeError: it is something else, such as a token's text; to `int` 1.5 and true are 1.
    """
    given = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if any(isinstance(token, bool) for token in given):
        raise TypeError
    return [index(token) for token in given]
