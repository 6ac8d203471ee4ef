"""What a model's weights are: a hash that says whether two loads have the same.

In: a loaded model. Out: its hash, or one line where a weight is not a number. The hash is of names,
shapes and a sample of the values, whole rows of no tensor left out up to 65,536 rows; so loads by
path, from the hub and from memory agree, in any of float64, float32 and bfloat16 (and in float16 if
the checkpoint is of 16 bits). An adapter, its scaling, another seed or a fine-tuned copy differs.
Buffers and scales that a checkpoint holds count as weights, as those of quantised layers. Knows no
file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

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
    digest.update("".join(sorted(_scalings(model))).encode())
    return digest.hexdigest()[:16]


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelError: naming the first tensor without values, or with NaN or infinity.
    """
    for path, module in model.named_modules():
        # of what is offloaded, accelerate's hook has the values
        if not hasattr(module, "_hf_hook") and any(one.is_meta for one in module.parameters(False)):
            raise ModelError(
                f"{name}: the weights of {path or 'the model'} have no values (device meta); load "
                "them first"
            )
    for tensor, value in _tensors(model):
        # a sum is one fast pass; it may overflow without any single bad value
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=_wide(value))):
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise ModelError(
                    f"{name}: {bad:,} of {value.numel():,} values of its weight {tensor} are "
                    f"NaN or infinite in {str(value.dtype).removeprefix('torch.')}; get the "
                    "weights again, or load them in bfloat16 or float32"
                )


def _wide(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a module itself, without its parts.

    Parameters, buffers that are not made of the config, and what bitsandbytes keeps beside them:
    the scales of quantised rows.
    """
    kept: dict[str, Any] = {}
    module._save_to_state_dict(kept, "", True)
    found: dict[str, Tensor] = {}
    for name, value in kept.items():
        if isinstance(value, Tensor):
            found |= _plain(name, value)
    return found


def _plain(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return the tensors that a tensor is made of, as torchao's are of integers and scales."""
    if not is_traceable_wrapper_subclass(value):
        return {name: value}
    found: dict[str, Tensor] = {}
    parts, _ = value.__tensor_flatten__()
    for part in parts:
        found |= _plain(f"{name}.{part}", getattr(value, part))
    return found


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor once, by the name it has without an adapter around its module."""
    # the tensors too: of one that is gone, another would get the number
    seen: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        own = {name: value for name, value in _kept(module).items() if id(value) not in seen}
        seen.update((id(value), value) for value in own.values())
        with ExitStack() as stack:
            # offloaded: accelerate holds the values until the module runs
            if any(value.is_meta for value in own.values()):
                from accelerate.utils import align_module_device

                stack.enter_context(align_module_device(module, "cpu"))
                aligned = _kept(module)
                own = {name: aligned[name] for name in own}
            for name, value in own.items():
                yield f"{path}.{name}".replace(".base_layer.", "."), value.detach()


def _scalings(model: nn.Module) -> Iterator[str]:
    """Yield what each active adapter of PEFT is multiplied with, its alpha over its rank, say."""
    for path, module in model.named_modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict):
            merged = getattr(module, "merged_adapters", [])
            on = [] if getattr(module, "disable_adapters", False) else module.active_adapters
            yield from (f"{path}:{name}:{scaling[name]:.6g}" for name in on if name in scaling)
            yield from (f"{path}:{name}:merged" for name in merged)


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
