"""Flexible Activation Steering with Backtracking.

    model = fasb.load("meta-llama/Llama-2-7b-chat-hf")
    bundle = fasb.fit(model, "my.csv")
    for answer in fasb.steer(model, bundle, ["What happens if you swallow a watermelon seed?"]):
        print(answer.text, answer.fired)

Names are imported when they are used, so that `fasb --help` and a study's config need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasb.data.protocol import Question as Question
    from fasb.errors import FasbError as FasbError
    from fasb.fitting.training import Training as Training
    from fasb.model.load import LoadedModel as LoadedModel
    from fasb.steering.bundle import Bundle as Bundle
    from fasb.steering.edit import Edit as Edit
    from fasb.steering.policy import Policy as Policy
    from fasb.steering.tracker import Tracker as Tracker
    from fasb.user.editing import editing as editing
    from fasb.user.evaluation import evaluate as evaluate
    from fasb.user.fitting import fit as fit
    from fasb.user.publishing import push as push
    from fasb.user.steering import load as load
    from fasb.user.steering import steer as steer

    __version__: str

_HOME = {
    "load": "fasb.user.steering",
    "fit": "fasb.user.fitting",
    "steer": "fasb.user.steering",
    "evaluate": "fasb.user.evaluation",
    "editing": "fasb.user.editing",
    "push": "fasb.user.publishing",
    "LoadedModel": "fasb.model.load",
    "Training": "fasb.fitting.training",
    "Bundle": "fasb.steering.bundle",
    "Policy": "fasb.steering.policy",
    "Edit": "fasb.steering.edit",
    "Tracker": "fasb.steering.tracker",
    "Question": "fasb.data.protocol",
    "FasbError": "fasb.errors",
}
"""The module of each public name."""

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fasb")
    if name not in _HOME:
        raise AttributeError(
            f"module 'fasb' has no attribute {name!r}; public names: {', '.join(_HOME)}"
        )
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, "__version__"])
