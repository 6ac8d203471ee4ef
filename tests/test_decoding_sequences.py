"""Rows while they are written: where they end, and what rolling back leaves."""

from dataclasses import replace

import numpy as np
import pytest
from steering import placed, some_prompts
from tiny import tiny_model

from fasb.decoding.decode import trace
from fasb.decoding.generate import DecodingBatch, complete
from fasb.decoding.sequences import Ending, Sequences, Start, check_prompts
from fasb.settings import DecodingSettings
from fasb.steering.trace import EOS, LIMIT, OPEN, STOP
from tests.unchecked import unchecked

PROMPTS = some_prompts(13, seed=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("stop", [("\n",), ("e",), ("he",), (" ",), ("the ", "o"), ("e i",)])
def test_stop_strings_are_found_wherever_they_fall_on_tokens(model, stop):
    """Random tokens, as the model would never write them: no token may be overlooked."""
    generator = np.random.default_rng(0)
    ending = Ending.of(model, stop)
    for _ in range(300):
        tokens = generator.integers(3, model.vocab_size, 12).tolist()
        for n in range(1, 13):
            now, before = (
                any(text in model.decode(tokens[:m]) for text in stop) for m in (n, n - 1)
            )
            if now and not before:
                assert ending.suspect[tokens[n - 1]]


def test_a_stop_string_across_the_step_back_is_found(model):
    """Half of it among the tokens that stay, half in the first that is written anew."""
    decoding = DecodingSettings(tokens=10)
    tried = 0
    for prompt, tokens in zip(PROMPTS, trace(model, PROMPTS, decoding).rows(), strict=True):
        stop = model.decode(tokens[2:5])[-2:]
        if len(tokens) < 10 or stop in model.decode(tokens[:4]) or len(stop) < 2:
            continue
        sequences = Sequences(model, [Start(prompt, tokens[:4], 10)], decoding, (stop,))
        (written,) = complete(sequences, DecodingBatch(model, sequences, decoding))
        assert (written.tokens, written.ended) == (tokens[4:5], STOP)
        tried += 1
    assert tried > 2


def test_tokens_beyond_the_vocabulary_end_nothing(model):
    """An end-of-sequence id may lie outside of what the model can write."""
    ending = Ending.of(replace(model, eos=frozenset([1, 10**6])), ())
    assert ending.eos.nonzero()[0].tolist() == [1]


# Rolling back


def some_sequences(model, positions, n=6, strength=0.0):
    sequences = Sequences(
        model,
        [Start([0, 5, 6], (), 10, strength)],
        DecodingSettings(),
        (),
        placed(positions),
    )
    row = np.array([0])
    for token in range(20, 20 + n):
        sequences.record_pass(row, None)
        sequences.accept(row, np.array([token]))
    return sequences


@pytest.mark.parametrize("kept", [0, 2, 6])
@pytest.mark.parametrize("positions", ["from_answer", "all", "prompt_end", "scheduled"])
def test_what_is_edited_after_rolling_back_is_where_the_edit_is_active(model, positions, kept):
    sequences = some_sequences(model, positions)
    again = sequences.roll_back(0, kept, 3.0)
    active = {
        "from_answer": [0.0] * 2 + [0.0] * kept + [3.0],
        "all": [3.0] * (3 + kept),
        "prompt_end": [0.0, 0.0, 3.0] + [0.0] * kept,
        "scheduled": [0.0, 0.0, 3.0, 1.5, *[0.75] * kept][: 3 + kept],
    }
    assert sequences.strengths(0) == active[positions]
    assert sequences.answer(0) == list(range(20, 20 + kept))
    # what was run unedited and is edited now has to be run again
    assert again == (active[positions][:-1] != [0.0] * (2 + kept))


def test_rolling_back_what_was_steered_the_same_way_runs_nothing_again(model):
    sequences = some_sequences(model, "prompt_end", strength=2.0)
    assert not sequences.roll_back(0, 4, 2.0)
    assert sequences.roll_back(0, 4, 2.5)


@pytest.mark.parametrize(
    ("token", "n_before", "ended"),
    [(1, 0, EOS), (1, 9, EOS), (20, 9, LIMIT), (20, 8, OPEN)],
    ids=["eos", "eos at the limit", "limit", "open"],
)
def test_a_row_ends_at_its_limit_or_at_the_end_of_sequence(model, token, n_before, ended):
    assert 1 in model.eos
    sequences = some_sequences(model, "from_answer", n_before)
    sequences.accept(np.array([0]), np.array([token]))
    assert sequences.ended.tolist() == [ended]
    assert sequences.decoded.tolist() == [n_before + 1]


def test_rows_with_most_to_come_start_first_then_the_longest(model):
    starts = [Start([0, 5], (7,), 4), Start([0], (), 4), Start([0, 5, 6], (), 4)]
    sequences = Sequences(model, starts, DecodingSettings())
    assert sequences.order([0, 1, 2]) == [2, 1, 0]
    assert sequences.order([1, 1, 0]) == [1, 0]


WRONG = (
    ("'Why?'", "prompts: 'Why?' is no list of prompts; give token ids, as"),
    ("['Why?']", "prompt 1: 'Why?' is no row of token ids; give token ids, as"),
    ("[0, 1]", "prompt 1: 0 is no row of token ids"),
    ("[[0], [0.5]]", "prompt 2: [0.5] is no row of token ids"),
    ("[[0], [[0]]]", "prompt 2: [[0]] is no row of token ids"),
    ("[[0], []]", "prompt 2: no token to go on from"),
    ("[[0], [7, 160]]", "prompt 2: token 160, but the model knows 0 to 159; encode texts by"),
    ("[[-1]]", "prompt 1: token -1, but the model knows 0 to 159"),
)


def test_what_is_no_prompt_is_one_line_wherever_prompts_are_taken():
    """Where nobody but the library looks at types."""
    said = unchecked(
        "import sys; sys.path.insert(0, 'tests')\n"
        "from fasb import FasbError\n"
        "from fasb.decoding.decode import decode, decode_live, sweep, trace\n"
        "from steering import some_bundle\n"
        "from tiny import tiny_model\n"
        "model = tiny_model()\n"
        "bundle = some_bundle(model)\n"
        "before = trace(model, [[0, 20]], bundle.decoding)\n"
        f"for wrong in ({', '.join(given for given, _ in WRONG)}):\n"
        "    for call in (\n"
        "        lambda: trace(model, wrong, bundle.decoding),\n"
        "        lambda: decode_live(model, wrong, bundle),\n"
        "        lambda: decode(model, wrong, bundle),\n"
        "        lambda: sweep(model, wrong, before, [bundle]),\n"
        "    ):\n"
        "        try:\n"
        "            print('taken', call())\n"
        "        except FasbError as error:\n"
        "            print(error)\n"
    )
    lines = said.splitlines()
    assert len(lines) == 4 * len(WRONG)
    for i, line in enumerate(lines):
        assert line.startswith(WRONG[i // 4][1])


def test_any_rows_of_ids_are_prompts():
    model = tiny_model()
    check_prompts(model, [])
    for prompts in ([[0, 159]], ((0, 1), (2,)), [range(3)]):
        check_prompts(model, prompts)
