"""A few mutations of every kind of file; `make fuzz` tries 100,000."""

import random

import pytest
from fuzz import fuzz, outcome
from mutations import of_bytes, of_value
from readers import READERS, Reader

from fasb.errors import DataError


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_mutated_file_is_read_right_or_refused_in_one_line(reader, tmp_path):
    found = fuzz(reader, 40, seed=1, folder=tmp_path)
    assert found.wrong == []
    assert found.counts["refused"] > 5


def test_what_is_neither_is_found(tmp_path):
    def made_to(raised):
        def read(path):
            raise raised

        return Reader("x", "x", lambda path: None, lambda path, rng: True, read, sealed=False)

    assert outcome(made_to(DataError("x: bad; mend")), tmp_path, None) == "refused"
    # an error makes one line of several by itself, but a page is none
    assert outcome(made_to(DataError("two\nlines")), tmp_path, None) == "refused"
    assert outcome(made_to(DataError("x" * 12_000)), tmp_path, None).startswith("not one line")
    assert "KeyError" in outcome(made_to(KeyError("x")), tmp_path, None)
    assert "MemoryError" in outcome(made_to(MemoryError()), tmp_path, None)


def test_mutations_are_of_the_seed_and_change_something():
    for mutate, whole in (
        (of_bytes, b"0123456789" * 9),
        (of_value, {"a": [1, 2], "b": {"c": "x"}}),
    ):
        made = [repr(mutate(whole, random.Random(seed))) for seed in range(50)]
        assert made == [repr(mutate(whole, random.Random(seed))) for seed in range(50)]
        assert len(set(made)) > 30
        assert sum(one != repr(whole) for one in made) > 40
