"""Frozen dataclasses of tensors: moved, compared and taken apart by their fields."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor

from fasb.errors import BundleError
from fasb.settings import SiteName

Part = TypeVar("Part")


def tensors_of(part: Any) -> dict[str, Tensor]:
    """Return the tensors of a dataclass by field.

    Fields that hold None or no tensor are left out.
    """
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def sizes_of(kind: type, values: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the size of each dimension that a class names in its fields, such as `n` and `width`.

    Raises:
        ValueError: a tensor has another number of dimensions than it should, or two disagree.
    """
    sizes: dict[str, int] = {}
    for field in fields(kind):
        # jaxtyping keeps the names in the type, which postponed annotations would make a string
        names = cast(Any, field.type).dim_str.split()
        shape = tuple(values[field.name].shape)
        if len(shape) != len(names):
            raise ValueError(f"{field.name} is of shape {shape}, not of [{' '.join(names)}]")
        for name, size in zip(names, shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{field.name} is of {name} {size}, not {sizes[name]}")
    return sizes


def check_pairs(site: Any, at: Any) -> None:
    """Refuse what is no site, or no (layer, unit) pairs [n, 2] of which each stands there once.

    Raises:
        ValueError: saying what is wrong.
    """
    if site not in get_args(SiteName):
        raise ValueError(f"site {site!r}, not one of {', '.join(get_args(SiteName))}")
    if not isinstance(at, Tensor) or at.dtype != torch.int64 or at.ndim != 2 or at.shape[1] != 2:
        raise ValueError("at holds no pairs of layer and unit, int64 [n, 2]")
    if not len(at):
        raise ValueError("at holds no unit")
    if at.min() < 0:
        raise ValueError(f"at holds layer or unit {int(at.min())}")
    # index_add would edit such a unit twice (fasb/model/hooks.py)
    if len(at.unique(dim=0)) < len(at):
        raise ValueError("at holds a unit twice")


def width_of(part: Any) -> int:
    """Return the width of the activations that an operation or a score takes."""
    return sizes_of(type(part), tensors_of(part))["width"]


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
        # float64 holds narrower floats exactly, and numpy knows no bfloat16
        pieces.append(value.cpu().to(torch.float64).numpy().tobytes())
    return b"".join(pieces)


def kind_of(part: Any, kinds: Mapping[str, type]) -> str:
    """Return the name under which the class of `part` stands in `kinds`.

    Raises:
        BundleError: it stands there under none.
    """
    for name, kind in kinds.items():
        if type(part) is kind:
            return name
    raise BundleError(
        f"{type(part).__name__}: none of {', '.join(kinds)}; name it in OPERATIONS of "
        "fasb/steering/operations.py, or in SCORES of fasb/steering/tracker.py"
    )
