"""What a task of the lm-evaluation-harness says of how texts are written.

In: a task's `generation_kwargs`. Out: the bundle with them. Knows no harness.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fasb.errors import ConfigError, did_you_mean
from fasb.extensions import validated
from fasb.model.generation import PLAIN
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle

TOKENS = 256
"""Most tokens of a text for which a task names no number."""
LENGTHS = ("max_gen_toks", "max_tokens", "max_new_tokens", "max_completion_tokens")
"""What tasks call it; the first that is given counts."""
HONOURED = ("until", *LENGTHS, "do_sample", "temperature", "top_p")
NEUTRAL = {**PLAIN, "top_k": 0, "min_p": 0, "typical_p": 1, "num_return_sequences": 1}
"""Settings that cannot be kept under steering, and the values at which they do nothing."""
OF_DRAWING = ("top_k", "min_p", "typical_p")
"""Those of them that do nothing either where nothing is drawn."""
FREE = ("use_cache", "pad_token_id", "eos_token_id", "early_stopping", "length_penalty")
"""Settings that change no text here: ends are the model's own, and there are no beams."""


def with_generation(bundle: Bundle, given: Mapping[str, Any], batch: int) -> Bundle:
    """Return the bundle with a task's stop strings, length and way of drawing.

    Raises:
        ConfigError: naming a setting that is wrong, or that a steered text cannot keep.
    """
    drawn = given.get("do_sample") or False
    if not isinstance(drawn, bool):
        raise _wrong("do_sample", drawn, "true or false")
    if drawn and not given.get("temperature"):
        # the harness says 0 then, at which its own models refuse to draw
        raise _wrong("temperature", given.get("temperature"), "one above 0, or no do_sample")
    for key, value in given.items():
        idle = value is None or (key in OF_DRAWING and not drawn)
        if key in HONOURED or key in FREE or idle:
            continue
        if key not in NEUTRAL:
            known = {*HONOURED, *NEUTRAL, *FREE}
            raise ConfigError(f"generation_kwargs.{key}: unknown; {did_you_mean(key, known)}")
        if value != NEUTRAL[key] and value != []:
            raise ConfigError(
                f"generation_kwargs.{key}: {value!r}, which a steered text cannot keep; leave it "
                "out, and in the run that it is compared with"
            )
    settings = {
        "tokens": next((given[key] for key in LENGTHS if given.get(key) is not None), TOKENS),
        "temperature": given["temperature"] if drawn else 0.0,
        "top_p": 1.0 if given.get("top_p") is None or not drawn else given["top_p"],
        "batch": batch,
    }
    decoding = validated(
        DecodingSettings, {**bundle.decoding.model_dump(), **settings}, "generation_kwargs"
    )
    stop = tuple(text for text in _stops(given.get("until")) if text)
    prompt = bundle.prompt.model_copy(update={"stop": stop})
    return replace(bundle, prompt=prompt, decoding=decoding)


def _stops(until: Any) -> tuple[str, ...]:
    texts = (until,) if isinstance(until, str) else tuple(until or ())
    if not all(isinstance(text, str) for text in texts):
        raise _wrong("until", until, "a text or a list of texts")
    return texts


def _wrong(key: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"generation_kwargs.{key}: {value!r}; give {wanted}")
