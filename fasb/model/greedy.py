"""What a checkpoint's generation config asks for that decoding here leaves out.

In: a model. Out: one line in the log. Its ends are kept (`fasb/model/ends.py`), and it is known to
everybody that a chat model's authors sample and FASB's decode greedily; but penalties, forbidden
and forced tokens would change greedy answers too, and so what "unsteered" means.
"""

import logging
from typing import Any

PLAIN: dict[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
    "stop_strings": None,
}
"""Settings that change greedy answers, and their values when they do not."""


def left_out(model: Any) -> dict[str, Any]:
    """Return the settings of the model's generation config that would change greedy answers."""
    config = getattr(model, "generation_config", None)
    found = {key: getattr(config, key, None) for key in PLAIN}
    return {key: one for key, one in found.items() if one and one != PLAIN[key]}


def say_left_out(model: Any, name: str) -> None:
    """Log one warning that names them, if there are any."""
    found = left_out(model)
    if found:
        listed = ", ".join(f"{key} {str(value)[:40]}" for key, value in found.items())
        logging.getLogger(__name__).warning(
            f"{name}: its generation config asks for {listed}; left out, as answers are decoded "
            "greedily, unsteered ones too, so other programs may give others"
        )
