"""Head outputs: read and edited at the input of each attention output projection, inside a `with`.

In: a `Layout`, the heads to read or an `Edit`. Out: head outputs of the forward passes run inside
the block. The hooks leave with the block, also after an error. A head is read before its own edit,
in whichever order the two blocks are entered. Knows no tracker, no policy and no text.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.errors import ModelError
from fasb.model.layout import Layout
from fasb.steering.edit import Edit, add


@dataclass(slots=True)
class Reader:
    """Head outputs of the newest forward pass.

    `positions`: columns of the batch to keep, [row] or [row, kept]; set before the pass. None keeps
    all tokens.
    """

    layout: Layout
    heads: Int[Tensor, "n 2"] | None
    positions: Int[Tensor, " row"] | Int[Tensor, "row kept"] | None = None
    _seen: dict[int, Tensor] = field(default_factory=dict)

    def take(self) -> Float[Tensor, "row *rest head_dim"]:
        """What the newest forward pass gave, and forget it: [row, token, n, head_dim] in the order of `heads`.

        All heads (`heads` None): [row, token, layer, head, head_dim]. With `positions` [row] there
        is no token axis.
        """
        assert self._seen, "a forward pass inside the block comes first"
        seen, device = self._seen, next(iter(self._seen.values())).device
        self._seen = {}
        layers = [seen[layer].to(device) for layer in sorted(seen)]
        if self.heads is None:
            return torch.stack(layers, dim=-3)
        return torch.cat(layers, dim=-2).index_select(-2, _order(self.heads).to(device))


@dataclass(slots=True)
class Dial:
    """How strongly the next forward pass is edited.

    `strength`: per row and token of the batch, 0 where nothing is edited; None leaves the plain
    model.
    """

    strength: Float[Tensor, "row token"] | None = None


@contextmanager
def reading(layout: Layout, heads: Int[Tensor, "n 2"] | None = None) -> Iterator[Reader]:
    """Read the given (layer, head) pairs, or all heads, of every forward pass in the block.

    Raises:
        ModelError: a head that the model does not have.
    """
    reader = Reader(layout, heads)
    chosen = _by_layer(layout, heads)

    def hook(layer: int) -> Any:
        index = chosen[layer]

        def read(_module: Any, inputs: tuple[Any, ...]) -> None:
            nonlocal index
            x = inputs[0].detach()
            index = (
                index if index is None else index.to(x.device)
            )  # known only now if the weights are offloaded
            x = x.unflatten(-1, (layout.n_heads, layout.head_dim))
            if reader.positions is not None:
                x = _kept(x, reader.positions.to(x.device))
            reader._seen[layer] = x if index is None else x.index_select(-2, index)

        return read

    with ExitStack() as stack:
        for layer in chosen:
            # first of all hooks: the head before its own edit
            handle = layout.projections[layer].register_forward_pre_hook(hook(layer), prepend=True)
            stack.callback(handle.remove)
        yield reader


@contextmanager
def editing(layout: Layout, edit: Edit | None) -> Iterator[Dial]:
    """Add `dial.strength` times the edit's vectors to its heads in every forward pass in the block.

    Without an edit, or while the strength is None, the model is exactly the plain one.

    Raises:
        ModelError: a head or a width that the model does not have.
    """
    dial = Dial()
    if edit is not None:
        _by_layer(layout, edit.heads)
        if edit.vector.shape[1] != layout.head_dim:
            raise ModelError(
                f"edit: vectors of {edit.vector.shape[1]} values, but this model's heads have {layout.head_dim}; "
                "use an edit that was fitted on this model"
            )

    def hook(vector: Tensor) -> Any:
        def change(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            nonlocal vector
            if dial.strength is None:
                return None
            x = inputs[0]
            vector = vector.to(x.device)
            return add(x, vector.to(x.dtype), dial.strength.to(x.device)), *inputs[1:]

        return change

    with ExitStack() as stack:
        for layer, vector in (edit.by_layer(layout.n_heads) if edit is not None else {}).items():
            vector = vector.to(_device(layout, layer))
            stack.callback(layout.projections[layer].register_forward_pre_hook(hook(vector)).remove)
        yield dial


def _by_layer(layout: Layout, heads: Int[Tensor, "n 2"] | None) -> dict[int, Tensor | None]:
    """For each layer to hook, its heads in the order of `heads`; None for all."""
    if heads is None:
        return dict.fromkeys(range(layout.n_layers))
    chosen: dict[int, list[int]] = {}
    for layer, head in heads.tolist():
        if not (0 <= layer < layout.n_layers and 0 <= head < layout.n_heads):
            raise ModelError(
                f"head {head} of layer {layer}: this model has {layout.n_layers} layers of {layout.n_heads} heads; "
                "use heads that were chosen on this model"
            )
        chosen.setdefault(layer, []).append(head)
    return {
        layer: torch.tensor(chosen[layer], device=_device(layout, layer))
        for layer in sorted(chosen)
    }


def _device(layout: Layout, layer: int) -> torch.device:
    """Where the layer's heads will most likely be; weights that are offloaded are on no device until they are used."""
    device = next(layout.projections[layer].parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def _order(heads: Int[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """Where each head stands once the heads are sorted by layer, in their own order within one."""
    return heads[:, 0].cpu().argsort(stable=True).argsort()


def _kept(x: Tensor, positions: Tensor) -> Tensor:
    """x[row, positions[row]]: [row, head, head_dim], or with a token axis if `positions` has one."""
    rows = torch.arange(len(x), device=x.device)
    return x[rows, positions] if positions.ndim == 1 else x[rows[:, None], positions]
