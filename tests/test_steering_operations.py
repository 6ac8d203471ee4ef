"""Operations: exactly nothing at strength 0, in proportion to the strength, unit by unit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasb.steering.edit import Change, Edit
from fasb.steering.operations import OPERATIONS, Add, Operation, Remove, Scale

SIZE = (2, 4, 3, 5)
"""Rows, tokens, units and width."""


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def some(kind, n=3, seed=0):
    values = normal(n, SIZE[-1], seed=seed)
    return OPERATIONS[kind](
        torch.nn.functional.normalize(values, dim=-1) if kind == "remove" else values
    )


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
    (parts,) = (getattr(some(kind), name) for name in type(some(kind)).__slots__)
    delta = type(some(kind))(parts.to(dtype)).delta(x, strength)
    assert delta.dtype == dtype
    for row, token in ((0, 1), (1, 3)):
        assert not delta[row, token].any()
        assert torch.equal((x + delta)[row, token], x[row, token])
    assert (delta != 0).any(-1).sum() == (SIZE[0] * SIZE[1] - 2) * SIZE[2]


@pytest.mark.parametrize("kind", OPERATIONS)
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
    (name,) = type(operation).__slots__
    for unit in range(SIZE[2]):
        alone = type(operation)(getattr(operation, name)[unit : unit + 1])
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
    edit = Edit((*an_edit().changes, *an_edit(site="mlp").changes), "all").to("cpu", torch.float32)
    assert edit.positions == "all"
    for change in edit.changes:
        assert change.operation.vector.dtype == torch.float32
        assert change.at.dtype == torch.int64
