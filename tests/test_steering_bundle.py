"""A bundle is one file that gives the same method back, and other models are refused."""

from dataclasses import replace

import pytest
import torch

from fasb.artifacts import write_tensors
from fasb.errors import BundleError
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.steering.tracker import Tracker

MODEL = Fingerprint("llama", 2, 4, 3, "abc")


def bundle(centre: bool = True) -> Bundle:
    heads = torch.tensor([[0, 1], [1, 3]])
    edit = Edit(heads, torch.randn(2, 3))
    tracker = Tracker(
        heads, torch.randn(2, 3), torch.randn(2), torch.randn(2, 3) if centre else None
    )
    prompt = PromptSettings(stop=("\n",))
    decoding = DecodingSettings(tokens=7)
    return Bundle(
        Policy(alpha=3.0, s=2),
        edit,
        tracker,
        prompt,
        decoding,
        fingerprint=MODEL,
        about={"method": "fasb"},
    )


@pytest.mark.parametrize("centre", [True, False])
def test_a_bundle_comes_back_as_it_was_saved(tmp_path, centre):
    one = bundle(centre)
    one.save(tmp_path / "one.bundle")
    two = Bundle.load(tmp_path / "one.bundle")
    assert two.key() == one.key()
    assert (two.policy, two.prompt, two.decoding, two.fingerprint, two.about) == (
        one.policy,
        one.prompt,
        one.decoding,
        one.fingerprint,
        one.about,
    )
    assert torch.equal(two.edit.vector, one.edit.vector)
    assert (two.tracker.centre is None) is not centre


def test_the_unsteered_bundle_has_neither_edit_nor_tracker(tmp_path):
    Bundle(Policy(when="never")).save(tmp_path / "plain.bundle")
    plain = Bundle.load(tmp_path / "plain.bundle")
    assert plain.edit is None
    assert plain.tracker is None


def test_the_key_follows_all_that_changes_an_answer():
    one = bundle()
    assert one.with_policy(alpha=4.0).key() != one.key()
    assert replace(one, edit=None).key() != one.key()
    assert replace(one, decoding=DecodingSettings(tokens=8)).key() != one.key()
    assert replace(one, about={"note": "other"}).key() == one.key()


def test_another_vector_under_the_same_gate_is_one_line():
    one, two = bundle(), bundle()
    crossed = replace(one, edit=two.edit)
    assert torch.equal(crossed.edit.vector, two.edit.vector)
    assert torch.equal(crossed.tracker.weight, one.tracker.weight)


@pytest.mark.parametrize("field", ["n_layers", "n_heads", "head_dim", "tokenizer"])
def test_another_model_is_refused_by_the_field_that_differs(field):
    other = replace(MODEL, **{field: "xyz" if field == "tokenizer" else 99})
    with pytest.raises(BundleError, match=f"made for {field}"):
        MODEL.check(other, siblings=True)


def test_a_sibling_is_taken_only_when_said_so():
    sibling = replace(MODEL, model="llama-chat", weights="other")
    with pytest.raises(BundleError, match="or allow siblings"):
        MODEL.check(sibling)
    MODEL.check(sibling, siblings=True)


def test_a_safetensors_file_of_another_kind_is_not_a_bundle(tmp_path):
    write_tensors(tmp_path / "x.bundle", {"w": torch.zeros(2).numpy()}, {}, {"something": "else"})
    with pytest.raises(BundleError, match="not a bundle of format"):
        Bundle.load(tmp_path / "x.bundle")
