"""Anchors are the most accurate units; ties have one order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasb.errors import ConfigError
from fasb.fitting.anchors import best_units, rank_units, tied_units


@given(
    st.lists(
        st.lists(st.sampled_from([0.5, 0.6, 0.7]), min_size=4, max_size=4), min_size=1, max_size=4
    ),
)
@settings(deadline=None)
def test_the_best_heads_come_first_and_ties_go_to_the_lower_layer_then_head(accuracy):
    accuracy = np.array(accuracy)
    ranking = [tuple(pair) for pair in rank_units(accuracy).tolist()]
    assert sorted(ranking) == list(np.ndindex(accuracy.shape))
    keys = [(-accuracy[pair], *pair) for pair in ranking]
    assert keys == sorted(keys)
    for k in range(1, accuracy.size + 1):
        assert best_units(accuracy, k).tolist() == [list(pair) for pair in ranking[:k]]


@pytest.mark.parametrize("k", [0, 7])
def test_more_anchors_than_heads_are_refused(k):
    with pytest.raises(
        ConfigError,
        match=rf"k: {k}, but this model has 6 heads \(2 layers x 3\); set k between 1 and 6",
    ):
        best_units(np.zeros((2, 3)), k)


def test_heads_that_only_the_order_of_ties_makes_anchors_are_named():
    accuracy = np.array([[0.7, 0.8], [0.7, 0.7], [0.9, 0.6]])
    assert tied_units(accuracy, 1) == ([], [])
    assert tied_units(accuracy, 2) == ([], [])
    assert tied_units(accuracy, 3) == ([(0, 0)], [(1, 0), (1, 1)])
    assert tied_units(accuracy, 4) == ([(0, 0), (1, 0)], [(1, 1)])
    assert tied_units(accuracy, 5) == ([], [])
    assert tied_units(accuracy, 6) == ([], [])
