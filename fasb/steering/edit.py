"""Edits: what is changed where, and at which tokens. Data only; `fasb/model/hooks.py` applies it.

A unit of a site is one head of one layer, or one whole layer (`fasb/model/layout.py`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.errors import BundleError
from fasb.settings import Positions, SiteName
from fasb.steering.fields import content_of, move, sizes_of, tensors_of
from fasb.steering.operations import Add, Operation

PROMPT_END = (1.0, 0.0)
"""The schedule of an edit at the prompt's last token alone."""


@dataclass(frozen=True, slots=True)
class Change:
    """One operation on units of one site; row i of the operation's tensors belongs to `at[i]`.

    `at` holds (layer, unit), each pair once.
    """

    site: SiteName
    at: Int[Tensor, "n 2"]
    operation: Operation


@dataclass(frozen=True, slots=True)
class Active:
    """At which tokens an edit is active. State 0 is that of the prompt's last token.

    positions: `from_answer`, from the last token that stays on: its state predicts the first token
    that is written anew (G8). `all`: also every token before it. `prompt_end`: as the schedule has
    it, from the last token of the prompt on. schedule: shares of the strength at states 0, 1, …,
    of which the first is 1, and the last is that of all states behind it too.
    """

    positions: Positions = "from_answer"
    schedule: tuple[float, ...] = PROMPT_END

    def shares(self, kept: int, n: int) -> Float[np.ndarray, " n"]:
        """Return the share of the strength at states 0 to n - 1, where `kept` tokens stay."""
        found = np.ones(n)
        if self.positions == "from_answer":
            found[:kept] = 0.0
        if self.positions == "prompt_end":
            found[:] = self.schedule[-1]
            found[: len(self.schedule)] = self.schedule[:n]
        return found


FROM_ANSWER = Active()
"""What holds where there is no edit."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What a method changes; all changes are active at the same tokens, with the same strength.

    positions, schedule: at which (see `Active`).
    """

    changes: tuple[Change, ...]
    positions: Positions = "from_answer"
    schedule: tuple[float, ...] = PROMPT_END

    @property
    def active(self) -> Active:
        """At which tokens it is active."""
        return Active(self.positions, self.schedule)

    @classmethod
    def of(
        cls,
        site: SiteName,
        at: Int[Tensor, "n 2"],
        operation: Operation,
        positions: Positions = "from_answer",
        schedule: tuple[float, ...] = PROMPT_END,
    ) -> "Edit":
        """Return the edit of one site.

        Raises:
            BundleError: the operation's tensors do not fit each other or the pairs.
        """
        try:
            n = sizes_of(type(operation), tensors_of(operation))["n"]
        except ValueError as error:
            raise BundleError(f"edit: {error}; correct the operation's tensors") from None
        if tuple(at.shape) != (n, 2):
            raise BundleError(
                f"edit: the operation has {n} rows, but at is of shape {tuple(at.shape)}; give one "
                "pair of layer and unit for each row"
            )
        return cls((Change(site, at, operation),), positions, schedule)

    @classmethod
    def add(cls, heads: Int[Tensor, "k 2"], vector: Float[Tensor, "k head_dim"]) -> "Edit":
        """Return the edit that adds vectors to head outputs (docs/method.md T3)."""
        return cls.of("head", heads, Add(vector))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Edit":
        """Return the same edit elsewhere."""
        moved = []
        for change in self.changes:
            operation = move(change.operation, device, dtype)
            moved.append(Change(change.site, change.at.to(device), operation))
        return Edit(tuple(moved), self.positions, self.schedule)

    def content(self) -> bytes:
        """Return bytes that are equal for equal edits."""
        pieces = [self.positions.encode()]
        if self.schedule != PROMPT_END:
            pieces.append(repr(self.schedule).encode())
        for change in self.changes:
            # of a change that is `at`: its operation is no tensor, so it adds its own
            pieces += [change.site.encode(), content_of(change), content_of(change.operation)]
        return b"|".join(pieces)
