"""Control vectors for llama.cpp and repeng."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from llama_cpp_model import logits_under, write_model
from steering import some_bundle
from tiny import tiny_model

import fasb
from fasb.cli import group
from fasb.decoding.observe import logits_of
from fasb.errors import BundleError
from fasb.steering.operations import Add, Remove
from fasb.user.exporting import directions, export


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def residual(model, layers, operation=Add):
    """A bundle that changes the residual stream behind these layers."""
    at = torch.tensor([[layer, 0] for layer in layers])
    vectors = torch.randn((len(layers), 24), generator=torch.Generator().manual_seed(0))
    edit = fasb.Edit.of("residual", at, operation(vectors))
    return replace(some_bundle(model, alpha=3.0), edit=edit)


def test_the_file_holds_a_vector_per_layer_at_the_bundles_alpha(model, tmp_path):
    gguf = pytest.importorskip("gguf")
    bundle = residual(model, [2, 1])
    bundle.save(tmp_path / "my.bundle")
    arguments = ["export", str(tmp_path / "my.bundle"), str(tmp_path / "my.gguf")]
    assert CliRunner().invoke(group, arguments, catch_exceptions=False).exit_code == 0
    read = gguf.GGUFReader(tmp_path / "my.gguf")
    fields = {name: field.contents() for name, field in read.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "tiny-llama"
    assert fields["controlvector.layer_count"] == 2
    found = {tensor.name: tensor.data for tensor in read.tensors}
    assert list(found) == ["direction.1", "direction.2"]
    vector = bundle.edit.changes[0].operation.vector
    for name, row in (("direction.2", 0), ("direction.1", 1)):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], 3.0 * vector[row].numpy(), rtol=1e-6)


def test_repeng_reads_the_same_numbers(model, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    # repeng 0.4 names what NumPy 2 has no more
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    repeng = pytest.importorskip("repeng", reason="no repeng: pip install --no-deps repeng")
    bundle = residual(model, [1, 2])
    export(bundle, tmp_path / "my.gguf")
    found = repeng.ControlVector.import_gguf(tmp_path / "my.gguf")
    assert found.model_type == "tiny-llama"
    assert list(found.directions) == [1, 2]
    for layer, vector in directions(bundle).items():
        assert found.directions[layer].dtype == np.float32
        assert found.directions[layer].tobytes() == vector.tobytes()


def test_llama_cpp_answers_as_the_bundle_does(model, tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp", reason="no llama_cpp: pip install llama-cpp-python")
    bundle = residual(model, [1, 2])
    export(bundle, tmp_path / "my.gguf")
    write_model(tmp_path / "model.gguf", model)
    text = model.encode(["Q: Who lives there?"])[0]
    steered = logits_of(model, text, bundle.edit, bundle.policy.alpha).numpy()
    plain = logits_of(model, text).numpy()
    assert np.abs(steered - plain).max() > 1
    for vector, expected in ((None, plain), (tmp_path / "my.gguf", steered)):
        found = logits_under(tmp_path / "model.gguf", text, vector)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_adding_them_to_the_layers_outputs_is_the_edit(model):
    bundle = residual(model, [1, 2])
    text = model.encode(["Q: Who lives there?"])[0]
    expected = logits_of(model, text, bundle.edit, bundle.policy.alpha)
    handles = []
    for layer, vector in directions(bundle).items():
        add = torch.from_numpy(vector).double()
        handles.append(
            model.layout.layers[layer].register_forward_hook(lambda _, __, x, add=add: x + add)
        )
    found = logits_of(model, text)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_control_vector_is_one_line(model):
    cases = {
        "'add' at head": some_bundle(model),
        "'remove' at residual": residual(model, [1], Remove),
        "behind layer 0": residual(model, [0, 1]),
        "does not steer": residual(model, [1]).with_policy(when="never"),
        "or alpha 0": residual(model, [1]).with_policy(alpha=0.0),
        "has no edit": fasb.Bundle(fasb.Policy(when="never")),
    }
    for message, bundle in cases.items():
        with pytest.raises(BundleError, match=message) as caught:
            directions(bundle)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1e38, float("nan")])
def test_a_vector_that_overflows_is_not_written(model, tmp_path, value):
    bundle = residual(model, [2, 1])
    vectors = torch.full((2, 24), value)
    edit = fasb.Edit.of("residual", bundle.edit.changes[0].at, Add(vectors))
    with pytest.raises(BundleError, match="export: .* layer 2 at alpha 9 is not finite in float32"):
        export(replace(bundle, edit=edit).with_policy(alpha=9.0), tmp_path / "my.gguf")
    assert not (tmp_path / "my.gguf").exists()
