"""Activations, recorded and edited at any site of a model, inside a `with`.

In: a `Layout` and which units to record, or an `Edit`. Out: activations of the forward passes run
inside the block. The hooks leave with the block, also after an error. A unit is recorded before its
own edit, in whichever order the two blocks are entered. Knows no tracker, no policy and no text.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fasb.errors import ModelError
from fasb.model.layout import Layout, Site
from fasb.settings import SiteName
from fasb.steering.edit import Change, Edit
from fasb.steering.fields import move, tensors_of, width_of
from fasb.steering.operations import Operation


@dataclass(slots=True)
class ActivationRecorder:
    """Activations of the newest forward pass.

    `positions`: columns of the batch to keep, [row] or [row, kept]; set before the pass. None keeps
    all tokens.
    """

    at: Int[Tensor, "n 2"] | None
    positions: Int[Tensor, " row"] | Int[Tensor, "row kept"] | None = None
    _seen: dict[int, Tensor] = field(default_factory=dict)
    _order: Tensor | None = None

    def pop(self) -> Float[Tensor, "row *rest width"]:
        """Return what the newest forward pass gave, and forget it: [row, token, n, width].

        The units are in the order of `at`. All units (`at` None): [row, token, layer, unit, width].
        With `positions` [row] there is no token axis.
        """
        assert self._seen, "a forward pass inside the block comes first"
        seen, device = self._seen, next(iter(self._seen.values())).device
        self._seen = {}
        # by layer, as `_places` has it; layers may be on several devices
        layers = [seen[layer].to(device) for layer in sorted(seen)]
        if self.at is None:
            return torch.stack(layers, dim=-3)
        # kept on the device: a GPU would wait for the host at every token
        self._order = (_places(self.at) if self._order is None else self._order).to(device)
        return torch.cat(layers, dim=-2).index_select(-2, self._order)


@dataclass(slots=True)
class EditStrength:
    """How strongly the next forward pass is edited.

    `strength`: per row and token of the batch, 0 where nothing is edited; None leaves the plain
    model.
    """

    strength: Float[Tensor, "row token"] | None = None


@contextmanager
def recording(
    layout: Layout, site: SiteName, at: Int[Tensor, "n 2"] | None = None
) -> Iterator[ActivationRecorder]:
    """Record the given (layer, unit) pairs, or all of a site, of every forward pass in the block.

    Raises:
        ModelError: a unit that the model does not have.
    """
    where = layout.site(site)
    recorder = ActivationRecorder(at)
    units = _units_by_layer(where, at)

    def record(layer: int) -> Callable[[Tensor], None]:
        index = units[layer]

        def keep(x: Tensor) -> None:
            nonlocal index
            x = x.unflatten(-1, (where.units, where.width))
            if recorder.positions is not None:
                x = _at_positions(x, recorder.positions.to(x.device))
            if index is not None:
                index = index.to(x.device)  # known only now if the weights are offloaded
                x = x.index_select(-2, index)
            elif recorder.positions is None:
                x = x.clone()  # Falcon's layers add to it in place
            recorder._seen[layer] = x

        return keep

    with ExitStack() as stack:
        for layer in units:
            # before the hook of an edit, whichever block was entered first
            _hook(stack, where, layer, record(layer), first=True)
        yield recorder


@contextmanager
def editing(layout: Layout, edit: Edit | None) -> Iterator[EditStrength]:
    """Apply the edit, as strongly as is set, in every forward pass in the block.

    Without an edit, or while the strength is None, the model is exactly the plain one.

    Raises:
        ModelError: a unit or a width that the model does not have.
    """
    dial = EditStrength()
    with ExitStack() as stack:
        for change in edit.changes if edit is not None else ():
            site = layout.site(change.site)
            _check_width(site, change)
            for layer, index in _units_by_layer(site, change.at).items():
                # rows and index are both in the order of `at`, so that they belong together
                rows = (change.at[:, 0] == layer).nonzero()[:, 0]
                operation = _rows_of(change.operation, rows.to(change.at.device))
                changer = _changer(site, index, operation, dial)
                _hook(stack, site, layer, changer)
        yield dial


def _changer(
    site: Site, index: Int[Tensor, " n"] | None, operation: Operation, dial: EditStrength
) -> Callable[[Tensor], Tensor | None]:
    """Return a function that edits one layer's activations; None leaves them as they are."""
    whole = site.units == 1
    moved_to: tuple[torch.device, torch.dtype] | None = None

    def change(x: Tensor) -> Tensor | None:
        nonlocal operation, index, moved_to
        if dial.strength is None:
            return None
        # known only now if the weights are offloaded; kept, as to ask every tensor takes its time
        if moved_to != (x.device, x.dtype):
            operation = move(operation, x.device, x.dtype)
            index = None if index is None else index.to(x.device)
            moved_to = x.device, x.dtype
        strength = dial.strength.to(x.device, x.dtype)[..., None, None]
        by_unit = x.unflatten(-1, (site.units, site.width))
        if whole:
            return (by_unit + operation.delta(by_unit, strength)).flatten(-2)
        assert index is not None
        delta = operation.delta(by_unit.index_select(-2, index), strength)
        return by_unit.index_add(-2, index, delta.expand(*x.shape[:-1], -1, -1)).flatten(-2)

    return change


def _hook(
    stack: ExitStack,
    site: Site,
    layer: int,
    see: Callable[[Tensor], Tensor | None],
    first: bool = False,
) -> None:
    """Show a function the activations of one layer; what it returns takes their place.

    Raises:
        ModelError: in the forward pass, where they are not as the layout says.
    """
    module: nn.Module = site.modules[layer]
    n_rows = 0

    def shown(x: Tensor) -> Tensor | None:
        width = site.units * site.width
        # Gemma 3n's layers give four streams, which would be taken for rows
        if x.ndim != 3 or x.shape[-1] != width:
            raise ModelError(
                f"{type(module).__name__}: gives activations of shape {list(x.shape)}, where "
                f"[row, token, {width}] is known; this site of this model is not supported, choose "
                "a method of another site"
            )
        return see(x)

    def count_rows(_module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal n_rows
        n_rows = len(inputs[0] if inputs else named["hidden_states"])

    def before(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = shown(inputs[0])
        return None if changed is None else (changed, *inputs[1:])

    def after(_module: Any, _inputs: Any, output: Any) -> Any:
        # layers of some architectures give their attention weights or router logits as well
        several = isinstance(output, tuple)
        x = output[0] if several else output
        # one series of all rows' tokens is shown as [row, token, …], and made one again
        changed = shown(x.unflatten(0, (n_rows, -1)) if site.flattened_in else x)
        if changed is None:
            return None
        changed = changed.flatten(0, 1) if site.flattened_in else changed
        return (changed, *output[1:]) if several else changed

    if site.flattened_in:
        counter = site.flattened_in[layer].register_forward_pre_hook(count_rows, with_kwargs=True)
        stack.callback(counter.remove)
    if site.side == "input":
        handle = module.register_forward_pre_hook(before, prepend=first)
    else:
        handle = module.register_forward_hook(after, prepend=first)
    stack.callback(handle.remove)


def _units_by_layer(site: Site, at: Int[Tensor, "n 2"] | None) -> dict[int, Tensor | None]:
    """Return for each layer to hook its units in the order of `at`; None for all."""
    n_layers = len(site.modules)
    if at is None:
        return dict.fromkeys(range(n_layers))
    chosen: dict[int, list[int]] = {}
    for layer, unit in at.tolist():
        if not (0 <= layer < n_layers and 0 <= unit < site.units):
            raise ModelError(
                f"unit {unit} of layer {layer}: this model has {n_layers} layers of {site.units} "
                "units (heads, or 1 of whole layers); use what was chosen on this model"
            )
        chosen.setdefault(layer, []).append(unit)
    return {layer: torch.tensor(chosen[layer]) for layer in sorted(chosen)}


def _check_width(site: Site, change: Change) -> None:
    width = width_of(change.operation)
    if width != site.width:
        raise ModelError(
            f"edit: vectors of {width} values, but this model's {change.site} "
            f"activations have {site.width}; use an edit that was fitted on this model"
        )


def _rows_of(operation: Operation, rows: Int[Tensor, " some"]) -> Operation:
    """Return the operation of some of its units."""
    chosen = {name: value[rows] for name, value in tensors_of(operation).items()}
    return replace(operation, **chosen)  # type: ignore[type-var]


def _places(at: Int[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """Return where each unit stands once all are sorted by layer, in their own order within one."""
    # the second argsort inverts the first, a permutation
    return at[:, 0].cpu().argsort(stable=True).argsort()


def _at_positions(x: Tensor, positions: Tensor) -> Tensor:
    """Return x[row, positions[row]]; with a token axis if `positions` has one."""
    rows = torch.arange(len(x), device=x.device)
    return x[rows, positions] if positions.ndim == 1 else x[rows[:, None], positions]
