"""Room: the key/value cache of a batch whose rows come and go while others are being written.

In: batches that have run (`fasb.model.batch`). Out: the next batch of a token or two of all rows.
Every row's newest token stands in the same slot, and what a row has ends there; the other slots are
masked. Models see whole buffers, whose shape and place in memory stay the same for `SLACK` tokens,
and which a processor reads faster than parts with gaps between. Knows no text and no edit.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fasb.model.batch import Batch

SLACK = 64
"""Tokens that buffers have room for beyond what is in them."""

ALIGNED = 8
"""Buffers hold a multiple of so many slots, as attention kernels want of a mask."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values; what is run next goes to `slots`, a tensor, as a recorded pass reads it anew."""

    def __init__(self, like: DynamicLayer, n_rows: int, slots: Int[Tensor, " column"]) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = like.keys.dtype, like.keys.device, True
        self.keys, self.values = (
            x.new_zeros(n_rows, x.shape[1], 0, x.shape[3]) for x in (like.keys, like.values)
        )
        self.slots = slots
        self.upto: int | None = None
        """The slots that are seen; all where None."""

    def update(
        self,
        key_states: Float[Tensor, "row kv_head token head_dim"],
        value_states: Float[Tensor, "row kv_head token value_dim"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write tokens to their slots; keys and values of all slots that are seen."""
        slots = self.slots.to(self.device)
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys[:, :, : self.upto], self.values[:, :, : self.upto]

    def get_seq_length(self) -> Tensor:  # type: ignore[override]
        """The slot of the next token, as masks count."""
        return self.slots[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many slots are seen, and the first of them."""
        return self.upto or self.keys.shape[2], 0

    def seen(self, rows: Int[Tensor, " some"], first: int, end: int) -> tuple[Tensor, Tensor]:
        """A copy of these slots of some rows."""
        at = rows.to(self.device)
        return self.keys[at, :, first:end], self.values[at, :, first:end]

    def put(
        self,
        rows: Int[Tensor, " new"],
        states: tuple[Tensor, Tensor],
        source: Int[Tensor, "new slot"],
        end: int,
    ) -> None:
        """The given slots of other keys and values, in these rows' slots up to `end`."""
        begin = end - source.shape[1]
        for buffer, x in zip((self.keys, self.values), states, strict=True):
            at = source.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
            buffer[rows.to(x.device), :, begin:end] = x.gather(2, at)

    def move(self, first: int, end: int, to: int, n_slots: int) -> None:
        """These slots, in new buffers of so many, up to `to`."""
        fresh = [x.new_zeros(*x.shape[:2], n_slots, x.shape[3]) for x in (self.keys, self.values)]
        for buffer, x in zip(fresh, (self.keys, self.values), strict=True):
            buffer[:, :, to - (end - first) : to] = x[:, :, first:end]
        self.keys, self.values = fresh

    def keep(self, rows: Int[Tensor, " stays"]) -> None:
        """Only these rows stay."""
        at = rows.to(self.device)
        self.keys, self.values = self.keys[at], self.values[at]


class Room:
    """All layers of so many rows, and their mask. A row without text is masked but for the newest slots.

    whole: the model takes buffers that go on behind the newest token; some count from their end.
    """

    def __init__(self, n_rows: int, whole: bool = True) -> None:
        self._n_rows, self._whole, self._first, self._end = n_rows, whole, 0, 0
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None
        self._fed: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # ids and slots, by how many tokens are fed
        self.made = 0
        """How often buffers were made anew; until the next time, batches of one width have the same
        tensors."""

    def put(self, rows: Sequence[int], batch: Batch, dropped: Sequence[int]) -> None:
        """Rows of a batch that has run take these places, each without its last `dropped` tokens."""
        if self._cache is None:
            self._cache, slots = DynamicCache(), batch.ids.new_zeros(1)
            self._cache.layers = [
                RoomyLayer(layer, self._n_rows, slots) for layer in batch.cache.layers
            ]
            self._mask = batch.mask.new_zeros(self._n_rows, 0)
        width = batch.mask.shape[1]
        if width > self._end:
            self._move(max(width, self._end - self._first))
        self._first = min(self._first, self._end - width)
        layers = [(layer.keys, layer.values) for layer in batch.cache.layers]
        self._copy(rows, layers, batch.mask, dropped)

    def rewind(self, rows: Sequence[int], dropped: Sequence[int]) -> None:
        """These rows lose their last `dropped` tokens."""
        index = torch.tensor(rows, device=self._mask.device)
        layers = [layer.seen(index, self._first, self._end) for layer in self._cache.layers]
        self._copy(rows, layers, self._mask[index, self._first : self._end], dropped)

    def feed(self, ids: Int[Tensor, "row new"], longest: int) -> Batch:
        """The batch that runs the next tokens of all rows; the longest of them has so many tokens in the cache."""
        assert self._cache is not None
        self._first, width = self._end - longest, ids.shape[1]
        if self._end + width > self._mask.shape[1]:
            self._move(longest)
        fed, slots = self._fed.setdefault(width, (torch.empty_like(ids), ids.new_empty(width)))
        fed.copy_(ids)
        torch.arange(self._end, self._end + width, out=slots)
        self._mask[:, self._end : self._end + width] = 1
        self._end += width
        upto = None if self._whole else self._end
        for layer in self._cache.layers:
            layer.slots, layer.upto = slots, upto
        return Batch(fed, self._mask[:, :upto], slots, self._cache)

    def back(self, n_tokens: int) -> None:
        """The newest tokens of all rows are taken out again, to be run another way."""
        self._mask[:, self._end - n_tokens : self._end] = 0
        self._end -= n_tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self._n_rows = len(rows)
        if self._cache is None:
            return
        at = torch.tensor(rows, device=self._mask.device)
        self._mask, self._fed = self._mask[at], {}
        for layer in self._cache.layers:
            layer.keep(at)
        self.made += 1

    def _copy(
        self,
        rows: Sequence[int],
        layers: Sequence[tuple[Tensor, Tensor]],
        mask: Int[Tensor, "new slot"],
        dropped: Sequence[int],
    ) -> None:
        """These slots become the rows' last ones, without the last `dropped` of each."""
        width, device = mask.shape[1], mask.device
        at, back = torch.tensor(rows, device=device), torch.tensor(dropped, device=device)
        source = torch.arange(width, device=device) - back[:, None]
        for ours, theirs in zip(self._cache.layers, layers, strict=True):
            ours.put(at, theirs, source.clamp(min=0), self._end)
        self._mask[at] = 0
        self._mask[at, self._end - width : self._end] = mask.gather(1, source.clamp(min=0)) * (
            source >= 0
        )

    def _move(self, end: int) -> None:
        """New buffers with room behind `end`, up to which everything that is seen moves."""
        n_slots = -(-(end + SLACK) // ALIGNED) * ALIGNED
        mask = self._mask.new_zeros(self._n_rows, n_slots)
        mask[:, end - (self._end - self._first) : end] = self._mask[:, self._first : self._end]
        for layer in self._cache.layers:
            layer.move(self._first, self._end, end, n_slots)
        self._mask, self._first, self._end = mask, end - (self._end - self._first), end
        self.made += 1
