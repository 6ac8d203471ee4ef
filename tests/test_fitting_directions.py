"""Steering vectors: plain loops are the oracles."""

import numpy as np
import pytest
import torch
from tiny import tiny_bank

from fasb.errors import DataError
from fasb.fitting.directions import (
    Directions,
    directions_of,
    layer_at,
    mean_difference,
    principal_direction,
    question_differences,
    with_sigma,
)


@pytest.fixture
def bank(tmp_path):
    return tiny_bank(tmp_path / "bank.h5")


@pytest.fixture
def rows(bank):
    return np.arange(len(bank.label)) % 3 > 0


def heads_of(bank):
    return np.ndindex(bank.n_layers, bank.n_units)


def prototype_directions(bank, rows):
    return directions_of(mean_difference(bank, rows), "difference")


def test_a_prototype_vector_is_the_difference_of_class_means(bank, rows):
    vectors = prototype_directions(bank, rows)
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
    vectors = directions_of(weight, "probe weight")
    np.testing.assert_allclose(vectors.scale[..., None] * vectors.direction, weight)
    np.testing.assert_allclose(np.linalg.norm(vectors.direction, axis=-1), 1)


def test_sigma_is_the_population_deviation_along_the_direction(bank, rows):
    plain = prototype_directions(bank, rows)
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
        with_sigma(prototype_directions(bank, rows), bank, one)


def test_vectors_are_sigma_times_direction_in_the_order_of_the_heads(bank, rows):
    vectors = with_sigma(prototype_directions(bank, rows), bank, rows)
    heads = np.array([[1, 0], [0, 2], [1, 2]])
    found = vectors.vectors(heads)
    assert found.dtype == torch.float32
    for (layer, head), vector in zip(heads, found.numpy()):
        np.testing.assert_allclose(
            vector, vectors.scale[layer, head] * vectors.direction[layer, head], rtol=1e-6
        )


def test_a_head_without_difference_has_no_effect():
    weight = np.zeros((1, 2, 3))
    weight[0, 1] = 1
    vectors = directions_of(weight, "probe weight")
    assert (vectors.vectors(np.array([[0, 0]])) == 0).all()
    assert vectors.scale.tolist() == [[0.0, np.sqrt(3)]]


def test_vectors_of_one_class_are_refused(bank):
    with pytest.raises(DataError, match="40 true and 0 false answers; both classes are needed"):
        mean_difference(bank, bank.label == 1)


def test_a_direction_that_is_not_finite_is_named():
    weight = np.ones((2, 2, 3))
    weight[1, 0, 2] = np.nan
    with pytest.raises(
        DataError, match="layer 1, unit 0: probe weight is not finite; check the activations"
    ):
        directions_of(weight, "probe weight")


def test_vectors_of_all_heads_have_one_scale_each():
    with pytest.raises(Exception, match="layer"):
        Directions(np.zeros((2, 3, 5)), np.zeros((2, 4)))


# Pairs


def test_pairs_are_the_differences_of_a_questions_own_means(bank, rows):
    found = question_differences(bank, rows, 1)
    x, expected = bank.layer(1).astype(np.float64), []
    for question in dict.fromkeys(bank.question.tolist()):
        own = rows & (bank.question == question)
        true, false = x[own & (bank.label == 1)], x[own & (bank.label == 0)]
        if len(true) and len(false):
            expected.append(true.mean(0) - false.mean(0))
    assert found.shape == (len(expected), 3, 5)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_question_of_one_class_is_no_pair(bank, rows):
    one = rows & ((bank.question != "q1") | (bank.label == 1))
    n_pairs = [len(question_differences(bank, some, 0)) for some in (rows, one)]
    assert n_pairs[0] - n_pairs[1] == 1
    with pytest.raises(DataError, match="no question has a true and a false answer; add both"):
        question_differences(bank, bank.label == 1, 0)


def test_the_principal_direction_is_that_of_the_centred_pairs():
    """Of states of true and false answers, each pair centred on its own mean."""
    generator = np.random.default_rng(0)
    true, false = generator.normal(size=(2, 40, 6))
    true += 2 * generator.normal(size=6)
    centre = (true + false) / 2
    states = np.concatenate([true - centre, false - centre])
    values, components = np.linalg.eigh(states.T @ states)
    first = components[:, values.argmax()]
    found = principal_direction(true - false)
    assert abs(found @ first) == pytest.approx(1, abs=1e-9)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert (true @ found).mean() > (false @ found).mean()
    np.testing.assert_allclose(principal_direction(false - true), -found, atol=1e-9)


@pytest.mark.parametrize(
    ("depth", "n_layers", "layer"),
    [(0.0, 32, 0), (1.0, 32, 31), (0.5, 33, 16), (0.3, 3, 1), (1.0, 1, 0), (0.9, 1, 0)],
)
def test_a_share_of_the_depth_is_a_layer(depth, n_layers, layer):
    assert layer_at(depth, n_layers) == layer
