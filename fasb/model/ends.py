"""Ends: which tokens end a text, by all that a checkpoint and its tokenizer say.

In: a model and its tokenizer. Out: token ids. Knows no prompt and no answer.
"""

from numbers import Integral
from typing import Any

from fasb.data.prompts import ANSWER
from fasb.errors import ModelError


def ends_of(model: Any, config: Any, tokenizer: Any, name: str) -> frozenset[int]:
    """Return all ids that end a text, by generation config, config, tokenizer or chat template.

    Raises:
        ModelError: one of them names what is no token id.
    """
    ends = _turn_ends(tokenizer)
    for source in (getattr(model, "generation_config", None), config, tokenizer):
        ends.update(_ids(getattr(source, "eos_token_id", None), name))
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


def _ids(value: Any, name: str) -> list[int]:
    """Return ids that a config gives: none, one or a list; of 2.5 no text would ever end."""
    if value is None:
        return []
    ids = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(token, bool) or not isinstance(token, Integral) for token in ids):
        raise ModelError(
            f"{name}: eos_token_id {value!r} is no token id, nor a list of them; correct its "
            "config.json and generation_config.json"
        )
    return [int(token) for token in ids]
