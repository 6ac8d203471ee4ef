"""An adapter: a bundle inside the library's own `model.generate`.

    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    model.generate(**inputs, max_new_tokens=50, custom_generate=steered(bundle, tokenizer))

In: what `generate` hands to a custom decoding method. Out: token ids as `generate` returns them.
Greedy only.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasb.decoding.decode import check
from fasb.decoding.decode import decode as decode_live
from fasb.errors import ConfigError
from fasb.model.load import LoadedModel, wrap
from fasb.steering.bundle import Bundle


def steered(
    bundle: Bundle | str | Path, tokenizer: Any, siblings: bool = False
) -> Callable[..., Tensor]:
    """Return a decoding method for `model.generate(..., custom_generate=...)`.

    The bundle is checked at its first use.

    New tokens and end-of-sequence ids are `generate`'s, stop strings and everything else the
    bundle's. The model named in the bundle is compared by shape and tokenizer alone, as `generate`
    knows no name.

    Raises:
        BundleError: the bundle does not belong to the model (from `generate`).
        ConfigError: `generate` was asked for what cannot be steered (from `generate`).
    """
    # by identity, and kept: so no other model can get the same id
    loaded: dict[int, LoadedModel] = {}
    own = bundle if isinstance(bundle, Bundle) else Bundle.load(Path(bundle))

    def decode(model: Any, input_ids: Tensor, generation_config: Any, **inputs: Any) -> Tensor:
        _refuse(generation_config, inputs)
        if id(model) not in loaded:
            name = own.fingerprint.model if own.fingerprint is not None else type(model).__name__
            loaded[id(model)] = wrap(model, tokenizer, name)
            check(loaded[id(model)], own, siblings)
        eos = generation_config.eos_token_id
        known = replace(
            loaded[id(model)], eos=frozenset([eos] if isinstance(eos, int) else eos or [])
        )
        # `generate` has turned max_new_tokens into max_length by now
        n_new = generation_config.max_length - input_ids.shape[1]
        wanted = replace(
            own,
            decoding=own.decoding.model_copy(update={"tokens": n_new, "temperature": 0.0}),
        )
        rows = decode_live(
            known, _prompts(input_ids, inputs.get("attention_mask")), wanted
        ).after.rows()
        return _appended(input_ids, rows, known.pad)

    return decode


PLAIN = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
}
"""What `generate` may be asked for."""
HONOURED = ("MaxLengthCriteria", "EosTokenCriteria")
"""Criteria that `generate` makes of the tokens and ends that are honoured."""


def _refuse(generation_config: Any, inputs: dict[str, Any]) -> None:
    """Greedy decoding of tokens is all that can be steered."""
    for key, plain in PLAIN.items():
        value = getattr(generation_config, key, None)
        if value not in (None, plain):
            raise ConfigError(
                f"generate.{key}: {value}, but a steered answer is decoded greedily, and returned "
                f"as tokens; set it to {plain}"
            )
    criteria = [type(one).__name__ for one in inputs.get("stopping_criteria") or []]
    if others := [name for name in criteria if name not in HONOURED]:
        raise ConfigError(
            f"generate.stopping_criteria: {', '.join(others)} would not be asked; leave out "
            "stopping_criteria, max_time and stop_strings, and set the bundle's prompt.stop"
        )
    if processors := list(inputs.get("logits_processor") or []):
        names = ", ".join(type(processor).__name__ for processor in processors)
        raise ConfigError(
            f"generate.logits_processor: {names} would change what is steered; leave them out"
        )
    if inputs.get("streamer") is not None:
        raise ConfigError(
            "generate.streamer: text that was streamed cannot be taken back; use "
            "fasb.decoding.stream.stream"
        )


def _prompts(ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """Each row's tokens without padding; without a mask there is none."""
    if mask is None:
        return ids.tolist()
    return [row[kept].tolist() for row, kept in zip(ids, mask.bool(), strict=True)]


def _appended(ids: Tensor, rows: list[list[int]], pad: int) -> Tensor:
    longest = max(len(row) for row in rows)
    new = torch.tensor(
        [row + [pad] * (longest - len(row)) for row in rows], device=ids.device, dtype=ids.dtype
    )
    return torch.cat([ids, new], dim=1)
