"""Room: the key/value cache of a batch whose rows come and go while others are being written.

In: batches that have run (`fasb.model.prefix`). Out: the next one-token batch of all rows. Every row's newest token
stands in the last slot, so that all are written at one place, and what a row has begins where its text begins; the
slots before are masked. Nothing is copied at a token; buffers are made anew every `SLACK` tokens. Knows no text and
no edit.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fasb.model.prefix import Batch

SLACK = 64
"""Tokens that buffers have room for beyond what is in them."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values: slots `first` to `end` of larger buffers."""

    def __init__(self, like: DynamicLayer, n_rows: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = like.keys.dtype, like.keys.device, True
        self._buffers = tuple(x.new_zeros(n_rows, x.shape[1], 0, x.shape[3]) for x in (like.keys, like.values))
        self.look(0, 0)

    def look(self, first: int, end: int) -> None:
        """What the model sees from now on."""
        self._first, self._end = first, end
        self.keys, self.values = (x[..., first:end, :] for x in self._buffers)

    def update(
        self,
        key_states: Float[Tensor, "row kv_head token head_dim"],
        value_states: Float[Tensor, "row kv_head token value_dim"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Append tokens; all keys and values that are seen."""
        end = self._end + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., self._end : end, :] = states
        self.look(self._first, end)
        return self.keys, self.values

    def of(self, rows: Int[Tensor, " some"]) -> tuple[Tensor, Tensor]:
        """A copy of what is seen of some rows."""
        return self.keys[rows.to(self.keys.device)], self.values[rows.to(self.values.device)]

    def put(self, rows: Int[Tensor, " new"], states: tuple[Tensor, Tensor], source: Int[Tensor, "new slot"]) -> None:
        """The given slots of other keys and values, in the last slots of these rows."""
        begin = self._end - source.shape[1]
        for buffer, x in zip(self._buffers, states, strict=True):
            at = source.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
            buffer[rows.to(x.device), :, begin : self._end] = x.gather(2, at)

    def move(self, end: int, n_slots: int) -> None:
        """What is seen, in new buffers of so many slots, up to `end`."""
        seen = self._end - self._first
        fresh = []
        for x in self._buffers:
            buffer = x.new_zeros(*x.shape[:2], n_slots, x.shape[3])
            buffer[:, :, end - seen : end] = x[:, :, self._first : self._end]
            fresh.append(buffer)
        self._buffers = tuple(fresh)
        self.look(end - seen, end)

    def keep(self, rows: Int[Tensor, " stays"]) -> None:
        """Only these rows stay."""
        self._buffers = tuple(x[rows.to(x.device)] for x in self._buffers)
        self.look(self._first, self._end)


class Room:
    """All layers of so many rows, and their mask. A row without text is masked but for the newest slots."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows, self._first, self._end, self._n_slots = n_rows, 0, 0, 0
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None

    def put(self, rows: Sequence[int], batch: Batch, dropped: Sequence[int]) -> None:
        """Rows of a batch that has run take these places, each without its last `dropped` tokens."""
        if self._cache is None:
            self._cache = DynamicCache()
            self._cache.layers = [RoomyLayer(layer, self._n_rows) for layer in batch.cache.layers]
            self._mask = batch.mask.new_zeros(self._n_rows, 0)
        width = batch.mask.shape[1]
        if width > self._end:
            self._move(max(width, self._end - self._first))
        self._first = min(self._first, self._end - width)
        layers = [(layer.keys, layer.values) for layer in batch.cache.layers]
        self._copy(rows, layers, batch.mask, dropped)

    def rewind(self, rows: Sequence[int], dropped: Sequence[int]) -> None:
        """These rows lose their last `dropped` tokens."""
        for layer in self._cache.layers:
            layer.look(self._first, self._end)
        index = torch.tensor(rows, device=self._mask.device)
        layers = [layer.of(index) for layer in self._cache.layers]
        self._copy(rows, layers, self._mask[index, self._first : self._end], dropped)

    def feed(self, ids: Int[Tensor, "row new"], longest: int) -> Batch:
        """The batch that runs the next tokens of all rows; the longest of them has so many tokens in the cache."""
        assert self._cache is not None
        self._first = self._end - longest
        if self._end + ids.shape[1] > self._n_slots:
            self._move(self._end - self._first)
        for layer in self._cache.layers:
            layer.look(self._first, self._end)
        self._mask[:, self._end : self._end + ids.shape[1]] = 1
        self._end += ids.shape[1]
        return Batch(ids, self._mask[:, self._first : self._end], ids.new_zeros(len(ids)), self._cache)

    def back(self, n_tokens: int) -> None:
        """The newest tokens of all rows are taken out again, to be run another way."""
        self._end -= n_tokens
        for layer in self._cache.layers if self._cache is not None else ():
            layer.look(min(self._first, self._end), self._end)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self._n_rows = len(rows)
        if self._cache is None:
            return
        at = torch.tensor(rows, device=self._mask.device)
        self._mask = self._mask[at]
        for layer in self._cache.layers:
            layer.keep(at)

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
            ours.put(at, theirs, source.clamp(min=0))
        self._mask[at] = 0
        self._mask[at, self._end - width : self._end] = mask.gather(1, source.clamp(min=0)) * (source >= 0)

    def _move(self, end: int) -> None:
        """New buffers with room behind `end`, up to which everything that is seen moves."""
        seen = self._end - self._first
        n_slots = end + SLACK
        mask = self._mask.new_zeros(self._n_rows, n_slots)
        mask[:, end - seen : end] = self._mask[:, self._first : self._end]
        for layer in self._cache.layers:
            layer.look(self._first, self._end)
            layer.move(end, n_slots)
        self._mask, self._first, self._end, self._n_slots = mask, end - seen, end, n_slots
