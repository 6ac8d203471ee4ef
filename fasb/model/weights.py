"""What a model is: a hash of its weights, and what its config says of how it computes.

In: a loaded model. Out: what says whether two loads are the same model, or one line where a weight
is not a number. The hash is of names,
shapes and a sample of the values, whole rows of no tensor left out up to 65,536 rows; so loads by
path, from the hub and from memory agree, in any of float64, float32 and bfloat16 (and in float16 if
the checkpoint is of 16 bits). An adapter, its strength, another seed or a fine-tuned copy differs.
Knows no file.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fasb.errors import ModelError

SAMPLE = 2**16
"""Values taken of each tensor, at least; and one of each row."""

TINY = 2.0**-13
"""Smaller values count as zero, as float16 does not hold them as bfloat16 does."""


def weights_hash(model: nn.Module) -> str:
    """Return 16 hex digits; equal for equal weights (see above)."""
    digest = hashlib.sha256()
    # by name, so that the order in which modules were registered is no matter
    for name, value in sorted(_tensors(model), key=lambda pair: pair[0]):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(_sampled(value).numpy().tobytes())
    for name, strengths in sorted(_adapter_strengths(model)):
        digest.update(f"{name}{strengths}".encode())
    return digest.hexdigest()[:16]


NO_FUNCTION = {
    # who wrote the file, and how it is loaded
    *("architectures", "auto_map", "dtype", "torch_dtype", "name_or_path", "_name_or_path"),
    *("transformers_version", "quantization_config", "tokenizer_class"),
    # what `forward` gives beside logits, and how training goes
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "initializer_range"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward", "pretraining_tp"),
    *("output_router_logits", "router_aux_loss_coef"),
    # of decoding: `ends_of` and the tokenizer know
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
    *("decoder_start_token_id", "forced_eos_token_id"),
}
"""Keys of a config that change no logit."""


def config_of_function(config: Any) -> str:
    """Return JSON of what a config says of how logits are computed, beside the weights.

    That is what its class knows and has another default for, so that neither keys of strangers nor
    a new default key of another version of the library makes another model of it.
    """
    config = config.get_text_config(decoder=True)
    own, default = config.to_dict(), _default_of(type(config))
    found = {"model_type": config.model_type}
    for key in own.keys() & (default or own).keys() - NO_FUNCTION:
        if own[key] != default.get(key) and not key.endswith(("dropout", "_pdrop", "drop")):
            found[key] = _rounded(own[key])
    return json.dumps(found, sort_keys=True, default=str)


def _default_of(kind: type) -> dict[str, Any]:
    """Return the settings that a config class has by itself; none if it cannot do without any."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    # some classes find fault with their own defaults
    logging.set_verbosity_error()
    try:
        settings: dict[str, Any] = kind().to_dict()
    except Exception:  # validators of many kinds
        return {}
    finally:
        logging.set_verbosity(before)
    return settings


def _rounded(value: Any) -> Any:
    """Return a setting with its numbers as float32 holds them, as GGUF files do."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _adapter_strengths(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield how strongly the active adapters of each layer act, as PEFT's layers say it."""
    for path, module in model.named_modules():
        scaling, active = getattr(module, "scaling", None), getattr(module, "active_adapters", ())
        if isinstance(scaling, dict) and not getattr(module, "disable_adapters", False):
            strengths = {name: scaling[name] for name in active if name in scaling}
            yield path, str(strengths)


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelError: naming the first tensor with NaN or infinity.
    """
    for tensor, value in _tensors(model):
        # a sum is one fast pass; it may overflow without any single bad value
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=_wide(value))):
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise ModelError(
                    f"{name}: {bad:,} of {value.numel():,} values of its weight {tensor} are NaN "
                    "or "
                    f"infinite in {str(value.dtype).removeprefix('torch.')}; get the weights "
                    "again, or load them in bfloat16 or float32"
                )


def _wide(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor that a file holds once, by its name without an adapter around its module.

    Those are parameters and the buffers that are saved, such as a router's correction.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = {n: p for n, p in _saved(module).items() if id(p) not in seen}
        seen.update(map(id, own.values()))
        with ExitStack() as stack:
            # offloaded: accelerate holds the values until the module runs
            if any(value.is_meta for value in own.values()):
                own = _onloaded(module, own, stack)
            for name, value in own.items():
                yield f"{path}.{name}".replace(".base_layer.", "."), value.detach()


def _onloaded(module: nn.Module, own: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
    """Return the module's offloaded parameters, in memory while the stack is open."""
    from accelerate.utils import align_module_device

    stack.enter_context(align_module_device(module, "cpu"))
    found = _saved(module)
    return {name: found[name] for name in own}


def _saved(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own parameters, and its buffers that a checkpoint holds."""
    buffers = dict(module.named_buffers(recurse=False))
    kept = {n: b for n, b in buffers.items() if n not in module._non_persistent_buffers_set}
    return {**dict(module.named_parameters(recurse=False)), **kept}


def _sampled(value: Tensor) -> Tensor:
    """Return a spread of the values, as 16-bit patterns of bfloat16; of integers as they are."""
    flat = value.reshape(-1)
    n = min(flat.numel(), max(SAMPLE, len(value) if value.ndim else 1))
    block = flat.numel() // max(n, 1)
    each = torch.arange(n, device=flat.device)
    # one value of each block, not always in the same column
    at = each * flat.numel() // max(n, 1) + (each * 7919) % max(block, 1)
    taken = flat[at].cpu()
    if not taken.is_floating_point():
        return taken.contiguous().view(torch.uint8)
    rounded = taken.to(torch.bfloat16)
    rounded[rounded.abs() < TINY] = 0
    return rounded.view(torch.int16)
