"""Rows that come, go and step back in one cache are written as rows alone are."""

import numpy as np
import pytest
import torch
from steering import some_prompts
from tiny import CONFIGS, FURTHER, tiny_model

from fasb.decoding import slots as room
from fasb.decoding.slots import Room
from fasb.model.batch import batch_of, common_prefix, compute_prefix, forward

TOKENS = np.random.default_rng(0).integers(3, 150, (6, 40)).tolist()


def whole(model, text):
    return model.model(torch.tensor([text]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("slack", [1, 5, 64])
@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_a_batch_whose_rows_come_go_and_step_back(name, slack, monkeypatch):
    monkeypatch.setattr(room, "SLACK", slack)
    model = tiny_model(name)
    prompts = some_prompts(6, seed=2, longest=9)
    prefix = compute_prefix(model, common_prefix(prompts))
    texts = {}  # of each place, what is in the cache
    cache = Room(3, model.fixed_shapes)

    def put(places, rows, dropped):
        batch = batch_of(model, [prompts[row] for row in rows], prefix)
        forward(model, batch)
        cache.put(places, batch, dropped)
        texts.update(
            {
                place: prompts[row][: len(prompts[row]) - n]
                for place, row, n in zip(places, rows, dropped)
            }
        )

    def feed(n):
        for _ in range(n):
            new = [TOKENS[place][len(texts.get(place, []))] for place in range(len(cache_rows))]
            batch = cache.feed(torch.tensor(new)[:, None], max(map(len, texts.values())))
            logits = forward(model, batch, keep=1)[:, -1]
            for place, text in texts.items():
                text = texts[place] = [*text, new[place]]
                tolerance = 5e-5 if model.model.config._attn_implementation == "eager" else 1e-6
                torch.testing.assert_close(
                    logits[place], whole(model, text), rtol=0, atol=tolerance
                )

    def rewind(places, dropped):
        cache.rewind(places, dropped)
        texts.update(
            {place: texts[place][: len(texts[place]) - n] for place, n in zip(places, dropped)}
        )

    cache_rows = [0, 1, 2]
    put([0, 2], [0, 1], [0, 1])
    feed(2)
    put([1], [2], [0])
    feed(3)
    rewind([2, 0], [4, 1])
    feed(2)
    del texts[0]
    put([0], [3], [0])
    rewind([0], [1])
    feed(2)
    cache.back(1)  # all lose their newest token, to be run another way
    texts.update({place: text[:-1] for place, text in texts.items()})
    feed(2)
    cache.keep([2, 0])
    cache_rows, kept = [0, 1], dict(texts)
    texts.clear()
    texts.update({0: kept[2], 1: kept[0]})
    feed(2)


def test_buffers_stay_where_they_are_until_they_are_full():
    """And hold little more than what is seen."""
    model = tiny_model()
    cache, places = Room(1), {}
    batch = batch_of(model, [[0, 5, 6]])
    forward(model, batch)
    cache.put([0], batch, [0])
    for n in range(3, 200):
        seen = cache.feed(torch.tensor([[7]]), n)
        forward(model, seen)
        keys = seen.cache.layers[0].keys
        assert seen.slots.tolist() == [n]
        assert seen.mask.sum() == n + 1
        assert keys.shape[2] == seen.mask.shape[1] < n + 1 + room.SLACK + room.ALIGNED
        places.setdefault(cache.made, set()).add(
            tuple(x.data_ptr() for x in (keys, seen.mask, seen.slots))
        )
    assert len(places) == 3
    assert all(len(of_one) == 1 for of_one in places.values())
