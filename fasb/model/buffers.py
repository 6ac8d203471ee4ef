"""Buffers: a layer's keys and values with room for what is run next.

In: keys and values of batches that have run. Out: layers of a cache that are written in place,
where the library's own would copy all that they hold at every pass.
"""

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class BufferLayer(DynamicLayer):
    """One layer's keys and values [row, kv_head, slot, head_dim]; a pass writes from `start` on."""

    def __init__(self, keys: Tensor, values: Tensor, start: int = 0) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys: Tensor = keys
        self.values: Tensor = values
        self.start = start

    def update(
        self,
        key_states: Float[Tensor, "row kv_head token head_dim"],
        value_states: Float[Tensor, "row kv_head token value_dim"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Write tokens to their slots; return keys and values of all slots that are seen."""
        end = self.start + key_states.shape[2]
        self.keys[:, :, self.start : end] = key_states
        self.values[:, :, self.start : end] = value_states
        self.start = end
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the slot of the next token, as masks count."""
        return self.start

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return how many slots are seen, and the first of them."""
        # query_length is of positions, not a number, before transformers 5.4
        return self.keys.shape[2], 0


def part_of(x: Tensor, rows: Tensor, first: int, end: int) -> Tensor:
    """Return a copy of these slots of some rows; a row may be asked for more than once."""
    return x[:, :, first:end].index_select(0, rows.to(x.device))


def gathered(x: Tensor, rows: Tensor, slots: Tensor, room: int) -> Tensor:
    """Return a copy of each row's own slots [row, slot], with room for so many more behind them."""
    n_slots = slots.shape[1]
    buffer = x.new_empty(len(rows), x.shape[1], n_slots + room, x.shape[3])
    # indices on both sides of a slice give [row, slot, kv_head, head_dim], hence the transpose
    index = rows.to(x.device)[:, None], slots.to(x.device)
    buffer[:, :, :n_slots] = x[index[0], :, index[1]].transpose(1, 2)
    return buffer
