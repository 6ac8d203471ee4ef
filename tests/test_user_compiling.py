"""A compiled model answers as its bundle does, and what varies is refused."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from steering import some_change, some_edit, some_prompts
from tiny import tiny_model

from fasb.cli import group
from fasb.decoding.decode import decode_live, trace
from fasb.errors import ArtifactError, BundleError
from fasb.model.load import load_model
from fasb.settings import DecodingSettings, ModelSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Active, Edit
from fasb.steering.policy import Policy
from fasb.user.compiling import compile_bundle

PROMPTS = some_prompts(4, seed=2)


def bundle_of(model, edit, **policy):
    policy = Policy(**({"when": "always", "alpha": 0.7} | policy))
    settings = PromptSettings(stop=()), DecodingSettings(tokens=6)
    return Bundle(policy, edit, None, *settings, fingerprint=model.fingerprint)


CASES = [
    ("llama", "head", "remove"),
    ("llama", "mlp", "scale"),
    ("llama", "attention", "remove"),
    ("gpt2", "head", "affine"),
    ("gpt2", "attention", "low_rank"),
    ("gpt2", "residual", "add"),
]


@pytest.mark.parametrize(("name", "site", "kind"), CASES)
def test_the_compiled_model_answers_as_the_bundle(tmp_path, name, site, kind):
    model = tiny_model(name)
    bundle = bundle_of(model, some_edit(model, site=site, kind=kind, positions="all"))
    wanted = decode_live(model, PROMPTS, bundle).after.rows()
    plain = trace(model, PROMPTS, bundle.decoding).rows()
    compile_bundle(model, bundle, tmp_path / "out")
    settings = ModelSettings(path=str(tmp_path / "out"), dtype="float64")
    found = trace(load_model(settings), PROMPTS, bundle.decoding).rows()
    assert found == wanted != plain
    # the bundle is that of the model in memory, whose answers it would else edit twice
    assert decode_live(model, PROMPTS, bundle).after.rows() == wanted
    assert trace(model, PROMPTS, bundle.decoding).rows() == plain


def test_a_siblings_bundle_is_compiled_when_it_is_called_one(tmp_path):
    model = tiny_model()
    bundle = bundle_of(model, some_edit(model, site="head", kind="remove", positions="all"))
    bundle = replace(bundle, fingerprint=replace(model.fingerprint, weights="its base"))
    with pytest.raises(BundleError, match="siblings"):
        compile_bundle(model, bundle, tmp_path / "out")
    compile_bundle(model, bundle, tmp_path / "out", siblings=True)
    assert (tmp_path / "out" / "config.json").is_file()


def test_edits_that_follow_each_other_at_one_unit_are_compiled_in_their_order(tmp_path):
    model = tiny_model("gpt2")
    for site in ("head", "mlp"):
        changes = [some_change(model, site, kind, k=2) for kind in ("affine", "add", "remove")]
        bundle = bundle_of(model, Edit(tuple(changes), Active("all")))
        wanted = decode_live(model, PROMPTS, bundle).after.rows()
        compile_bundle(model, bundle, tmp_path / site)
        settings = ModelSettings(path=str(tmp_path / site), dtype="float64")
        assert trace(load_model(settings), PROMPTS, bundle.decoding).rows() == wanted


@pytest.mark.parametrize(
    ("site", "kind", "positions", "policy", "message"),
    [
        ("head", "remove", "from_answer", {}, "depends on a token's place"),
        ("head", "remove", "prompt_end", {}, "depends on a token's place"),
        ("head", "remove", "all", {"when": "token"}, "weights know no p"),
        ("head", "remove", "all", {"when": "never"}, "weights know no p"),
        ("head", "turn", "all", {}, "depends on the activations"),
        ("mlp", "by_probe", "all", {}, "depends on the activations"),
        ("residual", "remove", "all", {}, "only what adds a constant to the residual stream"),
        ("head", "add", "all", {}, "has no bias to hold what is added"),
    ],
)
def test_what_weights_cannot_hold_is_refused(tmp_path, site, kind, positions, policy, message):
    model = tiny_model()
    edit = some_edit(model, site=site, kind=kind, positions=positions)
    with pytest.raises(BundleError, match=message):
        compile_bundle(model, bundle_of(model, edit, **policy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_refusal_halfway_leaves_the_model_as_it_was(tmp_path, dtype):
    model = tiny_model(dtype=dtype)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    # the second has no bias to go to, after the first is in the weights
    changes = [some_change(model, "mlp", kind, k=2) for kind in ("scale", "add")]
    edit = Edit(tuple(changes), Active("all")).to("cpu", getattr(torch, dtype))
    with pytest.raises(BundleError, match="has no bias"):
        compile_bundle(model, bundle_of(model, edit), tmp_path / "out")
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("alpha", [1e-4, 0.7])
def test_a_weak_edit_that_the_weights_do_not_hold_is_refused_too(tmp_path, monkeypatch, alpha):
    model = tiny_model("gpt2")
    edit = some_edit(model, site="residual", kind="add", positions="all")
    compile_bundle(model, bundle_of(model, edit, alpha=alpha), tmp_path / "well")
    model = tiny_model("gpt2")
    monkeypatch.setattr("fasb.user.compiling._bake", lambda *_: None)
    with pytest.raises(BundleError, match="weights cannot hold the edit"):
        compile_bundle(model, bundle_of(model, edit, alpha=alpha), tmp_path / "not")


def test_half_precision_is_said_to_be_too_coarse(tmp_path):
    model = tiny_model(dtype="float32")
    edit = some_edit(model, kind="remove", positions="all").to("cpu", torch.bfloat16)
    coarse = tiny_model(dtype="bfloat16")
    with pytest.raises(BundleError, match="half precision is too coarse .* dtype float32"):
        compile_bundle(coarse, bundle_of(coarse, edit), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_folder(tmp_path):
    model = tiny_model(dtype="float32")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    edit = some_edit(model, kind="remove", positions="all")
    bundle_of(model, edit.to("cpu", torch.float32)).save(tmp_path / "my.bundle")
    asked = ["compile", str(tmp_path / "my.bundle"), "--model", str(tmp_path / "model")]
    run = CliRunner().invoke(group, [*asked, "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "model.safetensors").exists()
    kept = tmp_path / "model"
    again = CliRunner().invoke(group, [*asked, "--out", str(kept)])
    assert isinstance(again.exception, ArtifactError)  # it would be replaced
    assert (kept / "tokenizer.json").exists()
