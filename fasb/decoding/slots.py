"""Slots: the KV cache of a batch whose rows come, go and roll back while others are being written.

In: batches that have run (`fasb/model/batch.py`). Out: the next batch of a token or two of all
rows. Every row's newest token stands in the same slot, and what a row has ends there; the other
slots are masked. Models see whole buffers, whose shape stays the same for some tokens, and which a
processor reads faster than parts with gaps between. Knows no text and no edit.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from fasb.model.batch import Batch, keys_and_values
from fasb.model.buffers import BufferLayer

SLACK = 6
"""Buffers of n tokens have room for the root of so many times n more.

Room costs its reading at every token, half of it on average; new buffers cost three to four times
the reading of their tokens (a CPU), once per room. The root makes the sum smallest.
"""

ALIGNED = 8
"""Buffers hold a multiple of so many slots, as attention kernels want of a mask."""


class SlotLayer(BufferLayer):
    """One layer's keys and values, in buffers made like those of a batch that has run.

    upto: attention sees the slots before this one; None: all of them.
    """

    def __init__(self, keys: Tensor, values: Tensor, n_rows: int) -> None:
        super().__init__(_empty_like(keys, n_rows), _empty_like(values, n_rows))
        self.upto: int | None = None

    def update(
        self,
        key_states: Float[Tensor, "row kv_head token head_dim"],
        value_states: Float[Tensor, "row kv_head token value_dim"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write tokens to their slots; return keys and values of all slots that are seen."""
        keys, values = super().update(key_states, value_states)
        return keys[:, :, : self.upto], values[:, :, : self.upto]

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return how many slots are seen, and the first of them."""
        return self.upto or super().get_mask_sizes(query_length)[0], 0

    def put(self, rows: Int[Tensor, " new"], keys: Tensor, values: Tensor, end: int) -> None:
        """Put these keys and values [new, kv_head, slot, dim] into the rows' slots up to `end`."""
        at, first = rows.to(self.keys.device), end - keys.shape[2]
        self.keys[at, :, first:end] = keys
        self.values[at, :, first:end] = values

    def step_back(self, rows: Int[Tensor, " some"], n_back: int, first: int, end: int) -> None:
        """Move what these rows have from slot `first` on by `n_back` to the right, up to `end`."""
        at, stays = rows.to(self.keys.device), end - n_back
        # indexing copies, as the slots that are read and written overlap
        self.put(rows, self.keys[at, :, first:stays], self.values[at, :, first:stays], end)

    def move(self, first: int, end: int, to: int, n_slots: int) -> None:
        """Move these slots into new buffers of `n_slots`, where they end at `to`."""
        self.keys = _moved(self.keys, first, end, to, n_slots)
        self.values = _moved(self.values, first, end, to, n_slots)

    def keep(self, rows: Int[Tensor, " stays"]) -> None:
        """Keep only these rows."""
        at = rows.to(self.keys.device)
        self.keys, self.values = self.keys[at], self.values[at]


class SlotCache:
    """All layers of so many rows, and their mask.

    A row without text is masked but for the newest slots. whole: the model takes buffers that go on
    behind the newest token; some architectures count slots from the end.
    """

    def __init__(self, n_rows: int, whole: bool = True) -> None:
        # slots from `first` to before `end` are in use; all newest tokens are at end - 1
        self._n_rows, self._whole, self._first, self._end = n_rows, whole, 0, 0
        self._cache: DynamicCache | None = None
        self._mask: Tensor = torch.zeros(n_rows, 0, dtype=torch.long)

    def put(self, rows: Sequence[int], batch: Batch) -> None:
        """Let rows of a batch that has run take these places."""
        if self._cache is None:
            self._cache = DynamicCache()
            pairs = keys_and_values(batch.cache)
            self._cache.layers = [SlotLayer(*pair, self._n_rows) for pair in pairs]
            self._mask = batch.mask.new_zeros(self._n_rows, 0)
        width = batch.mask.shape[1]
        if width > self._end:
            self._make_room(max(width, self._end - self._first))
        self._first = min(self._first, self._end - width)
        at = torch.tensor(rows, device=self._mask.device)
        for layer, (keys, values) in zip(self._layers, keys_and_values(batch.cache), strict=True):
            layer.put(at, keys, values, self._end)
        self._mask[at] = 0
        self._mask[at, self._end - width : self._end] = batch.mask

    def roll_back(self, rows: Sequence[int], dropped: Sequence[int]) -> None:
        """Take the last `dropped` tokens out of each of these rows."""
        of_number: dict[int, list[int]] = {}
        for row, n_back in zip(rows, dropped, strict=True):
            of_number.setdefault(n_back, []).append(row)
        for n_back, members in of_number.items():
            at, stays = torch.tensor(members, device=self._mask.device), self._end - n_back
            seen = self._mask[at, self._first : stays]
            self._mask[at, self._first : self._first + n_back] = 0
            self._mask[at, self._first + n_back : self._end] = seen
            for layer in self._layers:
                layer.step_back(at, n_back, self._first, self._end)

    def feed(self, ids: Int[Tensor, "row new"], longest: int) -> Batch:
        """Return the batch that runs the next tokens of all rows; `longest` row's tokens so far."""
        assert self._cache is not None
        self._first, width = self._end - longest, ids.shape[1]
        if self._end + width > self._mask.shape[1]:
            # behind a free slot at least: alone in the first of several, a token would see them
            # all, as transformers leaves the mask out there (seen in 5.23)
            self._make_room(max(longest, 1), width)
        start = self._end
        self._mask[:, start : start + width] = 1
        self._end += width
        upto = None if self._whole else self._end
        for layer in self._layers:
            layer.start, layer.upto = start, upto
        slots = torch.arange(start, self._end, device=ids.device)
        return Batch(ids, self._mask[:, :upto], slots, self._cache)

    def take_out(self, n_tokens: int) -> None:
        """Take the newest tokens of all rows out again, to be run another way."""
        self._mask[:, self._end - n_tokens : self._end] = 0
        self._end -= n_tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        self._n_rows = len(rows)
        if self._cache is None:
            return
        at = torch.tensor(rows, device=self._mask.device)
        self._mask = self._mask[at]
        for layer in self._layers:
            layer.keep(at)

    @property
    def _layers(self) -> list[SlotLayer]:
        assert self._cache is not None
        return self._cache.layers  # type: ignore[return-value]

    def _make_room(self, end: int, more: int = 0) -> None:
        """Make new buffers with room for `more` behind `end`, where all that is seen moves to."""
        n_slots = math.ceil((end + max(more, math.sqrt(SLACK * end))) / ALIGNED) * ALIGNED
        n_seen = self._end - self._first
        mask = self._mask.new_zeros(self._n_rows, n_slots)
        mask[:, end - n_seen : end] = self._mask[:, self._first : self._end]
        for layer in self._layers:
            layer.move(self._first, self._end, end, n_slots)
        self._mask, self._first, self._end = mask, end - n_seen, end


def _empty_like(x: Tensor, n_rows: int) -> Tensor:
    """Return a buffer without slots for so many rows."""
    return x.new_zeros(n_rows, x.shape[1], 0, x.shape[3])


def _moved(x: Tensor, first: int, end: int, to: int, n_slots: int) -> Tensor:
    fresh = x.new_zeros(*x.shape[:2], n_slots, x.shape[3])
    fresh[:, :, to - (end - first) : to] = x[:, :, first:end]
    return fresh
