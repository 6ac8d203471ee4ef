"""Batches of texts: left-padded, and behind beginnings that are computed once.

In: texts as token ids. Out: a `Batch`, whose rows give what each gives alone. Knows no edit and no
policy.

Padding goes left of everything, never between what is in the cache and what is not: sliding windows
count cache slots, not positions. So with Q the most tokens that a row has beyond its beginning, a
row of n tokens is laid out as

    cache: masked slots | the first n - Q tokens (none where n <= Q)
    input (Q slots): masked slots where n < Q | the last Q tokens

and rows with a shorter rest compute a little of their beginning again. Caches keep full layers, as
sliding ones drop slots.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from fasb.model.buffers import BufferLayer, gathered, part_of
from fasb.model.load import LoadedModel
from fasb.model.rope import check_length, readable_until


@dataclass(frozen=True, slots=True)
class Prefix:
    """Texts that others begin with, and their keys and values [text, kv_head, slot, head_dim].

    The texts end in the last slot.
    """

    texts: tuple[tuple[int, ...], ...]
    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass takes.

    The pass, which is run once, fills `cache`; the rest is never changed.

    ids: the tokens to run. mask: 1 for real tokens, over all slots of the cache once it holds
    `ids`. slots: which of them each column of `ids` takes.
    """

    ids: Int[Tensor, "row column"]
    mask: Int[Tensor, "row slot"]
    slots: Int[Tensor, " column"]
    cache: DynamicCache

    @property
    def width(self) -> int:
        """Columns of `ids`."""
        return self.ids.shape[1]


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all prompts begin with.

    At least one token of each prompt is left over.
    """
    if not prompts:
        return []
    # what the first and the last in order share, all share
    first, last = min(map(list, prompts)), max(map(list, prompts))
    longest = min(len(prompt) for prompt in prompts) - 1
    differ = (n for n in range(longest) if first[n] != last[n])
    return first[: next(differ, max(longest, 0))]


@torch.no_grad()
def compute_prefixes(
    model: LoadedModel, texts: Sequence[Sequence[int]], prefix: Prefix | None = None
) -> Prefix:
    """Return these texts as what others begin with, from one pass behind what they begin with."""
    batch = batch_of(model, texts, prefix)
    forward(model, batch, keep=1)
    return prefix_of(texts, batch)


def compute_prefix(model: LoadedModel, tokens: Sequence[int]) -> Prefix | None:
    """Return what all texts begin with, from one pass of one row; None without tokens."""
    return compute_prefixes(model, [tokens]) if tokens else None


def shared_prefix(model: LoadedModel, texts: Sequence[Sequence[int]]) -> Prefix | None:
    """Return what all texts begin with; None where that is nothing, or there is only one text."""
    return compute_prefix(model, common_prefix(texts)) if len(texts) > 1 else None


def prefix_of(texts: Sequence[Sequence[int]], batch: Batch) -> Prefix:
    """Return a prefix of the texts whose batch has just been run, its keys and values shared."""
    return Prefix(tuple(map(tuple, texts)), keys_and_values(batch.cache))


def keys_and_values(cache: DynamicCache) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return each layer's keys and values of a cache that a pass has filled."""
    layers: Sequence[Any] = cache.layers  # other kinds of layers, without keys, are never filled
    return tuple((layer.keys, layer.values) for layer in layers)


def batch_of(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    prefix: Prefix | None = None,
    begins: Sequence[tuple[int, int]] | None = None,
) -> Batch:
    """Return the texts as one batch, behind what they begin with.

    begins: which of the prefix's texts each begins with, and how many tokens of it count; the whole
    first one where not given, if the text begins so.
    """
    lengths = [len(text) for text in texts]
    if prefix is not None and begins is None:
        begins = [(0, _shared(text, prefix.texts[0])) for text in texts]
    known = [n for _, n in begins] if begins is not None else [0] * len(texts)
    # Q of the layout above, and the slots in front of the input
    width = max(length - n for length, n in zip(lengths, known, strict=True))
    n_cached = max(*lengths, width) - width
    device = model.device
    # tokens of each row in the cache; where negative, so many input slots are masked
    start = torch.tensor([length - width for length in lengths], device=device)
    columns = [[model.pad] * max(width - len(text), 0) + list(text[-width:]) for text in texts]
    slots = torch.arange(n_cached + width, device=device)
    mask = (slots >= (n_cached - start)[:, None]).long()
    cache = DynamicCache()
    if n_cached and prefix is not None and begins is not None:
        masked = [n_cached - (length - width) for length in lengths]
        cache.layers = _beginnings(prefix, [i for i, _ in begins], masked, n_cached, width)
    return Batch(torch.tensor(columns, device=device), mask, slots[n_cached:], cache)


def _beginnings(
    prefix: Prefix, of: Sequence[int], masked: Sequence[int], n_cached: int, width: int
) -> list[Any]:
    """Return each layer's keys and values of the rows' beginnings, with room for `width` tokens.

    They stand behind each row's masked slots, which may hold anything finite.
    """
    first_keys = prefix.layers[0][0]
    n_slots, device = first_keys.shape[2], first_keys.device
    # where each row's text begins in the prefix, and what would come into the row's first slot
    begin = [n_slots - len(prefix.texts[i]) for i in of]
    first = {at - n for at, n in zip(begin, masked, strict=True)}
    rows, end = torch.tensor(of, device=device), max(first) + n_cached + width
    if len(first) == 1 and min(first) >= 0 and end <= n_slots:
        # rows that are run again from some token on: one copy of a slice, room and all
        at = min(first)
        return [
            BufferLayer(part_of(keys, rows, at, end), part_of(values, rows, at, end), n_cached)
            for keys, values in prefix.layers
        ]
    # masked slots repeat the text's first one: nobody sees them
    seen = torch.arange(n_cached, device=device) - torch.tensor(masked, device=device)[:, None]
    source = torch.tensor(begin, device=device)[:, None] + seen.clamp(min=0)
    return [
        BufferLayer(
            gathered(keys, rows, source, width), gathered(values, rows, source, width), n_cached
        )
        for keys, values in prefix.layers
    ]


def _shared(text: Sequence[int], beginning: tuple[int, ...]) -> int:
    """How many tokens of the beginning may stand for the text's own.

    All or none, and never the whole text.
    """
    n = len(beginning)
    return n if len(text) > n and tuple(text[:n]) == beginning else 0


def in_batches(lengths: Sequence[int], size: int, run: Callable[[list[int]], None]) -> None:
    """Run all rows, in batches of like length, longest first.

    Where one does not fit the memory, size is halved.

    Raises:
        torch.OutOfMemoryError: a single row does not fit.
    """
    waiting = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while waiting:
        try:
            run(waiting[:size])
        except torch.OutOfMemoryError:
            if size == 1 or len(waiting) == 1:
                raise
            # min: of a last, smaller batch, half of `size` could be the same batch again
            size = min(size, len(waiting)) // 2
        else:
            waiting = waiting[size:]


def forward(model: LoadedModel, batch: Batch, keep: int = 0) -> Float[Tensor, "row kept vocab"]:
    """Logits of the last `keep` columns, 0 for all; the batch's cache takes in all of them.

    Raises:
        ModelError: a text beyond the model's context, or so long that rotary positions of the
            whole batch would change.
    """
    config = model.model.config.get_text_config(decoder=True)
    limit = readable_until(config)
    if limit is not None and batch.mask.shape[1] > limit:
        # slots hold padding too; only here a GPU waits for the host
        check_length(model.settings.path, config, int(batch.mask.sum(1).max()))
    arguments: dict[str, Any] = {"logits_to_keep": keep} if _takes(model, "logits_to_keep") else {}
    # ALiBi models take none and count from the mask; others that take none are refused (padding.py)
    if _takes(model, "position_ids"):
        arguments["position_ids"] = (
            (batch.mask.cumsum(1) - 1).clamp(min=0).index_select(1, batch.slots)
        )
    logits: Tensor = model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        past_key_values=batch.cache,
        use_cache=True,
        **arguments,
    ).logits
    return logits[:, -keep:]  # -0 is 0: all of them


def _takes(model: LoadedModel, argument: str) -> bool:
    return argument in _parameters(type(model.model).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
