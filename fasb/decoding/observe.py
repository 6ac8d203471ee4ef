"""Observing: what a model makes of tokens that are already there, in one teacher-forced pass.

In: texts as token ids, and what to look at in their last tokens. Out: head outputs, p,
log-probabilities. Knows no policy and writes no token.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.model.batch import Prefix, batch_of, forward
from fasb.model.hooks import editing, reading
from fasb.model.load import LoadedModel
from fasb.steering.edit import Edit
from fasb.steering.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of which the last `n_states` tokens are looked at; `strength`: of an edit, at its last tokens."""

    text: Sequence[int]
    n_states: int
    strength: Sequence[float] | Float[np.ndarray, " last"] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """The last states of a batch; those of a shorter passage stand at the right.

    p: of every state, for each tracker. logprob: of every token but the first of them, given all
    before it; raised to float32 from half precision.
    """

    p: list[Float[np.ndarray, "row state"]]
    logprob: Float[np.ndarray, "row token"] | None


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of several trackers, each read once."""

    heads: Int[Tensor, "n 2"]
    places: tuple[Int[Tensor, " _"], ...]
    trackers: tuple[Tracker, ...]

    @classmethod
    def of(cls, trackers: Sequence[Tracker], device: torch.device | str) -> "Heads":
        """All heads that the trackers need."""
        pairs = [[tuple(pair) for pair in tracker.heads.tolist()] for tracker in trackers]
        union = sorted({pair for of_one in pairs for pair in of_one})
        place = {pair: i for i, pair in enumerate(union)}
        places = tuple(
            torch.tensor([place[pair] for pair in of_one], device=device) for of_one in pairs
        )
        return cls(
            torch.tensor(union).reshape(-1, 2),
            places,
            tuple(tracker.to(device) for tracker in trackers),
        )

    def p(self, x: Float[Tensor, "row state n head_dim"]) -> list[Float[Tensor, "row state"]]:
        """Each state's p, for each tracker."""
        return [
            tracker.deviation(x[:, :, place])
            for tracker, place in zip(self.trackers, self.places, strict=True)
        ]


@torch.inference_mode()
def observe_batch(
    model: LoadedModel,
    passages: Sequence[Passage],
    prefix: Prefix | None,
    heads: Heads,
    edit: Edit | None = None,
) -> Seen:
    """Only p, of the last states."""
    last = max(1, *(passage.n_states for passage in passages))
    batch = batch_of(model, [passage.text for passage in passages], prefix)
    with reading(model.layout, heads.heads) as reader, editing(model.layout, edit) as dial:
        dial.strength = right_aligned(
            [passage.strength for passage in passages], batch.width, model.device
        )
        forward(model, batch, keep=1)
        states = reader.take()[:, -last:].to(model.device)
    return Seen([p.cpu().numpy() for p in heads.p(states)], None)


@torch.inference_mode()
def score_batch(
    model: LoadedModel,
    passages: Sequence[Passage],
    prefix: Prefix | None,
    heads: Heads | None = None,
    edit: Edit | None = None,
) -> Seen:
    """Log-probabilities of the last tokens, and p of their states if heads are given."""
    last = max(1, *(passage.n_states for passage in passages))
    batch = batch_of(model, [passage.text for passage in passages], prefix)
    with ExitStack() as stack:
        reader = stack.enter_context(reading(model.layout, heads.heads)) if heads else None
        dial = stack.enter_context(editing(model.layout, edit))
        dial.strength = right_aligned(
            [passage.strength for passage in passages], batch.width, model.device
        )
        logits = forward(model, batch, keep=last)[:, :-1]
        p = heads.p(reader.take()[:, -last:].to(model.device)) if reader else []
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprob = logits.log_softmax(-1).gather(
        -1, batch.ids[:, batch.ids.shape[1] - last + 1 :, None]
    )[..., 0]
    return Seen([part.cpu().numpy() for part in p], logprob.cpu().numpy())


@torch.inference_mode()
def logits_of(
    model: LoadedModel, text: Sequence[int], edit: Edit | None = None, strength: float = 0.0
) -> Float[Tensor, "token vocab"]:
    """Logits at every token of one text; an edit is active at all of them."""
    batch = batch_of(model, [text])
    with editing(model.layout, edit) as dial:
        dial.strength = torch.full(
            batch.ids.shape, strength, dtype=torch.float64, device=model.device
        )
        return forward(model, batch)[0]


def right_aligned(
    strengths: Sequence[Sequence[float] | Float[np.ndarray, " last"]]
    | Float[np.ndarray, "row last"],
    width: int,
    device: torch.device | str,
) -> Float[Tensor, "row column"] | None:
    """Strengths of each row's last tokens, as a `Dial` takes them; None where all are 0."""
    padded = np.zeros((len(strengths), width))
    for row, last in zip(padded, strengths, strict=True):
        if len(last):
            row[-len(last) :] = last[-width:]
    return torch.from_numpy(padded).to(device) if padded.any() else None
