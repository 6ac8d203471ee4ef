"""Midway: forward passes that begin behind a layer whose outputs are known.

In: what a layer gave in a pass before. Out: passes without that layer and those in front of it. An
edit leaves everything before its first unit as it is, so tokens that are run again under it may
begin there. Knows no policy.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasb.errors import ModelError
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import recording
from fasb.model.layout import Layout
from fasb.model.load import LoadedModel
from fasb.steering.edit import Edit

TRIAL = (1, 2, 3, 4, 5, 6, 7, 8)
"""Token ids that entrances are tried on, modulo the size of a vocabulary that lacks some."""


def layer_before(edit: Edit) -> int:
    """Return the last layer that gives under an edit what it gives without; -1: not the first.

    The residual stream is edited behind its layer, all other sites within.
    """
    firsts = []
    for change in edit.changes:
        first = int(change.at[:, 0].min())
        firsts.append(first if change.site == "residual" else first - 1)
    return min(firsts)


@dataclass(frozen=True, slots=True)
class Entrance:
    """A layer behind which a model's passes may begin.

    n_outputs: how many things a layer gives, states and then nothing else; 0: states that are no
    tuple.
    """

    layer: int
    n_outputs: int

    @contextmanager
    def entered(self, layout: Layout, states: Float[Tensor, "row column hidden"]) -> Iterator[None]:
        """Let the layer give these states, as if it and those in front of it had been run.

        Keys and values of these layers are not written.
        """
        nothing = (None,) * (self.n_outputs - 1)

        def give(*_args: Any, **_named: Any) -> Any:
            return (states, *nothing) if self.n_outputs else states

        with ExitStack() as stack:
            for module in layout.layers[: self.layer + 1]:
                stack.enter_context(_replaced(module, give))
            yield


def entrance(model: LoadedModel, edit: Edit) -> Entrance | None:
    """Return where passes under an edit may begin; None: in front of the first layer.

    Each layer is tried once: logits must be bitwise those of the whole pass. Layers that hand on
    more than the residual stream would not give them.
    """
    layer = layer_before(edit)
    if layer < 0:
        return None
    if layer not in model.entrances:
        model.entrances[layer] = _tried(model, layer)
    found: Entrance | None = model.entrances[layer]
    return found


@torch.inference_mode()
def _tried(model: LoadedModel, layer: int) -> Entrance | None:
    layout, text = model.layout, [token % model.vocab_size for token in TRIAL]
    try:
        with (
            recording(layout, "residual", torch.tensor([[layer, 0]])) as recorder,
            _outputs_of(layout.layers[layer]) as outputs,
        ):
            whole = forward(model, batch_of(model, [text]))
            states = recorder.pop()[:, :, 0]
    except ModelError:  # the layer's outputs are not as those of other models
        return None
    several = isinstance(outputs[0], tuple)
    if several and any(other is not None for other in outputs[0][1:]):
        return None
    found = Entrance(layer, len(outputs[0]) if several else 0)
    # another text, so that nothing is left of the whole pass that a layer may have kept
    forward(model, batch_of(model, [text[::-1]]))
    with found.entered(layout, states):
        again = forward(model, batch_of(model, [text]))
    return found if torch.equal(whole, again) else None


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Keep what a module gives in each pass."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, given: outputs.append(given))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def _replaced(module: nn.Module, give: Callable[..., Any]) -> Iterator[None]:
    """Let a module's forward be another function; its hooks still see what that gives."""
    # accelerate has put its own there, which then comes back
    own = vars(module).get("forward")
    module.forward = give
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
