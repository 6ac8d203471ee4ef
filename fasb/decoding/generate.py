"""Stepping: texts that grow by one token at a time, as many at once as a batch holds.

In: where rows begin, and perhaps an edit or a tracker. Out: their tokens and how each ended. A row
that ends leaves the batch and a waiting one takes its place, so that the batch stays full; a batch
that does not fit the memory is halved, and its rows go on from what they have. Knows no policy:
`Watch` is who is asked whether a row steps back.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.decoding.observe import right_aligned
from fasb.decoding.sequences import Growth, Written
from fasb.decoding.slots import Room
from fasb.model.batch import Batch, Prefix, batch_of, forward
from fasb.model.hooks import Dial, Reader, editing, reading
from fasb.model.load import LoadedModel
from fasb.model.recording import Recordings
from fasb.settings import DecodingSettings
from fasb.steering.edit import Edit
from fasb.steering.trace import OPEN
from fasb.steering.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Steering:
    """The edit of a batch; `persistent` edits stay in the cache, transient ones are undone at the next token (G8)."""

    edit: Edit
    persistent: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass gave some rows: their next tokens, and p of the state that it ran.

    One token each, but for a row that began with a draft: its first `n_new`.
    """

    rows: Int[np.ndarray, " n"]
    token: Int[np.ndarray, "n new"]
    n_new: Int[np.ndarray, " n"]
    p: Float[np.ndarray, " n"] | None


class Rows:
    """A batch in the model's hands: which row of a `Growth` is in which place, their cache, and what is fed next."""

    def __init__(
        self,
        model: LoadedModel,
        growth: Growth,
        decoding: DecodingSettings,
        prefix: Prefix | None = None,
        steering: Steering | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self._model, self._growth, self._prefix, self._steering = model, growth, prefix, steering
        self._tracker = tracker.to(model.device) if tracker is not None else None
        self._transient = steering is not None and not steering.persistent
        self._reader: Reader | None = None
        self._dial: Dial | None = None
        self._recorded = decoding.cuda_graphs
        self.resize(min(decoding.batch, len(growth.n)))

    def resize(self, size: int) -> None:
        """Forget all rows; so many places from now on."""
        self._place = np.full(size, -1)  # the row that is there
        self._cached = np.zeros(size, dtype=np.int64)  # tokens of it that have been run
        self._room = Room(size, self._model.fixed_shapes)
        # of each place, the token that is fed next, and the one before it
        self._newest = self._fed = torch.zeros(
            (size, 1), dtype=torch.long, device=self._model.device
        )
        self._edited = False  # whether the newest pass was
        self._dialed: dict[
            tuple[int, ...], tuple[np.ndarray, Tensor]
        ] = {}  # strengths of the newest step, by shape
        self._recordings = Recordings(self._model) if self._recorded else None

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
        """Inside, the tracker's heads are read and the edit is active; a head is read before its own edit."""
        if self._reader is not None or self._dial is not None:
            yield  # already
            return
        layout = self._model.layout
        with ExitStack() as stack:
            if self._tracker is not None:
                self._reader = stack.enter_context(reading(layout, self._tracker.heads))
            if self._steering is not None:
                self._dial = stack.enter_context(editing(layout, self._steering.edit))
            try:
                yield
            finally:
                self._reader = self._dial = None

    @torch.inference_mode()
    def admit(self, rows: Sequence[int]) -> Pass:
        """Rows take free places: their texts are run, and their drafts behind them."""
        growth = self._growth
        drafts = [
            [] if self._tracker is not None or self._transient else growth.draft(row)
            for row in rows
        ]
        n_draft, keep = np.array([len(draft) for draft in drafts]), max(map(len, drafts)) + 1
        texts = [growth.text(row) + draft for row, draft in zip(rows, drafts, strict=True)]
        batch = batch_of(self._model, texts, self._prefix, self._begins(rows))
        strengths = [self._strengths(*pair) for pair in zip(rows, n_draft.tolist(), strict=True)]
        logits, deviation = self._run(
            batch, keep, right_aligned(strengths, batch.width, batch.ids.device)
        )
        # the last columns of all rows: what follows the text stands n_draft before the end
        at = growth.n[rows][:, None] + n_draft[:, None] - np.arange(keep)[::-1]
        token, p = _on_host(growth.sampler.pick(logits, _at(growth.chance, rows, at)), deviation)
        new = np.take_along_axis(
            token, np.minimum(keep - 1 - n_draft[:, None] + np.arange(keep), keep - 1), axis=1
        )
        n_right = np.array(
            [_n_equal(row, draft) for row, draft in zip(new.tolist(), drafts, strict=True)]
        )
        self._settle(rows, texts, batch, n_draft - n_right, new[np.arange(len(rows)), n_right])
        return Pass(np.array(rows), new, n_right + 1, p)

    @torch.inference_mode()
    def step(self) -> Pass:
        """The next token of every row in the batch."""
        growth, taken = self._growth, self._place >= 0
        rows = self._place[taken]
        strength = np.where(taken, growth.strength[self._place], 0.0)
        ids, longest = self._newest, int(self._cached[taken].max())
        alone = self._cached == 0  # nothing stands before the newest token
        again = self._transient and self._edited
        self._cached += 1
        if again:  # the token before is fed once more, now without the edit
            self._room.back(1)
            ids, longest = torch.cat([self._fed, ids], 1), max(longest - 1, 0)
        batch = self._room.feed(ids, longest)
        if again:
            batch.mask[torch.from_numpy(alone).to(batch.mask.device), batch.slots[0]] = 0
        self._fed, self._edited = self._newest, bool(strength.any())
        logits, deviation = self._steady(batch, self._dial_at(strength, batch))
        self._newest = growth.sampler.pick(
            logits, _at(growth.chance, self._place, growth.n[self._place][:, None])
        )
        token, p = _on_host(self._newest, deviation)
        return Pass(
            rows, token[taken], np.ones(len(rows), dtype=np.int64), None if p is None else p[taken]
        )

    @torch.inference_mode()
    def rewind(self, rows: Int[np.ndarray, " n"]) -> None:
        """After rows have stepped back: what was dropped is taken out of their cache, and their last token is run anew.

        What stays was run as it is; it only moves to the last slots.
        """
        growth, places = self._growth, np.flatnonzero(np.isin(self._place, rows))
        texts = [growth.text(row) for row in self._place[places].tolist()]
        stays = np.array([len(text) - 1 for text in texts])
        self._room.rewind(places.tolist(), (self._cached[places] - stays).tolist())
        self._cached[places] = stays
        self._feed(
            places, [text[-1] for text in texts], [text[max(len(text) - 2, 0)] for text in texts]
        )

    def leave(self, rows: Int[np.ndarray, " n"]) -> None:
        """These rows' places are free."""
        self._place[np.isin(self._place, rows)] = -1

    @torch.inference_mode()
    def shrink(self) -> None:
        """Give up free places once they are a quarter of the batch."""
        if 0 < 4 * self.n_free >= self.size > self.n_free:
            stays = np.flatnonzero(self._place >= 0)
            self._place, self._cached = self._place[stays], self._cached[stays]
            self._room.keep(stays.tolist())
            index = torch.from_numpy(stays).to(self._newest.device)
            self._newest, self._fed = self._newest[index], self._fed[index]

    def _begins(self, rows: Sequence[int]) -> list[tuple[int, int]] | None:
        """What of the rows' texts is known from the prefix."""
        if self._prefix is None:
            return None
        known = [self._growth.begins(row) for row in rows]
        return [(i, min(n, len(self._prefix.texts[i]))) for i, n in known]

    def _strengths(self, row: int, n_draft: int) -> list[float]:
        """Of the answer's states and a draft's, up to the end: what each is edited with."""
        growth = self._growth
        n, strength = int(growth.n[row]), float(growth.strength[row])
        before = [0.0] * n if self._transient else growth.edited[row, :n].tolist()
        return [*before, *[strength] * (1 + n_draft)]

    def _run(
        self, batch: Batch, keep: int, strength: Float[Tensor, "row column"] | None
    ) -> tuple[Float[Tensor, "row kept vocab"], Float[Tensor, " row"] | None]:
        """Logits of the last columns, p of the last; `strength` as a dial takes it."""
        with self.hooked():
            if self._dial is not None:
                self._dial.strength = strength
            logits = forward(self._model, batch, keep)
            if self._reader is None or self._tracker is None:
                return logits, None
            return logits, self._tracker.deviation(
                self._reader.take()[:, -1].to(self._model.device)
            )

    def _steady(
        self, batch: Batch, strength: Float[Tensor, "row column"] | None
    ) -> tuple[Float[Tensor, "row 1 vocab"], Float[Tensor, " row"] | None]:
        """`_run` of a step, recorded where that is asked for."""
        if self._recordings is None:
            return self._run(batch, 1, strength)
        kind = batch.width, strength is not None
        return self._recordings.run(self._room.made, kind, lambda: self._run(batch, 1, strength))

    def _dial_at(
        self, strength: Float[np.ndarray, " place"], batch: Batch
    ) -> Float[Tensor, "row column"] | None:
        """Of a step's newest tokens, as a dial takes it; sent to the device when it changes, to the same place."""
        key = np.column_stack([np.zeros((len(strength), batch.width - 1)), strength])
        if not key.any():
            return None
        before, dialed = self._dialed.get(key.shape, (None, None))
        if before is None or not np.array_equal(before, key):
            new = torch.from_numpy(key).to(batch.ids.device)
            self._dialed[key.shape] = key, new if dialed is None else dialed.copy_(new)
        return self._dialed[key.shape][1]

    def _settle(
        self,
        rows: Sequence[int],
        texts: list[list[int]],
        batch: Batch,
        dropped: Int[np.ndarray, " n"],
        newest: Int[np.ndarray, " n"],
    ) -> None:
        """Rows that were run take places, without what was wrong in their drafts."""
        places = np.flatnonzero(self._place < 0)[: len(rows)]
        self._room.put(places.tolist(), batch, dropped.tolist())
        self._place[places] = rows
        self._cached[places] = [len(text) for text in texts] - dropped
        fed = [text[-1 - n] for text, n in zip(texts, dropped.tolist(), strict=True)]
        self._feed(places, newest.tolist(), fed)
        self._edited |= bool(self._growth.strength[list(rows)].any())

    def _feed(
        self, places: Int[np.ndarray, " n"], newest: Sequence[int], fed: Sequence[int]
    ) -> None:
        """What is fed next in these places, and what was before it."""
        device = self._newest.device
        index = torch.from_numpy(places).to(device)
        self._newest, self._fed = self._newest.clone(), self._fed.clone()
        self._newest[index, 0] = torch.tensor(newest, device=device)
        self._fed[index, 0] = torch.tensor(fed, device=device)


@runtime_checkable
class Watch(Protocol):
    """Who is asked, after every pass, whether rows step back, and told what they are steered with."""

    def back(
        self, growth: Growth, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> Bool[np.ndarray, " n"]:
        """Set those rows back that deviate, before or after their next token is accepted; which these are."""

    def waits(self, growth: Growth, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which rows, having ended, stay for one more pass, as their last state is still to be judged."""


def grow(rows: Rows, growth: Growth, watch: Watch | None = None) -> Iterator[None]:
    """Write every row to its end; stops after every pass, so that one may look at `growth`."""
    waiting, back = growth.order(range(len(growth.n))), np.zeros(0, dtype=np.int64)
    while waiting or rows.inside:
        try:
            if len(back):
                rows.rewind(back)
            new = waiting[: rows.n_free] if 8 * rows.n_free >= rows.size else []
            if not waiting:
                rows.shrink()
            seen = rows.admit(new) if new else rows.step()
        except torch.OutOfMemoryError:
            if rows.size == 1:
                raise
            waiting = growth.order([*waiting, *rows.inside])
            rows.resize(rows.size // 2)
            back = back[:0]
            continue
        waiting = waiting[len(new) :]
        goes, back = _take(growth, seen, watch)
        growth.done(goes)
        rows.leave(goes)
        yield


def write(
    model: LoadedModel,
    growth: Growth,
    decoding: DecodingSettings,
    prefix: Prefix | None,
    steering: Steering | None = None,
) -> list[Written]:
    """Write all rows to their end; in the order of the starts."""
    rows = Rows(model, growth, decoding, prefix, steering)
    with rows.hooked():
        for _ in grow(rows, growth):
            pass
    return growth.written()


def _take(
    growth: Growth, seen: Pass, watch: Watch | None
) -> tuple[Int[np.ndarray, " goes"], Int[np.ndarray, " back"]]:
    """Accept what a pass gave; the rows that are done, and those that stepped back."""
    rows = seen.rows
    growth.run(rows, seen.p)
    back = watch.back(growth, rows, accepted=False) if watch else np.zeros(len(rows), dtype=bool)
    for i in range(seen.token.shape[1]):
        on = ~back & (i < seen.n_new) & (growth.ended[rows] == OPEN)
        if i:  # a draft's states were run as well
            growth.run(rows[on], None)
        growth.accept(rows[on], seen.token[on, i])
    goes = ~back & (growth.ended[rows] != OPEN)
    if watch:
        back[~back] = watch.back(growth, rows[~back], accepted=True)
        goes &= ~back & ~watch.waits(growth, rows)
    return rows[goes], rows[back]


def _on_host(
    token: Int[Tensor, "row new"], p: Float[Tensor, " row"] | None
) -> tuple[Int[np.ndarray, "row new"], Float[np.ndarray, " row"] | None]:
    """Both, in one transfer, as the host waits for each; double holds them exactly."""
    if p is None:
        return token.cpu().numpy(), None
    both = torch.column_stack([token.double(), p.double()]).cpu().numpy()
    return both[:, :-1].astype(np.int64), both[:, -1]


def _at(
    chance: Float[np.ndarray, "row token"],
    rows: Sequence[int] | Int[np.ndarray, " n"],
    at: Int[np.ndarray, "n k"],
) -> Float[np.ndarray, "n k"]:
    """The chances of these tokens of these rows; of any where there is none."""
    return chance[np.asarray(rows)[:, None], at.clip(0, chance.shape[1] - 1)]


def _n_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many items two lists have in common from the start."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
