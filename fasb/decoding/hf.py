"""An adapter: a bundle inside the library's own `model.generate`.

    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    model.generate(**inputs, max_new_tokens=50, custom_generate=steered(bundle, tokenizer))

In: what `generate` hands to a custom decoding method. Out: token ids as `generate` returns them.
Greedy only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasb.decoding.decode import check, decode, decode_live
from fasb.errors import ConfigError
from fasb.model.load import LoadedModel, wrap
from fasb.model.weights import weights_hash
from fasb.model.wrappers import unwrap
from fasb.steering.bundle import Bundle


def steered(
    bundle: Bundle | str | Path, tokenizer: Any, siblings: bool = False
) -> Callable[..., Tensor]:
    """Return a decoding method for `model.generate(..., custom_generate=...)`.

    The bundle is checked at its first use.

    New tokens and end-of-sequence ids are `generate`'s, stop strings and everything else the
    bundle's. The model named in the bundle is compared by shape and tokenizer alone, as `generate`
    knows no name. The model is left in training and with gradients as it was.

    A streamer never reaches a decoding method: what is shown cannot be taken back. To show an
    answer while it is written there is `fasb.decoding.stream.stream`.

    Raises:
        BundleError: the bundle does not belong to the model (from `generate`).
        ConfigError: `generate` was asked for what cannot be steered (from `generate`).
    """
    # by identity, and kept: so no other model can get the same id
    loaded: dict[int, LoadedModel] = {}
    own = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)

    def written(model: Any, input_ids: Tensor, generation_config: Any, **inputs: Any) -> Tensor:
        _refuse(model, generation_config, input_ids, inputs)
        with _as_it_was(model):
            known = loaded.get(id(model))
            # a training step between two calls makes another model of it
            if known is None or weights_hash(known.model) != known.fingerprint.weights:
                made_for = own.fingerprint
                name = made_for.model if made_for is not None else type(model).__name__
                one = wrap(model, tokenizer, name)
                # kept only when it passed: a second call would else steer what the first refused
                check(one, own, siblings)
                known = loaded[id(model)] = one
            eos = generation_config.eos_token_id
            known = replace(known, eos=frozenset([eos] if isinstance(eos, int) else eos or []))
            # `generate` has turned max_new_tokens into max_length by now
            n_new = generation_config.max_length - input_ids.shape[1]
            wanted = replace(
                own,
                decoding=own.decoding.model_copy(update={"tokens": n_new, "temperature": 0.0}),
            )
            prompts = _prompts(input_ids, inputs.get("attention_mask"))
            # in one pass, where that can be
            write = decode_live if wanted.policy.live else decode
            rows = write(known, prompts, wanted).after.rows()
        return _appended(input_ids, rows, known.pad)

    return written


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Decode in eval mode and without gradients, and leave what is being trained as it was."""
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad_(True)


PLAIN = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    "penalty_alpha": 0.0,
    "dola_layers": None,
}
"""What `generate` may be asked for."""
HONOURED = ("MaxLengthCriteria", "EosTokenCriteria")
"""Criteria that `generate` makes of the tokens and ends that are honoured."""


HANDED = frozenset(
    (
        *("attention_mask", "position_ids", "past_key_values", "cache_position", "use_cache"),
        *("logits_to_keep", "stopping_criteria", "logits_processor", "synced_gpus"),
    )
)
"""What `generate` hands on by itself, and what is looked at."""


def _refuse(model: Any, generation_config: Any, ids: Tensor, inputs: dict[str, Any]) -> None:
    """Greedy decoding of tokens is all that can be steered."""
    unknown = [key for key, value in inputs.items() if value is not None and key not in HANDED]
    if unknown:
        raise ConfigError(
            f"generate.{unknown[0]}: a steered answer follows from input_ids alone, and would pass "
            "it over; leave it out"
        )
    if not ids.numel():
        raise ConfigError("generate.input_ids: no token to go on from; give a prompt")
    given = inputs.get("position_ids")
    if given is not None and not _counts(given, ids, inputs.get("attention_mask")):
        raise ConfigError(
            "generate.position_ids: a steered answer counts positions by itself; leave them out"
        )
    # an adapter that works on the prompt has its own way of preparing inputs
    holder = getattr(model.prepare_inputs_for_generation, "__self__", model)
    if holder is not model:
        unwrap(holder, type(holder).__name__)
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


def _counts(positions: Tensor, ids: Tensor, mask: Tensor | None) -> bool:
    """Whether positions are those of each row's own tokens, one after another."""
    own = torch.ones_like(ids) if mask is None else mask.to(ids.device)
    expected = own.cumsum(1) - 1
    return bool(((positions == expected) | (own == 0)).all())


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
