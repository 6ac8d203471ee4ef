"""Edits: what is changed where, and at which tokens. Data only; `fasb/model/hooks.py` applies it.

A unit of a site is one head of one layer, or one whole layer (`fasb/model/layout.py`).
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.errors import BundleError
from fasb.settings import Positions, SiteName
from fasb.steering.fields import check_pairs, content_of, move, sizes_of, tensors_of
from fasb.steering.operations import Add, Operation

PROMPT_END = (1.0, 0.0)
"""The schedule of an edit at the prompt's last token alone."""


LONGEST = 1000
"""Shares of a schedule; answers may be longer, and go on with the last."""


@dataclass(frozen=True, slots=True)
class Change:
    """One operation on units of one site; row i of the operation's tensors belongs to `at[i]`.

    `at` holds (layer, unit), each pair once.

    Raises:
        BundleError: the operation's tensors do not fit each other or the pairs, there is no such
            site, or `at` holds something else.
    """

    site: SiteName
    at: Int[Tensor, "n 2"]
    operation: Operation

    def __post_init__(self) -> None:
        try:
            check_pairs(self.site, self.at)
            n = sizes_of(type(self.operation), tensors_of(self.operation))["n"]
        except ValueError as error:
            raise BundleError(f"edit: {error}; correct the edit's site, units or tensors") from None
        if len(self.at) != n:
            raise BundleError(
                f"edit: the operation has {n} rows, but at is of shape {tuple(self.at.shape)}; "
                "give one pair of layer and unit for each row"
            )


@dataclass(frozen=True, slots=True)
class Active:
    """At which tokens an edit is active. State 0 is that of the prompt's last token.

    positions: `from_answer`, from the last token that stays on: its state predicts the first token
    that is written anew (G8). `all`: also every token before it. `prompt_end`: as the schedule has
    it, from the last token of the prompt on. schedule: shares of the strength at states 0, 1, …,
    of which the first is 1, and the last is that of all states behind it too.

    Raises:
        BundleError: positions of no such name, or a schedule that is no schedule or not heard.
    """

    positions: Positions = "from_answer"
    schedule: tuple[float, ...] = PROMPT_END

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            known = ", ".join(get_args(Positions))
            raise BundleError(f"edit.positions: {self.positions!r}; choose one of {known}")
        if wrong := _wrong_schedule(self.schedule):
            raise BundleError(f"edit.schedule: {wrong}; give shares from 0 to 1, the first 1")
        if self.positions != "prompt_end" and self.schedule != PROMPT_END:
            raise BundleError(
                f"edit.schedule: not heard at positions {self.positions!r}; set these to "
                "'prompt_end', or leave the schedule out"
            )

    def shares(self, kept: int, n: int) -> Float[np.ndarray, " n"]:
        """Return the share of the strength at states 0 to n - 1, where `kept` tokens stay."""
        found = np.ones(n)
        if self.positions == "from_answer":
            found[:kept] = 0.0
        if self.positions == "prompt_end":
            found[:] = self.schedule[-1]
            found[: len(self.schedule)] = self.schedule[:n]
        return found


def _wrong_schedule(shares: Any) -> str | None:
    """Return what is wrong with a schedule; None of a right one."""
    if not isinstance(shares, tuple) or not 0 < len(shares) <= LONGEST:
        return f"no tuple of 1 to {LONGEST} shares"
    if any(type(share) not in (int, float) or not 0 <= share <= 1 for share in shares):
        return "a share is no number from 0 to 1"
    return None if shares[0] == 1 else f"it begins with {shares[0]}"


FROM_ANSWER = Active()
"""What holds where there is no edit."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What a method changes; all changes are active at the same tokens, with the same strength.

    Raises:
        BundleError: it changes nothing.
    """

    changes: tuple[Change, ...]
    active: Active = FROM_ANSWER

    def __post_init__(self) -> None:
        if not self.changes:
            raise BundleError("edit: no changes; give one or more, or no edit")

    @classmethod
    def of(
        cls,
        site: SiteName,
        at: Int[Tensor, "n 2"],
        operation: Operation,
        positions: Positions = "from_answer",
        schedule: tuple[float, ...] = PROMPT_END,
    ) -> "Edit":
        """Return the edit of one site; positions and schedule are those of `Active`.

        Raises:
            BundleError: one of them cannot be, or they do not fit each other.
        """
        return cls((Change(site, at, operation),), Active(positions, schedule))

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
        return Edit(tuple(moved), self.active)

    def content(self) -> bytes:
        """Return bytes that are equal for equal edits."""
        pieces = [self.active.positions.encode()]
        if self.active.schedule != PROMPT_END:
            pieces.append(repr(tuple(map(float, self.active.schedule))).encode())
        for change in self.changes:
            # of a change that is `at`: its operation is no tensor, so it adds its own
            pieces += [change.site.encode(), content_of(change), content_of(change.operation)]
        return b"|".join(pieces)
