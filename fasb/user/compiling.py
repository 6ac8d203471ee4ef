"""A bundle's edit in the weights of its model, for programs that know nothing of steering.

In: a model, and a bundle whose edit is always on and the same at every token. Out: a folder that
any library loads, whose answers are the bundle's. What depends on p, on a token's place, or on the
activations otherwise than by an affine map is refused.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasb.decoding.decode import check
from fasb.decoding.observe import logits_of
from fasb.errors import BundleError, ModelError
from fasb.model.layout import weight_of
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Change
from fasb.steering.fields import tensors_of, width_of
from fasb.wholefiles import writing_folder


def compile_bundle(model: LoadedModel, bundle: Bundle, out: Path, siblings: bool = False) -> None:
    """Write the model with the edit in its weights, and its tokenizer.

    In memory the model stays as it was: the bundle is of that one, and would edit twice. `siblings`
    allows other weights and config of the same build.

    Raises:
        BundleError: the edit is no constant of the weights, or not of this model.
        ModelError: the weights are quantised, or an adapter stands beside them.
        ArtifactError: the folder cannot be written.
    """
    refuse_what_varies(bundle)
    check(model, bundle, siblings)
    if any(hasattr(module, "base_layer") for module in model.model.modules()):
        raise ModelError(
            "compile: an adapter stands in the layers, whose weights are saved apart; merge it "
            "first (merge_and_unload)"
        )
    assert bundle.edit is not None
    strength = bundle.policy.alpha
    text = model.encode([bundle.prompt.prefix + bundle.prompt.question + bundle.prompt.open])[0]
    plain, wanted = logits_of(model, text), logits_of(model, text, bundle.edit, strength)
    inputs = [change for change in bundle.edit.changes if change.site == "head"]
    outputs = [change for change in bundle.edit.changes if change.site != "head"]
    before: list[tuple[Tensor, Tensor]] = []
    try:
        # on the input side the edit that comes first is the furthest from the weights
        for change in [*reversed(inputs), *outputs]:
            for i in range(len(change.at)):
                _bake(model, change, i, strength, before)
        # what the layout does not tell of the way from weights to site shows in the logits
        if not _agrees(logits_of(model, text), wanted, plain):
            raise BundleError(f"compile: {_reason(model.model.dtype)}")
        with writing_folder(out) as folder:
            model.model.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
    finally:
        # the newest first: a weight may stand there more than once
        for parameter, value in reversed(before):
            parameter.copy_(value)


def _agrees(found: Tensor, wanted: Tensor, plain: Tensor) -> bool:
    """Return whether logits are those under the edit, and not as near to those without it."""
    off, moved = float((found - wanted).abs().max()), float((wanted - plain).abs().max())
    largest = float(wanted.abs().max())
    near = torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * largest)
    # the edit itself may be weaker than what is let pass; the rest is rounding
    return near and off <= 0.1 * moved + 1e-5 * largest


def _reason(dtype: torch.dtype) -> str:
    """Return why logits differ, and the remedy: half precision rounds more than is let pass."""
    if dtype in (torch.float16, torch.bfloat16):
        return "half precision is too coarse to hold the edit; load the model with dtype float32"
    return "this model's weights cannot hold the edit; attach the bundle"


def refuse_what_varies(bundle: Bundle) -> None:
    """Refuse a bundle whose edit is not the same at every token of every text.

    Raises:
        BundleError: saying what it depends on.
    """
    policy = bundle.policy
    if bundle.edit is None or policy.when != "always" or bundle.reads_p:
        raise BundleError(
            f"compile: when {policy.when!r} steers some tokens only, and weights know no p; attach "
            "the bundle"
        )
    if bundle.positions != "all" or policy.after:
        raise BundleError(
            f"compile: an edit of positions {bundle.positions!r} depends on a token's place, which "
            "weights do not know; attach the bundle"
        )


def _bake(
    model: LoadedModel,
    change: Change,
    i: int,
    strength: float,
    before: list[tuple[Tensor, Tensor]],
) -> None:
    """Change the weights beside the i-th unit as its operation changes its activations.

    Parameters that change are added to `before`, with what they were.
    """
    layer, unit = change.at[i].tolist()
    linear = _linear(model, change, layer)
    matrix, constant = _affine_map(change, i, strength)
    weight, bias = weight_of(linear), getattr(linear, "bias", None)
    matrix, constant = matrix.to(weight.device), constant.to(weight.device)
    whole = weight.double().clone()
    if change.site == "head":
        # the head's columns W of the output projection: W (x A + c) = (W A^T) x + W c
        own = slice(unit * len(constant), (unit + 1) * len(constant))
        added = whole[:, own] @ constant
        whole[:, own] = whole[:, own] @ matrix.T
    else:
        # of an output y = W x + b: y A + c has the weights A^T W and the bias b A + c
        added = constant if bias is None else bias.double() @ matrix + constant - bias.double()
        if change.site != "residual":
            whole = matrix.T @ whole
        elif not torch.allclose(matrix, torch.eye(len(matrix)).to(matrix)):
            raise BundleError(
                "compile: only what adds a constant to the residual stream is a constant of the "
                "weights; attach the bundle"
            )
    if bias is None and added.any():
        raise BundleError(
            f"compile: {type(linear).__name__} of layer {layer} has no bias to hold what is added; "
            "attach the bundle"
        )
    changed = [(weight.data, whole)]
    if bias is not None:
        changed.append((bias.data, bias.double() + added))
    for parameter, value in changed:
        before.append((parameter, parameter.clone()))
        parameter.copy_(value)


def _linear(model: LoadedModel, change: Change, layer: int) -> nn.Module:
    """Return the linear module beside a unit; of a block, the last that gives the hidden width."""
    site = model.layout.site("mlp" if change.site == "residual" else change.site)
    found: nn.Module | None = None
    for module in site.modules[layer].modules():
        is_linear = getattr(getattr(module, "weight", None), "ndim", 0) == 2
        if is_linear and len(weight_of(module)) == model.layout.hidden:
            found = module
    if found is None:
        raise BundleError(
            f"compile: no linear module at {change.site} of layer {layer}; attach the bundle"
        )
    return found


def _affine_map(
    change: Change, i: int, strength: float
) -> tuple[Float[Tensor, "width width"], Float[Tensor, " width"]]:
    """Return matrix and constant with x + delta(x) = x matrix + constant, for the i-th unit.

    Raises:
        BundleError: the operation is no affine map.
    """
    width = width_of(change.operation)
    own = {name: value[i : i + 1] for name, value in tensors_of(change.operation).items()}
    operation: Any = change.operation
    alone = replace(operation, **{name: value.cpu().double() for name, value in own.items()})

    def moved(x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        strengths = torch.full((len(x), 1, 1, 1), strength, dtype=torch.float64)
        delta: Tensor = alone.delta(x[:, None, None], strengths).expand(len(x), 1, 1, width)
        return x + delta[:, 0, 0]

    nothing = torch.zeros(1, width, dtype=torch.float64)
    constant = moved(nothing)[0]
    matrix = moved(torch.eye(width, dtype=torch.float64)) - constant
    # at 0 and the unit vectors every map looks affine, elsewhere only one that is
    drawn = torch.randn(8, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if not torch.allclose(moved(10 * drawn), 10 * drawn @ matrix + constant):
        raise BundleError(
            "compile: what this edit adds depends on the activations, which weights do not do; "
            "attach the bundle"
        )
    return matrix, constant
