"""Steering vectors, the tracker and the anchors: plain loops are the oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_bank

from fasb.errors import ConfigError, DataError
from fasb.fitting.anchors import anchors, rank_heads
from fasb.fitting.directions import Vectors, probe_vectors, prototype_vectors, with_sigma
from fasb.fitting.probes import Probes
from fasb.steering.tracker import Tracker


@pytest.fixture
def bank(tmp_path):
    return tiny_bank(tmp_path / "bank.h5")


@pytest.fixture
def rows(bank):
    return np.arange(len(bank.label)) % 3 > 0


def heads_of(bank):
    return np.ndindex(bank.n_layers, bank.n_heads)


def test_a_prototype_vector_is_the_difference_of_class_means(bank, rows):
    vectors = prototype_vectors(bank, rows)
    for layer, head in heads_of(bank):
        x = bank.layer(layer)[:, head].astype(np.float64)
        difference = x[rows & (bank.label == 1)].mean(0) - x[rows & (bank.label == 0)].mean(0)
        np.testing.assert_allclose(vectors.scale[layer, head], np.linalg.norm(difference))
        np.testing.assert_allclose(
            vectors.scale[layer, head] * vectors.direction[layer, head], difference
        )
    np.testing.assert_allclose(np.linalg.norm(vectors.direction, axis=-1), 1)


def test_a_probe_vector_is_its_weight():
    weight = np.random.default_rng(0).normal(size=(2, 3, 5))
    vectors = probe_vectors(Probes(weight, np.zeros((2, 3))))
    np.testing.assert_allclose(vectors.scale[..., None] * vectors.direction, weight)
    np.testing.assert_allclose(np.linalg.norm(vectors.direction, axis=-1), 1)


def test_sigma_is_the_population_deviation_along_the_direction(bank, rows):
    plain = prototype_vectors(bank, rows)
    vectors = with_sigma(plain, bank, ~rows)
    assert np.array_equal(vectors.direction, plain.direction)
    for layer, head in heads_of(bank):
        along = bank.layer(layer)[~rows, head].astype(np.float64) @ plain.direction[layer, head]
        np.testing.assert_allclose(
            vectors.scale[layer, head], np.sqrt(((along - along.mean()) ** 2).mean())
        )


def test_sigma_of_a_single_row_is_refused(bank, rows):
    one = np.arange(len(rows)) == 0
    with pytest.raises(
        DataError, match=r"bank.h5: 1 answers of training .* behind; give more questions, another"
    ):
        with_sigma(prototype_vectors(bank, rows), bank, one)


def test_an_edit_holds_sigma_times_direction_in_the_order_of_the_heads(bank, rows):
    vectors = with_sigma(prototype_vectors(bank, rows), bank, rows)
    heads = np.array([[1, 0], [0, 2], [1, 2]])
    edit = vectors.edit(heads)
    assert edit.heads.tolist() == heads.tolist()
    assert edit.vector.dtype == torch.float32
    for (layer, head), vector in zip(heads, edit.vector.numpy()):
        np.testing.assert_allclose(
            vector, vectors.scale[layer, head] * vectors.direction[layer, head], rtol=1e-6
        )


def test_a_head_without_difference_has_no_effect():
    weight = np.zeros((1, 2, 3))
    weight[0, 1] = 1
    vectors = probe_vectors(Probes(weight, np.zeros((1, 2))))
    assert (vectors.edit(np.array([[0, 0]])).vector == 0).all()
    assert vectors.scale.tolist() == [[0.0, np.sqrt(3)]]


def test_vectors_of_one_class_are_refused(bank):
    with pytest.raises(DataError, match="40 true and 0 false answers; both classes are needed"):
        prototype_vectors(bank, bank.label == 1)


def test_a_direction_that_is_not_finite_is_named():
    weight = np.ones((2, 2, 3))
    weight[1, 0, 2] = np.nan
    with pytest.raises(
        DataError, match="layer 1, head 0: probe weight is not finite; check the activations"
    ):
        probe_vectors(Probes(weight, np.zeros((2, 2))))


# The tracker


def a_tracker(centre=None, k=3, head_dim=5):
    generator = torch.Generator().manual_seed(0)
    heads = torch.tensor([[layer, 0] for layer in range(k)])
    weight, bias = (
        torch.randn(k, head_dim, generator=generator),
        torch.randn(k, generator=generator),
    )
    return Tracker(heads, weight, bias, centre)


def test_p_is_the_mean_over_anchors_of_one_minus_p_true():
    tracker, x = a_tracker(), torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    found = tracker.deviation(x)
    assert found.shape == (4, 2)
    for row in range(4):
        for state in range(2):
            logits = [
                float(x[row, state, i] @ tracker.weight[i] + tracker.bias[i]) for i in range(3)
            ]
            expected = sum(1 - 1 / (1 + np.exp(-logit)) for logit in logits) / 3
            assert float(found[row, state]) == pytest.approx(expected, abs=1e-6)


def test_p_is_exact_where_one_minus_p_would_round_to_zero():
    tracker = Tracker(torch.tensor([[0, 0]]), torch.ones(1, 1), torch.zeros(1))
    assert 0 < float(tracker.deviation(torch.full((1, 1, 1), 30.0))) < 1e-12


def test_a_centre_makes_the_tracker_blind_to_length():
    centre = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    tracker, x = a_tracker(centre), torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(tracker.deviation(centre + 7 * (x - centre)), tracker.deviation(x))
    assert torch.isfinite(tracker.deviation(centre[None])).all()


def test_half_precision_outputs_are_judged_in_float32():
    tracker, x = a_tracker(), torch.randn(4, 3, 5).bfloat16()
    assert torch.equal(tracker.deviation(x), tracker.deviation(x.float()))


# The anchors


@given(
    st.lists(
        st.lists(st.sampled_from([0.5, 0.6, 0.7]), min_size=4, max_size=4), min_size=1, max_size=4
    ),
)
@settings(deadline=None)
def test_the_best_heads_come_first_and_ties_go_to_the_lower_layer_then_head(accuracy):
    accuracy = np.array(accuracy)
    ranking = [tuple(pair) for pair in rank_heads(accuracy).tolist()]
    assert sorted(ranking) == list(np.ndindex(accuracy.shape))
    keys = [(-accuracy[pair], *pair) for pair in ranking]
    assert keys == sorted(keys)
    for k in range(1, accuracy.size + 1):
        assert anchors(accuracy, k).tolist() == [list(pair) for pair in ranking[:k]]


@pytest.mark.parametrize("k", [0, 7])
def test_more_anchors_than_heads_are_refused(k):
    with pytest.raises(
        ConfigError,
        match=rf"k: {k}, but this model has 6 heads \(2 layers x 3\); set k between 1 and 6",
    ):
        anchors(np.zeros((2, 3)), k)


def test_vectors_of_all_heads_have_one_scale_each():
    with pytest.raises(Exception, match="layer"):
        Vectors(np.zeros((2, 3, 5)), np.zeros((2, 4)))
