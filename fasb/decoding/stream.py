"""Streaming: one answer as a series of events while it is written, tracked and rolled back.

In: a prompt as token ids, and a bundle. Out: `Event`s; the tokens are those of `decode`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from fasb.data.prompts import clean_answer
from fasb.decoding.controller import BacktrackController
from fasb.decoding.decode import start_live
from fasb.decoding.generate import DecodingBatch, generate
from fasb.decoding.sequences import Sequences
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an answer while it was written.

    token: a token was written; `text` is what it adds, `p` its state's deviation (None where
    nothing looked). back: the text deviated; `text` and `dropped` tokens of it were taken back, `p`
    is what fired, and what follows is written with `strength`. done: the answer is complete; `text`
    is the answer, cleaned.
    """

    kind: Literal["token", "back", "done"]
    text: str
    p: float | None = None
    dropped: int = 0
    strength: float = 0.0
    steered: bool = False


def stream(
    model: LoadedModel, prompt: Sequence[int], bundle: Bundle, siblings: bool = False
) -> Iterator[Event]:
    """Write one answer, and tell of every token and every step back as it happens.

    `siblings` allows other weights and config of the same build.

    Raises:
        BundleError: the bundle was made for another model, or its policy needs a tracker or an edit
            that it does not have.
        DataError: a prompt that is no row of the model's token ids.
    """
    # here and not in the generator, which begins when the first event is asked for
    if bundle.fingerprint is not None:
        bundle.fingerprint.check(model.fingerprint, siblings)
    return _events(model, bundle, *start_live(model, [prompt], bundle))


def _events(
    model: LoadedModel,
    bundle: Bundle,
    sequences: Sequences,
    batch: DecodingBatch,
    controller: BacktrackController,
) -> Iterator[Event]:
    told = _Told(model, sequences, controller)
    if controller.rounds[0]:
        yield told.step_back()
    # hooks are active in a pass only: between two, the model is the caller's
    for _ in generate(sequences, batch, controller):
        yield from told.news(bundle.reads_p)
    yield from told.news(False)
    text = clean_answer(model.decode(sequences.answer(0)), bundle.prompt)
    yield Event("done", text, steered=told.rounds > 0)


@dataclass(slots=True)
class _Told:
    """What a stream has told so far, token by token; a character's last token tells it."""

    model: LoadedModel
    sequences: Sequences
    controller: BacktrackController
    rounds: int = 0
    pieces: list[str] = field(default_factory=list)

    def news(self, waits: bool) -> Iterator[Event]:
        """Tell what has happened since.

        With `waits`, tokens once their state was run, with its p.
        """
        sequences = self.sequences
        if self.controller.rounds[0] > self.rounds:
            # the sequences hold what stays; what was dropped is in the firing alone
            firing = self.controller.last[0]
            yield from self._tokens(firing.tokens, firing.p)
            seen = firing.p[~np.isnan(firing.p)]  # nothing, where it steers from a token on
            yield self.step_back(float(seen[-1]) if len(seen) else None)
        n = int(sequences.n[0])
        while waits and n > len(self.pieces) and np.isnan(sequences.p[0, n]):
            n -= 1
        yield from self._tokens(sequences.answer(0)[:n], sequences.p[0])

    def step_back(self, p: float | None = None) -> Event:
        """Return the event of the row's newest step back."""
        kept = int(self.controller.base[0])
        dropped = self.pieces[kept:]
        del self.pieces[kept:]
        self.rounds = int(self.controller.rounds[0])
        # what steers from the start has fired once, and never stepped back
        firing = self.controller.last.get(0) or self.controller.first[0]
        return Event("back", "".join(dropped), p, len(dropped), firing.in_force)

    def _tokens(self, tokens: list[int], p: Float[np.ndarray, " state"]) -> Iterator[Event]:
        """Tell the tokens that have not been told."""
        for n in range(len(self.pieces), len(tokens)):
            whole, before = self.model.decode(tokens[: n + 1]), "".join(self.pieces)
            self.pieces.append("" if whole.endswith("\ufffd") else whole[len(before) :])
            seen = None if np.isnan(p[n + 1]) else float(p[n + 1])
            strength = float(self.sequences.edited[0, n])
            yield Event("token", self.pieces[-1], seen, strength=strength, steered=self.rounds > 0)
