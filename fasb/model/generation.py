"""What a checkpoint's generation config asks for that greedy decoding of single texts leaves out.

In: a model. Out: those settings, by name. Ends of a text are not among them: they are honoured
(`fasb/model/ends.py`). Knows no prompt and no answer.
"""

import logging
from typing import Any

PLAIN: dict[str, Any] = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "penalty_alpha": 0,
    "dola_layers": None,
    "guidance_scale": 1,
    "watermarking_config": None,
    "token_healing": False,
    "stop_strings": None,
}
"""Settings of `generate` that change a greedy answer, and the value at which they do not."""
SHOWN = 40
"""Characters of a value that are shown; lists of tokens may be of thousands."""


def passed_over(model: Any) -> dict[str, Any]:
    """Return what the generation config says that changes greedy answers of `generate` alone."""
    config = getattr(model, "generation_config", None)
    found = {key: getattr(config, key, None) for key in PLAIN}
    # by identity, as a token may be of number 0
    said = {k: v for k, v in found.items() if v is not None and v is not False and v != []}
    return {key: value for key, value in said.items() if value != PLAIN[key]}


def say_what_is_passed_over(model: Any, name: str) -> None:
    """Warn in one line of settings that are left out.

    Nearly every chat model asks to be sampled, so that is only noted.
    """
    log = logging.getLogger(__name__)
    if found := passed_over(model):
        listed = ", ".join(f"{key} {_short(value)}" for key, value in found.items())
        log.warning(
            "%s: its generation_config asks for %s, which is left out: answers are decoded "
            "greedily, by logits as they are, and differ from those of generate",
            name,
            listed,
        )
    if getattr(getattr(model, "generation_config", None), "do_sample", None):
        log.info("%s: decoded greedily, not sampled as its generation_config asks", name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
