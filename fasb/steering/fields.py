"""Frozen dataclasses of tensors: moved, compared and taken apart by their fields."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def tensors_of(part: Any) -> dict[str, Tensor]:
    """Return the tensors of a dataclass by field.

    Fields that hold None or no tensor are left out.
    """
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def move(part: Part, device: torch.device | str, dtype: torch.dtype | None = None) -> Part:
    """Return the same dataclass elsewhere; `dtype` is for its floating-point tensors."""
    moved = {}
    for name, value in tensors_of(part).items():
        moved[name] = value.to(device, dtype if value.is_floating_point() else None)
    return replace(part, **moved)  # type: ignore[type-var]


def content_of(part: Any) -> bytes:
    """Return bytes that are equal for equal tensors, whatever their device and float type."""
    pieces = [type(part).__name__.encode()]
    for name, value in tensors_of(part).items():
        pieces.append(f"{name}{tuple(value.shape)}".encode())
        pieces.append(value.cpu().to(torch.float64).numpy().tobytes())
    return b"".join(pieces)


def kind_of(part: Any, kinds: Mapping[str, type]) -> str:
    """Return the name under which the class of `part` stands in `kinds`."""
    return next(name for name, kind in kinds.items() if type(part) is kind)
