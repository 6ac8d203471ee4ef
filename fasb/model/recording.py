"""Recording: the kernels of a forward pass, recorded once as a CUDA graph and replayed without Python.

In: a call that reads and writes tensors which stay in place. Out: its results, in tensors that the
next replay overwrites. Nothing that the host decides may change between replays but what those
tensors hold.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from fasb.errors import ModelError
from fasb.model.load import LoadedModel

REMEDY = "leave decoding.cuda_graphs out"


class Recordings:
    """One recording of each kind of call that a batch makes.

    Raises:
        ModelError: this model's passes can't be recorded.
    """

    def __init__(self, model: LoadedModel) -> None:
        check_recordable(model)
        self._name = model.settings.path
        self._replays: dict[Hashable, Callable[[], Any]] = {}
        self._buffers: Hashable = None

    def run(self, buffers: Hashable, kind: Hashable, call: Callable[[], Any]) -> Any:
        """What the call gives; it is recorded anew once its `buffers` are others."""
        if buffers != self._buffers:
            self._replays, self._buffers = {}, buffers
        if kind in self._replays:
            return self._replays[kind]()
        found = call()  # libraries set themselves up in a first run, which a recording can't hold
        try:
            self._replays[kind] = record(call)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"{self._name}: a step can't be recorded ({error}); {REMEDY}"
            ) from error
        return found


def check_recordable(model: LoadedModel) -> None:
    """Refuse what can't be recorded.

    Raises:
        ModelError: not on one GPU, or the model's attention waits for the host.
    """
    if model.device.type != "cuda" or {p.device for p in model.model.parameters()} != {
        model.device
    }:
        raise ModelError(
            f"{model.settings.path}: only a model that is on one GPU can be recorded; {REMEDY}"
        )
    attention = model.model.config._attn_implementation
    if not model.fixed_shapes or attention not in ("sdpa", "eager"):
        raise ModelError(
            f"{model.settings.path}: can't be recorded with {attention} attention; {REMEDY}"
        )


def record(call: Callable[[], Any]) -> Callable[[], Any]:
    """A replay of the call's kernels; nothing runs while they are recorded."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()

    def replay() -> Any:
        graph.replay()
        return found

    return replay
