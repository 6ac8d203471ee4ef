"""Rows that come, go and step back in one cache are written as rows alone are."""

import math

import numpy as np
import pytest
import torch
from steering import some_prompts
from tiny import CONFIGS, FURTHER, tiny_model

from fasb.decoding import slots
from fasb.decoding.slots import SlotCache
from fasb.model.batch import batch_of, common_prefix, compute_prefix, forward

TOKENS = np.random.default_rng(0).integers(3, 150, (6, 40)).tolist()


def whole(model, text):
    ids = torch.tensor([text], device=model.device)
    return model.model(ids, use_cache=False).logits[0, -1]


@pytest.mark.parametrize("slack", [0, 6, 200])
@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_a_batch_whose_rows_come_go_and_step_back(name, slack, monkeypatch):  # noqa: PLR0915
    monkeypatch.setattr(slots, "SLACK", slack)
    model = tiny_model(name)
    prompts = some_prompts(6, seed=2, longest=9)
    prefix = compute_prefix(model, common_prefix(prompts))
    texts = {}  # of each place, what is in the cache
    cache = SlotCache(3, model.fixed_shapes)
    tolerance = 5e-5 if model.model.config._attn_implementation == "eager" else 1e-6

    def put(places, rows):
        batch = batch_of(model, [prompts[row] for row in rows], prefix)
        forward(model, batch)
        cache.put(places, batch)
        for place, row in zip(places, rows, strict=True):
            texts[place] = prompts[row]

    def feed(n):
        for _ in range(n):
            new = [TOKENS[place][len(texts.get(place, []))] for place in range(n_places)]
            ids = torch.tensor(new, device=model.device)[:, None]
            batch = cache.feed(ids, max(map(len, texts.values())))
            logits = forward(model, batch, keep=1)[:, -1]
            for place, text in texts.items():
                texts[place] = [*text, new[place]]
                expected = whole(model, texts[place])
                torch.testing.assert_close(logits[place], expected, rtol=0, atol=tolerance)

    def roll_back(places, dropped):
        cache.roll_back(places, dropped)
        for place, n in zip(places, dropped, strict=True):
            texts[place] = texts[place][: len(texts[place]) - n]

    n_places = 3
    put([0, 2], [0, 1])
    feed(2)
    put([1], [2])
    feed(3)
    roll_back([2, 0], [4, 1])
    feed(2)
    del texts[0]
    put([0], [3])
    roll_back([0], [1])
    feed(2)
    cache.take_out(1)  # all lose their newest token, to be run another way
    for place, text in texts.items():
        texts[place] = text[:-1]
    feed(2)
    cache.keep([2, 0])
    n_places, kept = 2, dict(texts)
    texts.clear()
    texts.update({0: kept[2], 1: kept[0]})
    feed(2)


@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_a_text_of_one_token_that_steps_back_into_full_buffers(name):
    model = tiny_model(name)
    cache = SlotCache(1, model.fixed_shapes)
    batch = batch_of(model, [[5]])
    forward(model, batch)
    cache.put([0], batch)
    n_tokens, full = 1, False
    while not full:
        seen = cache.feed(torch.tensor([[7]], device=model.device), n_tokens)
        forward(model, seen)
        n_tokens += 1
        full = n_tokens == seen.cache.layers[0].keys.shape[2]
    cache.roll_back([0], [n_tokens])
    logits = forward(model, cache.feed(torch.tensor([[5]], device=model.device), 0), keep=1)
    torch.testing.assert_close(logits[0, -1], whole(model, [5]), rtol=0, atol=5e-5)


def test_buffers_are_aligned_and_grow_seldom():
    """And hold little more than what is seen."""
    model = tiny_model()
    cache, sizes = SlotCache(1), set()
    batch = batch_of(model, [[0, 5, 6]])
    forward(model, batch)
    cache.put([0], batch)
    for n in range(3, 200):
        seen = cache.feed(torch.tensor([[7]], device=model.device), n)
        forward(model, seen)
        keys = seen.cache.layers[0].keys
        assert seen.slots.tolist() == [n]
        assert seen.mask.sum() == n + 1
        room = math.sqrt(slots.SLACK * n) + 1 + slots.ALIGNED
        assert keys.shape[2] == seen.mask.shape[1] < n + room
        assert keys.shape[2] % slots.ALIGNED == 0
        sizes.add(keys.shape[2])
    assert len(sizes) <= 14


def test_models_that_count_slots_from_the_end_see_none_behind_the_newest():
    model = tiny_model()
    cache = SlotCache(1, whole=False)
    batch = batch_of(model, [[0, 5, 6]])
    forward(model, batch)
    cache.put([0], batch)
    for n in range(3, 9):
        seen = cache.feed(torch.tensor([[7]], device=model.device), n)
        forward(model, seen)
        assert seen.mask.shape[1] == n + 1
        assert seen.cache.layers[0].get_mask_sizes(1) == (n + 1, 0)
