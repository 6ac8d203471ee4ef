from itertools import chain

import pandas as pd
import pytest

from fasb.data.protocol import Question, Split
from fasb.study import shards
from fasb.study.shards import Shard, ordered, units

SPLITS = [
    Split((), ("v0",), tuple(f"a{i}" for i in range(7))),
    Split((), ("v1",), tuple(f"b{i}" for i in range(3))),
]


def of(shard):
    """Fold, method and questions of each block of a shard."""
    found = units(SPLITS, ["x", "y"], lambda split: split.test, shard)
    return [(unit.fold, unit.method, unit.ids) for unit in found]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 3)


def test_blocks_are_even_and_every_method_is_asked_every_question_once():
    whole = of(Shard())
    sizes = [len(ids) for fold, method, ids in whole if (fold, method) == (0, "x")]
    assert sizes == [3, 2, 2]
    for fold, split in enumerate(SPLITS):
        for method in ("x", "y"):
            blocks = [ids for *names, ids in whole if names == [fold, method]]
            assert sum(blocks, ()) == split.test


@pytest.mark.parametrize("n", [1, 2, 3, 8, 20])
def test_shards_share_all_blocks_evenly_whatever_their_number(n):
    shares = [of(Shard(number, n)) for number in range(1, n + 1)]
    assert sorted(chain.from_iterable(shares)) == sorted(of(Shard()))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert of(Shard.named(f"1of{n}")) == shares[0]


def test_a_fold_without_questions_has_one_empty_block():
    (unit,) = units([Split((), (), ())], ["x"], lambda split: split.test, Shard())
    assert unit.ids == ()


def test_rows_stand_as_if_there_were_one_block():
    asked = [Question(name, name, ("a",), (), "a", name) for name in ("q2", "q1")]
    rows = []
    for fold in (0, 1):
        for method in ("y", "x"):
            for purpose in ("generation", "mc2"):
                rows += [[fold, method, purpose, q.id, i] for q in asked for i in (0, 1)]
    columns = ["fold", "method", "tuned_for", "question", "phrasing"]
    whole = pd.DataFrame(rows, columns=columns)
    mixed = whole.sample(frac=1, random_state=0)
    assert ordered(mixed, asked, ["y", "x"]).equals(whole)
    assert ordered(whole[:0], asked, ["y", "x"]).columns.tolist() == columns
