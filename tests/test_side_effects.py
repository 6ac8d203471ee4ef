from dataclasses import replace

import numpy as np
import pytest
import torch
from steering import some_bundle
from tiny import tiny_model, tiny_questions

from fasb.artifacts import Store
from fasb.data import plain_text
from fasb.decoding.side_effects import side_effects
from fasb.errors import DataError
from fasb.model.hooks import editing, reading
from fasb.steering.policy import Policy
from fasb.study.run import Runner
from fasb.study.testing import SIDE_EFFECTS, Unrelated, measure_side_effects
from fasb.study.tune import bundle_path
from fasb.world import documents

GENERATOR = np.random.default_rng(0)
TEXTS = [GENERATOR.integers(3, 160, n).tolist() for n in (9, 4, 15, 2, 12)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def plain_loop(model, text, bundle, gated):
    """One text, no padding, one distribution after the other, in probabilities."""
    ids = torch.tensor([text])
    with torch.no_grad(), reading(model.layout, bundle.tracker.heads) as reader:
        before = model.model(ids).logits[0].double().softmax(-1)
        p = bundle.tracker.deviation(reader.take())[0].double()
    strength = torch.full((1, len(text)), bundle.policy.alpha, dtype=torch.float64)
    if gated:
        strength = bundle.policy.alpha * p[None] * (p > bundle.policy.beta)
    with torch.no_grad(), editing(model.layout, bundle.edit) as dial:
        dial.strength = strength
        after = model.model(ids).logits[0].double().softmax(-1)
    ce, kl = [], []
    for t, token in enumerate(text[1:]):
        ce.append(-np.log(float(after[t, token])))
        kl.append(sum(float(a) * np.log(float(a) / float(b)) for a, b in zip(before[t], after[t])))
    return np.mean(ce), np.mean(kl), float((strength != 0).double().mean())


@pytest.mark.parametrize("gated", [False, True])
def test_equals_a_plain_loop_over_single_texts(model, gated):
    bundle = some_bundle(model)
    found = side_effects(model, TEXTS, [bundle], batch=3)[0][gated]
    expected = np.array([plain_loop(model, text, bundle, gated) for text in TEXTS]).T
    for values, wanted in zip((found.ce, found.kl, found.steered), expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7)
    assert (found.kl > 0).any()
    assert not gated or 0 < found.steered.mean() < 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_strength_0_changes_nothing_at_all(model, batch):
    unsteered = replace(some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None)
    zero, never = side_effects(model, TEXTS, [some_bundle(model, alpha=0.0), unsteered], batch)
    for effects in (*zero, *never):
        assert not effects.kl.any()
        assert not effects.steered.any()
        np.testing.assert_array_equal(effects.ce, never[0].ce)


def test_every_tuned_bundle_is_measured_and_kept_in_the_store(model, tmp_path):
    bundles = {
        "unsteered": replace(
            some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None
        )
    }
    bundles["fasb"] = some_bundle(model)
    for name, bundle in bundles.items():
        for fold in (0, 1):
            bundle.save(bundle_path(tmp_path, name, fold))
    runner = Runner(model.settings, lambda: model, Store(tmp_path / "store"))
    prompt, scoring = bundles["fasb"].prompt, bundles["fasb"].scoring
    unrelated = Unrelated(
        ["what is it made of ?", "it is oak ."], 6, 2, tiny_questions(2), prompt, scoring
    )
    found = measure_side_effects(runner, 2, (tmp_path, list(bundles)), unrelated)
    assert list(found.columns) == SIDE_EFFECTS
    assert len(found) == 2 * 2 * (2 + 2)
    text = found[found["question"].str.startswith("text")]
    assert (text.groupby("method")["kl"].max() > 0).to_dict() == {"fasb": True, "unsteered": False}
    assert text["unrelated"].isna().all()
    choices = found[~found["question"].str.startswith("text")]
    assert choices["unrelated"].between(0, 1).all()
    assert choices["ce"].isna().all()
    stored = replace(runner, model=lambda: pytest.fail("the model was loaded"))
    again = measure_side_effects(stored, 2, (tmp_path, list(bundles)), unrelated)
    assert again.equals(found)


def test_texts_are_read_from_a_folder(tmp_path):
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("c.txt", " ")):
        (tmp_path / name).write_text(text)
    assert plain_text.load(plain_text.Settings(path=str(tmp_path))) == ["first", "second"]
    assert plain_text.load(plain_text.Settings(path=str(tmp_path), n=1)) == ["first"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "part.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert plain_text.load(plain_text.Settings(path=str(other))) == ["one", "two"]
    with pytest.raises(DataError, match="no such field"):
        plain_text.load(plain_text.Settings(path=str(other), column="body"))
    (other / "part.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(DataError, match="no text in it"):
        plain_text.load(plain_text.Settings(path=str(other)))


def test_a_worlds_documents_are_not_those_of_another_seed():
    found = documents.load(documents.Settings(seed=5, n=4))
    assert found == documents.load(documents.Settings(seed=5, n=4))
    assert found != documents.load(documents.Settings(seed=6, n=4))
    assert len(found) == 4


def test_gates_steer_as_much_as_they_say(model):
    always, never, question, open_gate = side_effects(
        model,
        TEXTS,
        [
            some_bundle(model, when="always"),
            some_bundle(model, when="never"),
            some_bundle(model, when="prompt"),
            some_bundle(model, beta=0.0, adaptive=False),
        ],
    )
    assert (always[1].steered == 1).all()
    assert not never[1].steered.any()
    assert np.isnan(question[1].ce).all()
    assert np.isfinite(question[0].ce).all()
    np.testing.assert_allclose(open_gate[1].kl, open_gate[0].kl)
    np.testing.assert_allclose(always[0].kl, always[1].kl)


def test_a_text_of_one_token_has_no_next_one(model):
    found = side_effects(model, [[5], [5, 6]], [some_bundle(model)])[0][0]
    assert np.isnan([found.ce[0], found.kl[0]]).all()
    assert np.isfinite([found.ce[1], found.kl[1]]).all()
