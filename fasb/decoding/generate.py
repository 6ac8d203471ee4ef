"""Generation: texts that grow by one token at a time, as many at once as a batch holds.

In: `Sequences`, perhaps an edit, a tracker, and who rolls rows back. Out: the same sequences, at
their ends. A row that ends leaves the batch and a waiting one takes its place, so that the batch
stays full; a row that is rolled back goes on in its place; a batch that does not fit the memory is
halved, and its rows go on from what they have.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.decoding.controller import BacktrackController
from fasb.decoding.observe import check_width, not_finite, right_aligned
from fasb.decoding.sequences import Completion, Sequences
from fasb.decoding.slots import SlotCache
from fasb.model.batch import Batch, Prefix, batch_of, forward
from fasb.model.hooks import ActivationRecorder, EditStrength, editing, recording
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.edit import Edit
from fasb.steering.trace import OPEN
from fasb.steering.tracker import Tracker


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a forward pass gave some rows: their next tokens, and p of the state that it ran."""

    rows: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    p: Float[np.ndarray, " n"] | None


class DecodingBatch:
    """A batch in the model's hands: which row is in which place, their KV cache, what is fed next.

    A persistent edit stays in the cache; a transient one is undone at the next token (G8).
    """

    def __init__(
        self,
        model: LoadedModel,
        sequences: Sequences,
        decoding: DecodingSettings,
        prefix: Prefix | None = None,
        edit: Edit | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self._model, self._sequences, self._prefix, self._edit = model, sequences, prefix, edit
        self._tracker = tracker.to(model.device) if tracker is not None else None
        self._transient = edit is not None and decoding.edit == "transient"
        self._recorder: ActivationRecorder | None = None
        self._edit_strength: EditStrength | None = None
        self.resize(min(decoding.batch, len(sequences.n)))

    def resize(self, size: int) -> None:
        """Forget all rows; there are so many places from now on."""
        self._place = np.full(size, -1)  # the row that is there
        self._cached = np.zeros(size, dtype=np.int64)  # tokens of it that have been run
        self._cache = SlotCache(size, self._model.fixed_shapes)
        # of each place, the token that is fed next, and the one before it
        self._newest = torch.zeros((size, 1), dtype=torch.long, device=self._model.device)
        self._previous = self._newest
        self._edited = False  # whether the newest pass was
        # strengths of the newest step, on the host and on the device: they seldom change
        self._sent_strength: tuple[np.ndarray, Tensor] | None = None

    @property
    def size(self) -> int:
        """Places."""
        return len(self._place)

    @property
    def inside(self) -> list[int]:
        """The rows that have a place."""
        return self._place[self._place >= 0].tolist()

    @property
    def n_free(self) -> int:
        """Places without a row."""
        return int((self._place < 0).sum())

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Inside, the tracked units are recorded and the edit is active."""
        if self._recorder is not None or self._edit_strength is not None:
            yield  # already
            return
        layout, tracker = self._model.layout, self._tracker
        with ExitStack() as stack:
            if tracker is not None:
                check_width(layout, tracker)
                self._recorder = stack.enter_context(recording(layout, tracker.site, tracker.at))
            if self._edit is not None:
                self._edit_strength = stack.enter_context(editing(layout, self._edit))
            try:
                yield
            finally:
                self._recorder = self._edit_strength = None

    @torch.inference_mode()
    def admit(self, rows: Sequence[int]) -> StepOutput:
        """Give rows free places: their texts are run."""
        sequences = self._sequences
        texts = [sequences.text(row) for row in rows]
        batch = batch_of(self._model, texts, self._prefix, self._plain_beginnings(rows))
        strengths = [self._strengths(row) for row in rows]
        aligned = right_aligned(strengths, batch.width, batch.ids.device)
        logits, p = self._run(batch, aligned)
        at = sequences.n[list(rows)]
        token = sequences.sampler.pick(logits, _chances(sequences.chance, rows, at))
        places = np.flatnonzero(self._place < 0)[: len(rows)]
        self._cache.put(places.tolist(), batch)
        self._place[places] = rows
        self._cached[places] = [len(text) for text in texts]
        self._edited |= bool(sequences.next_strength(np.array(rows)).any())
        # cloned before they are written to, as both may be one tensor
        index = torch.from_numpy(places).to(token.device)
        self._newest, self._previous = self._newest.clone(), self._previous.clone()
        self._newest[index] = token
        self._previous[index, 0] = torch.tensor([text[-1] for text in texts], device=token.device)
        return self._output(np.array(rows), token, p, logits)

    @torch.inference_mode()
    def step(self) -> StepOutput:
        """Run every row's newest token; return what follows."""
        sequences, taken = self._sequences, self._place >= 0
        rows = self._place[taken]
        # a free place, -1, reads the last row here; what that gives is dropped
        strength = np.where(taken, sequences.next_strength(self._place), 0.0)
        if self._transient and self._edited:
            batch = self._feed_again()
        else:
            batch = self._cache.feed(self._newest, int(self._cached[taken].max()))
        self._cached += 1
        self._previous, self._edited = self._newest, bool(strength.any())
        logits, p = self._run(batch, self._strength_tensor(strength, batch))
        chance = _chances(sequences.chance, self._place, sequences.n[self._place])
        self._newest = sequences.sampler.pick(logits, chance)
        return self._output(rows, self._newest, p, logits, taken)

    def _feed_again(self) -> Batch:
        """Feed the token before once more, now without the edit, and the newest behind it (G8)."""
        nothing_before = self._cached == 0
        longest = int(self._cached[self._place >= 0].max())
        self._cache.take_out(1)
        both = torch.cat([self._previous, self._newest], 1)
        batch = self._cache.feed(both, max(longest - 1, 0))
        batch.mask[torch.from_numpy(nothing_before).to(batch.mask.device), batch.slots[0]] = 0
        return batch

    @torch.inference_mode()
    def roll_back(self, rows: Int[np.ndarray, " n"]) -> None:
        """Take what rows have dropped out of their cache; their last token is run anew.

        What stays was run as it is; it only moves to the last slots.
        """
        sequences, places = self._sequences, np.flatnonzero(np.isin(self._place, rows))
        texts = [sequences.text(row) for row in self._place[places].tolist()]
        stays = np.array([len(text) - 1 for text in texts])
        self._cache.roll_back(places.tolist(), (self._cached[places] - stays).tolist())
        self._cached[places] = stays
        device = self._newest.device
        index = torch.from_numpy(places).to(device)
        newest = torch.tensor([text[-1] for text in texts], device=device)
        fed = torch.tensor([text[max(len(text) - 2, 0)] for text in texts], device=device)
        self._newest, self._previous = self._newest.clone(), self._previous.clone()
        self._newest[index, 0], self._previous[index, 0] = newest, fed

    def leave(self, rows: Sequence[int] | Int[np.ndarray, " n"]) -> None:
        """Free these rows' places."""
        self._place[np.isin(self._place, rows)] = -1

    @torch.inference_mode()
    def shrink(self) -> None:
        """Give up free places once they are a quarter of the batch."""
        # not at every free place, as it copies what stays of the cache
        if self.n_free and self.inside and 4 * self.n_free >= self.size:
            stays = np.flatnonzero(self._place >= 0)
            self._place, self._cached = self._place[stays], self._cached[stays]
            self._cache.keep(stays.tolist())
            index = torch.from_numpy(stays).to(self._newest.device)
            self._newest, self._previous = self._newest[index], self._previous[index]

    def _plain_beginnings(self, rows: Sequence[int]) -> list[tuple[int, int]] | None:
        """Return what of the rows' texts is known from the prefix."""
        if self._prefix is None:
            return None
        found = []
        for row in rows:
            text = self._sequences.begins(row)
            n_known = len(self._prefix.texts[text])
            found.append((text, min(self._sequences.plain_beginning(row), n_known)))
        return found

    def _strengths(self, row: int) -> list[float]:
        """Return what each token of a row is edited with; transient edits only the newest (G8)."""
        strengths = self._sequences.strengths(row)
        return [*[0.0] * (len(strengths) - 1), strengths[-1]] if self._transient else strengths

    def _run(
        self, batch: Batch, strength: Float[Tensor, "row column"] | None
    ) -> tuple[Float[Tensor, "row 1 vocab"], Float[Tensor, " row"] | None]:
        """Return logits and p of the last column."""
        with self.hooked():  # enters the hooks where nobody has, as in a stream
            if self._edit_strength is not None:
                self._edit_strength.strength = strength
            logits = forward(self._model, batch, keep=1)
            if self._recorder is None or self._tracker is None:
                return logits, None
            newest = self._recorder.pop()[:, -1].to(self._model.device)
            return logits, self._tracker.deviation(newest)

    def _strength_tensor(
        self, strength: Float[np.ndarray, " place"], batch: Batch
    ) -> Float[Tensor, "row column"] | None:
        """Return the newest tokens' strengths, sent to the device when they change."""
        if not strength.any():
            return None
        columns = np.column_stack([np.zeros((len(strength), batch.width - 1)), strength])
        if self._sent_strength is None or not np.array_equal(self._sent_strength[0], columns):
            self._sent_strength = columns, torch.from_numpy(columns).to(batch.ids.device)
        return self._sent_strength[1]

    def _output(
        self,
        rows: Int[np.ndarray, " n"],
        token: Int[Tensor, "place 1"],
        p: Float[Tensor, " place"] | None,
        logits: Float[Tensor, "place 1 vocab"],
        taken: np.ndarray | slice = slice(None),
    ) -> StepOutput:
        """Bring tokens and p to the host in one transfer, as it waits for each; refuse what is NaN.

        Raises:
            ModelError: a logit or a tracked activation is not finite.
        """
        # the largest logit is NaN where any is, whichever token was drawn
        # all go in one type, and float64 holds token ids exactly
        columns = [token[:, 0].double(), logits[:, 0].amax(-1).double()]
        columns += [] if p is None else [p.double()]
        found = torch.stack(columns, 1).cpu().numpy()[taken]
        if not np.isfinite(found).all():
            what = "a tracked activation" if np.isfinite(found[:, :2]).all() else "a logit"
            raise not_finite(self._model, what)
        return StepOutput(rows, found[:, 0].astype(np.int64), None if p is None else found[:, 2])


def generate(
    sequences: Sequences, batch: DecodingBatch, controller: BacktrackController | None = None
) -> Iterator[None]:
    """Write every row to its end.

    Yields after every pass, so that one may look at the sequences.
    """
    waiting = sequences.order(range(len(sequences.n)))
    rolled_back = np.zeros(0, dtype=np.int64)
    while waiting or batch.inside:
        try:
            if len(rolled_back):
                batch.roll_back(rolled_back)
            # not one by one: to admit rows is a pass of its own
            new = waiting[: batch.n_free] if 8 * batch.n_free >= batch.size else []
            if not waiting:
                batch.shrink()
            output = batch.admit(new) if new else batch.step()
        except torch.OutOfMemoryError:
            if batch.size == 1:
                raise
            # nothing of this pass was accepted: rows go on from the tokens they have
            waiting = sequences.order([*waiting, *batch.inside])
            batch.resize(batch.size // 2)
            rolled_back = rolled_back[:0]
            continue
        waiting = waiting[len(new) :]
        taken = _take(sequences, output, controller)
        batch.leave([*taken.done, *taken.restarted])
        if taken.restarted:
            waiting = sequences.order([*waiting, *taken.restarted])
        rolled_back = taken.rolled_back
        yield


def complete(sequences: Sequences, batch: DecodingBatch) -> list[Completion]:
    """Write every row to its end; return what followed, in the order of the starts."""
    with batch.hooked():
        for _ in generate(sequences, batch):
            pass
    return sequences.completions()


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the rows of a pass; those that just go on are not named.

    done: they have ended. rolled_back: they fired, and go on in their place from further back, on
    what is in the cache. restarted: they fired, and their whole text has to be run again.
    """

    done: list[int]
    rolled_back: Int[np.ndarray, " back"]
    restarted: list[int]


def _take(
    sequences: Sequences, output: StepOutput, controller: BacktrackController | None
) -> Taken:
    """Roll back the rows that fire; give the others their next token."""
    rows = output.rows
    restarted: list[int] = []
    fired = np.zeros(len(rows), dtype=bool)
    # `newest` judges the state just run, before its next token; `previous` behind it (G2)
    sequences.record_pass(rows, output.p)
    if controller is not None:
        fired, restarted = controller.roll_back(sequences, rows, accepted=False)
    on = ~fired & (sequences.ended[rows] == OPEN)
    sequences.accept(rows[on], output.token[on])
    done = ~fired & (sequences.ended[rows] != OPEN)
    if controller is not None:
        later, more = controller.roll_back(sequences, rows[~fired], accepted=True)
        fired[~fired] = later
        restarted = [*restarted, *more]
        done &= ~fired & ~controller.waits_for_last_state(sequences, rows)
    in_place = fired & ~np.isin(rows, restarted)
    return Taken(rows[done].tolist(), rows[in_place], restarted)


def _chances(
    chance: Float[np.ndarray, "row token"],
    rows: Sequence[int] | Int[np.ndarray, " n"],
    at: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "n 1"]:
    """Return a uniform random number for the token of each row at `at`.

    Behind the limit there is none: that token is dropped, so any number serves.
    """
    return chance[np.asarray(rows), at.clip(0, chance.shape[1] - 1)][:, None]
