"""A ragged batch behind a shared prefix gives what its rows give alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIGS, FURTHER, TEXTS, tiny_model

from fasb.decoding.slots import SlotCache
from fasb.model.batch import batch_of, common_prefix, compute_prefix, forward, prefix_of
from fasb.model.hooks import recording

PRIMER = TEXTS[0] + " Q: Why? A: No."
SUFFIXES = (" A", " Q: Who are you?", " Q: Wh", " x and y")


def alone(model, prompt, steps):
    """Logits and all heads at the prompt's last token and some greedy steps, without a cache."""
    tokens, found, heads = list(prompt), [], []
    for _ in range(steps + 1):
        with recording(model.layout, "head") as recorder:
            ids = torch.tensor([tokens], device=model.device)
            found.append(model.model(ids, use_cache=False).logits[0, -1])
            heads.append(recorder.pop()[0, -1])
        tokens.append(int(found[-1].argmax()))
    return torch.stack(found), torch.stack(heads)


def together(model, prompts, prefix, steps):
    """The same of a batch and, as decoding goes on, of the slots that take it over."""
    batch, found, heads = batch_of(model, prompts, prefix), [], []
    slots, longest = SlotCache(len(prompts), model.fixed_shapes), max(map(len, prompts))
    with recording(model.layout, "head") as recorder:
        for step in range(steps + 1):
            found.append(forward(model, batch, keep=1)[:, -1])
            heads.append(recorder.pop()[:, -1])
            if step == 0:
                slots.put(range(len(prompts)), batch)
            batch = slots.feed(found[-1].argmax(-1)[:, None], longest + step)
    return torch.stack(found, 1), torch.stack(heads, 1)


@pytest.mark.parametrize("name", CONFIGS | FURTHER)
@pytest.mark.parametrize("shared", [True, False], ids=["behind a prefix", "left-padded"])
def test_prefill_and_decoding_equal_single_rows(name, shared):
    model = tiny_model(name)
    prompts = model.encode([PRIMER + suffix for suffix in SUFFIXES])
    prefix = compute_prefix(model, common_prefix(prompts)) if shared else None
    logits, heads = together(model, prompts, prefix, steps=4)
    for i, prompt in enumerate(prompts):
        expected, expected_heads = alone(model, prompt, steps=4)
        # the library's eager attention, and all of these, take their softmax in float32
        rough = model.model.config._attn_implementation == "eager" or name in (
            "gptj",
            "gpt_neo",
            "mpt",
        )
        tolerance = 5e-5 if rough else 1e-9
        torch.testing.assert_close(logits[i], expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(heads[i], expected_heads, rtol=0, atol=tolerance)


def test_the_layout_is_masked_slots_then_prefix_then_the_last_tokens():
    model = tiny_model()
    prefix = compute_prefix(model, [0, 10, 11, 12, 13])
    batch = batch_of(model, [[0, 10, 11, 12, 13, 20], [0, 10, 11, 12, 13, 21, 22, 23]], prefix)
    assert batch.ids.tolist() == [[12, 13, 20], [21, 22, 23]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8]
    assert batch.slots.tolist() == [5, 6, 7]
    for keys, (own, _) in zip((layer.keys for layer in batch.cache.layers), prefix.layers):
        assert torch.equal(keys[0, :, 2:5], own[0, :, :3])
        assert torch.equal(keys[1, :, :5], own[0])
        assert keys.shape[2] == 8  # with room for what is run


def test_a_prefix_shorter_than_the_longest_rest_is_shared_by_the_rows_it_helps():
    model = tiny_model()
    prefix = compute_prefix(model, [0, 10])
    batch = batch_of(model, [[0, 10, 11], [0, 10, 11, 12, 13]], prefix)
    assert batch.ids.tolist() == [[0, 10, 11], [11, 12, 13]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1], [1] * 5]
    assert batch.slots.tolist() == [2, 3, 4]
    assert batch.cache.get_seq_length() == 2


@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_rows_behind_beginnings_of_their_own_equal_rows_alone(name):
    """Of any lengths, several rows of one beginning, and with fewer tokens of it than there are.

    The beginnings' keys and values are those of a left-padded batch that has just been run, itself
    behind what they all begin with.
    """
    model = tiny_model(name)
    prompts = model.encode([PRIMER + suffix for suffix in SUFFIXES])
    beginnings = [prompts[3], prompts[0][:-1], prompts[1]]
    run = batch_of(model, beginnings, compute_prefix(model, common_prefix(prompts)))
    forward(model, run)
    prefix = prefix_of(beginnings, run)
    begins = [(0, len(prompts[3])), (0, 3), (2, len(prompts[1]) - 2), (1, 1), (1, 0)]
    texts = []
    for row, (i, n) in enumerate(begins):
        texts.append([*beginnings[i][:n], *range(40, 41 + row)])
    batch = batch_of(model, texts, prefix, begins)
    n_new = [len(text) - n for text, (_, n) in zip(texts, begins, strict=True)]
    assert batch.width == max(n_new)
    logits = forward(model, batch)
    tolerance = 5e-5 if model.model.config._attn_implementation == "eager" else 1e-6
    for row, text in enumerate(texts):
        # every token that is new to its row, and the one before the first of them
        ids = torch.tensor([text], device=model.device)
        whole = model.model(ids, use_cache=False).logits[0, -n_new[row] :]
        torch.testing.assert_close(logits[row, -n_new[row] :], whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CONFIGS | FURTHER)
def test_texts_run_again_from_some_token_on_equal_texts_alone(name):
    """As answers are scored under many settings; their keys and values are copied as one slice."""
    model = tiny_model(name)
    texts = model.encode([PRIMER + suffix for suffix in SUFFIXES])
    run = batch_of(model, texts)
    forward(model, run)
    prefix = prefix_of(texts, run)
    again = [(3, 2), (0, 4), (0, 1), (2, 3), (1, 4)]  # of each, so many tokens at its end
    rows = [texts[i] for i, _ in again]
    begins = [(i, len(texts[i]) - n) for i, n in again]
    batch = batch_of(model, rows, prefix, begins)
    assert batch.width == 4
    kept = [keys.clone() for keys, _ in prefix.layers]
    logits = forward(model, batch)
    assert all(torch.equal(a, b) for a, (b, _) in zip(kept, prefix.layers, strict=True))
    tolerance = 5e-5 if model.model.config._attn_implementation == "eager" else 1e-6
    for row, text in enumerate(rows):
        ids = torch.tensor([text], device=model.device)
        whole = model.model(ids, use_cache=False).logits[0, -again[row][1] :]
        torch.testing.assert_close(logits[row, -again[row][1] :], whole, rtol=0, atol=tolerance)


def test_a_beginning_of_another_text_would_be_noticed():
    model = tiny_model()
    run = batch_of(model, [[0, 10, 11, 12], [0, 20, 21, 22]])
    forward(model, run)
    prefix, text = prefix_of([[0, 10, 11, 12], [0, 20, 21, 22]], run), [0, 10, 11, 12, 13]
    right, wrong = (
        forward(model, batch_of(model, [text], prefix, [(i, 4)]), keep=1)[0, -1] for i in (0, 1)
    )
    ids = torch.tensor([text], device=model.device)
    whole = model.model(ids, use_cache=False).logits[0, -1]
    torch.testing.assert_close(right, whole, rtol=0, atol=1e-9)
    assert (wrong - whole).abs().max() > 1e-3


def test_prompts_that_do_not_begin_with_the_prefix_are_computed_whole():
    model = tiny_model()
    prefix = compute_prefix(model, [0, 10, 11])
    assert batch_of(model, [[0, 10, 11, 12], [0, 10, 12, 12]], prefix).width == 4
    assert batch_of(model, [[0, 10, 11, 12], [0, 10, 11]], prefix).ids.tolist() == [
        [10, 11, 12],
        [0, 10, 11],
    ]


def test_a_prefix_is_never_changed_by_the_batches_behind_it():
    model = tiny_model()
    prompts = model.encode([PRIMER + suffix for suffix in SUFFIXES])
    prefix = compute_prefix(model, common_prefix(prompts))
    before = [keys.clone() for keys, _ in prefix.layers]
    first, _ = together(model, prompts, prefix, steps=2)
    again, _ = together(model, prompts, prefix, steps=2)
    assert torch.equal(first, again)
    assert all(torch.equal(keys, own) for (keys, _), own in zip(prefix.layers, before))


@given(prefix=st.lists(st.integers(0, 3)), rest=st.lists(st.lists(st.integers(0, 3)), min_size=1))
@settings(max_examples=200, deadline=None)
def test_the_common_prefix_is_the_longest_that_leaves_each_a_token(prefix, rest):
    prompts = [[*prefix, *tokens] for tokens in rest]
    found = common_prefix(prompts)
    assert all(prompt[: len(found)] == found for prompt in prompts)
    shortest = min(map(len, prompts))
    assert len(found) <= max(shortest - 1, 0)
    longer = len(found) + 1
    assert longer > shortest - 1 or len({tuple(prompt[:longer]) for prompt in prompts}) > 1


def test_no_prompts_share_nothing():
    assert common_prefix([]) == []
    assert compute_prefix(tiny_model(), []) is None
