"""Operations: exactly nothing at strength 0, in proportion to the strength, unit by unit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steering import some_operation

from fasb.steering.edit import Active, Change, Edit
from fasb.steering.fields import move, tensors_of
from fasb.steering.operations import (
    OPERATIONS,
    Add,
    Affine,
    ByClass,
    ByProbe,
    LowRank,
    Operation,
    Remove,
    Scale,
    ToBoundary,
)
from tests.unchecked import unchecked

SIZE = (2, 4, 3, 5)
"""Rows, tokens, units and width."""


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


PROPORTIONAL = [kind for kind in OPERATIONS if kind != "turn"]


def some(kind, n=3, seed=0):
    return some_operation(kind, n, SIZE[-1], seed)


def strengths(seed=1):
    return normal(*SIZE[:2], 1, 1, seed=seed)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_operation_keeps_the_shape_and_is_one(kind):
    operation = some(kind)
    assert isinstance(operation, Operation)
    assert operation.delta(normal(*SIZE), strengths()).shape == torch.Size(SIZE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_at_strength_0_what_is_added_is_exactly_0(kind, dtype):
    """And only there, token by token; the activations come back to the bit."""
    x, strength = normal(*SIZE).to(dtype), strengths().to(dtype)
    strength[0, 1] = strength[1, 3] = 0
    delta = move(some(kind), "cpu", dtype).delta(x, strength)
    assert delta.dtype == dtype
    for row, token in ((0, 1), (1, 3)):
        assert not delta[row, token].any()
        assert torch.equal((x + delta)[row, token], x[row, token])
    assert (delta != 0).any(-1).sum() == (SIZE[0] * SIZE[1] - 2) * SIZE[2]


@pytest.mark.parametrize("kind", PROPORTIONAL)
def test_what_is_added_is_in_proportion_to_the_strength(kind):
    x, strength, operation = normal(*SIZE), strengths(), some(kind)
    one = operation.delta(x, torch.ones_like(strength))
    torch.testing.assert_close(operation.delta(x, strength), strength * one)
    torch.testing.assert_close(
        operation.delta(x, strength + 2.0), operation.delta(x, strength) + 2 * one
    )


@pytest.mark.parametrize("kind", OPERATIONS)
def test_units_and_tokens_are_operated_on_alone(kind):
    x, strength, operation = normal(*SIZE), strengths(), some(kind)
    together = operation.delta(x, strength)
    for unit in range(SIZE[2]):
        own = {name: value[unit : unit + 1] for name, value in tensors_of(operation).items()}
        alone = type(operation)(**own)
        for token in range(SIZE[1]):
            part = alone.delta(x[:, token : token + 1, [unit]], strength[:, token : token + 1])
            torch.testing.assert_close(part[:, 0, 0], together[:, token, unit])


def test_add_adds_the_vector_whatever_is_there():
    vector, strength = normal(3, 5), strengths()
    for x in (normal(*SIZE), torch.zeros(SIZE, dtype=torch.float64)):
        delta = Add(vector).delta(x, strength)
        torch.testing.assert_close(delta.expand(SIZE)[1, 2], strength[1, 2] * vector)


@given(seed=st.integers(0, 10**6), strength=st.floats(-2, 2))
@settings(max_examples=50, deadline=None)
def test_remove_takes_its_share_of_the_component_and_nothing_else(seed, strength):
    operation, x = some("remove", seed=seed), normal(*SIZE, seed=seed + 1)
    after = x + operation.delta(x, torch.full((*SIZE[:2], 1, 1), strength, dtype=torch.float64))
    d = operation.direction
    along, left = ((y * d).sum(-1) for y in (x, after))
    torch.testing.assert_close(left, (1 - strength) * along)
    torch.testing.assert_close(after - left[..., None] * d, x - along[..., None] * d)


def test_remove_at_1_leaves_nothing_and_twice_is_once():
    operation, x = some("remove"), normal(*SIZE)
    one = torch.ones(*SIZE[:2], 1, 1, dtype=torch.float64)
    once = x + operation.delta(x, one)
    twice = once + operation.delta(once, one)
    assert (once * operation.direction).sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-12)


def test_scale_scales_entry_by_entry():
    factor, x = torch.tensor([[0.0, 1, 0, 1, 2]] * 3, dtype=torch.float64), normal(*SIZE)
    strength = strengths()
    torch.testing.assert_close(
        x + Scale(factor).delta(x, strength), x * (1 + strength * factor), rtol=1e-12, atol=0
    )


def ones():
    return torch.ones(*SIZE[:2], 1, 1, dtype=torch.float64)


def test_affine_at_1_gives_the_image():
    x, weight, bias = normal(*SIZE), normal(3, 5, seed=2), normal(3, 5, seed=3)
    torch.testing.assert_close(x + Affine(weight, bias).delta(x, ones()), weight * x + bias)
    same = Affine(torch.ones_like(weight), torch.zeros_like(bias))
    assert same.delta(x, strengths()).abs().max() < 1e-12


def test_low_rank_at_1_sets_its_directions_and_leaves_what_is_across():
    x, bias = normal(*SIZE), normal(3, 2, seed=3)
    basis = torch.linalg.qr(normal(3, 5, 2, seed=1))[0].mT
    weight = normal(3, 2, 5, seed=2)
    after = x + LowRank(basis, weight, bias).delta(x, ones())
    for unit in range(3):
        wanted = x[:, :, unit] @ weight[unit].T + bias[unit]
        torch.testing.assert_close(after[:, :, unit] @ basis[unit].T, wanted)
        across = torch.eye(5, dtype=torch.float64) - basis[unit].T @ basis[unit]
        torch.testing.assert_close(after[:, :, unit] @ across, x[:, :, unit] @ across)


def test_by_probe_adds_nothing_where_the_probe_is_sure_of_true_and_all_where_of_false():
    vector, weight = normal(3, 5), torch.zeros(3, 5, dtype=torch.float64)
    for bias, share in ((800.0, 0.0), (0.0, 0.5), (-800.0, 1.0)):
        operation = ByProbe(weight, torch.full((3,), bias, dtype=torch.float64), vector)
        delta = operation.delta(normal(*SIZE), 2 * ones())
        torch.testing.assert_close(delta, (2 * share * vector).expand(SIZE))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_to_boundary_ends_on_the_plane_by_the_shortest_way_or_stays(seed):
    x, weight, bias = normal(*SIZE, seed=seed), normal(3, 5, seed=seed + 1), normal(3, seed=seed)
    operation = ToBoundary(weight, bias)
    delta = operation.delta(x, ones())
    before, after = ((y * weight).sum(-1) + bias for y in (x, x + delta))
    torch.testing.assert_close(after, before.clamp(min=0), rtol=0, atol=1e-9)
    shortest = before.clamp(max=0).abs() / weight.norm(dim=-1)
    torch.testing.assert_close(delta.norm(dim=-1), shortest)
    again = operation.delta(x + delta, ones())
    assert again.abs().max() < 1e-9


def test_by_class_adds_the_vector_of_the_class_that_is_picked():
    operation, x = some("by_class"), normal(*SIZE)
    delta = operation.delta(x, ones())
    for place in np.ndindex(*SIZE[:3]):
        unit = place[2]
        logits = operation.weight[unit] @ x[place] + operation.bias[unit]
        torch.testing.assert_close(delta[place], operation.vector[unit][int(logits.argmax())])
    assert isinstance(operation, ByClass)


def test_turn_keeps_the_length_and_goes_towards_the_vector():
    operation, x = some("turn"), normal(*SIZE)
    after = x + operation.delta(x, ones())
    torch.testing.assert_close(after.norm(dim=-1), x.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(after, operation.vector, -1) > cosine(x, operation.vector, -1)).all()
    zero = torch.zeros_like(x)
    assert torch.equal(operation.delta(zero, ones()), zero)


# Edits


def an_edit(**changes):
    given = {"site": "head", "at": torch.tensor([[0, 1], [1, 3]]), "positions": "from_answer"}
    given |= {"operation": Add(normal(2, 5))} | changes
    return Edit.of(given["site"], given["at"], given["operation"], given["positions"])


def test_content_tells_edits_apart():
    """Bundles of equal edits share their suffixes: what differs in anything must differ in it."""
    one = an_edit()
    assert one.content() == an_edit().content() == one.to("cpu").content()
    assert one.content() == Edit.add(torch.tensor([[0, 1], [1, 3]]), normal(2, 5)).content()
    # what is float32 in a file and float64 in a test is one edit
    single = an_edit(operation=Add(normal(2, 5).float()))
    assert single.content() == single.to("cpu", torch.float64).content()
    others = [
        an_edit(site="mlp"),
        an_edit(at=torch.tensor([[0, 1], [1, 2]])),
        an_edit(operation=Scale(normal(2, 5))),
        an_edit(operation=Remove(normal(2, 5))),
        an_edit(operation=Add(normal(2, 5) + 1e-12)),
        an_edit(positions="all"),
        Edit(one.changes * 2),
        Edit((one.changes[0], Change("mlp", torch.tensor([[0, 0]]), Add(normal(1, 5))))),
    ]
    assert len({edit.content() for edit in [one, *others]}) == 9


def test_an_edit_moves_with_all_its_changes():
    edit = Edit((*an_edit().changes, *an_edit(site="mlp").changes), Active("all")).to(
        "cpu", torch.float32
    )
    assert edit.active.positions == "all"
    for change in edit.changes:
        assert change.operation.vector.dtype == torch.float32
        assert change.at.dtype == torch.int64


def test_an_edit_whose_tensors_do_not_fit_is_refused():
    # in a process of its own, as the tests' type checker would refuse them first
    said = unchecked(
        "import torch\n"
        "from fasb.errors import BundleError\n"
        "from fasb.steering.edit import Edit\n"
        "from fasb.steering.operations import Add\n"
        "pairs = torch.zeros(2, 2, dtype=torch.long)\n"
        "pairs[1, 0] = 1\n"
        "one = torch.zeros(1, 5)\n"
        "for site, at, vector in (('residual', pairs, torch.zeros(3, 5)),\n"
        "                         ('residual', pairs[0], one), ('residual', pairs[:1], one[0]),\n"
        "                         ('residual', 2 * [0], one), ('residual', -pairs[1:], one),\n"
        "                         ('residual', pairs[[0, 0]], one), ('heads', pairs[:1], one)):\n"
        "    try:\n"
        "        print(Edit.of(site, at, Add(vector)))\n"
        "    except BundleError as error:\n"
        "        print(error)\n"
    )
    rows, pair, flat, listed, below, twice, site = said.splitlines()
    assert rows.startswith("edit: the operation has 3 rows, but at is of shape (2, 2); give one")
    assert pair.startswith("edit: at holds no pairs of layer and unit, int64 [n, 2]; correct")
    assert listed == pair
    assert below.startswith("edit: at holds layer or unit -1; correct")
    assert twice.startswith("edit: at holds a unit twice; correct")
    assert site.startswith("edit: site 'heads', not one of head, attention, neuron, mlp, residual;")
    assert flat.startswith("edit: vector is of shape (5,), not of [n width]; correct")
