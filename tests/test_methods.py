"""What defines each method and gate, seen in the model while an answer is written.

Fitted on the tiny model's own activations; what they should be is computed anew, without the
library.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from fits import fit_bundle, model_fits
from sklearn.linear_model import LogisticRegression
from steering import some_prompts
from tiny import tiny_model, tiny_questions

from fasb.decoding import generate
from fasb.decoding.decode import decode, decode_live
from fasb.decoding.observe import logits_of
from fasb.errors import ConfigError
from fasb.fitting.learning import training_prompts
from fasb.fitting.reads import HEAD_READS, Read
from fasb.model.hooks import editing
from fasb.search import Method
from fasb.settings import (
    DecodingSettings,
    PromptSettings,
    StageSettings,
    TrackerSettings,
    VectorSettings,
)

SECTIONS = StageSettings(prompt=PromptSettings(stop=()), decoding=DecodingSettings(tokens=6))
PROMPTS = [prompt for prompt in some_prompts(7, seed=3) if len(prompt) > 1]
RESIDUAL, MLP, NEURON = Read("residual"), Read("mlp"), Read("neuron")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def fits(tmp_path_factory, model):
    return model_fits(tmp_path_factory.mktemp("fits"), model, tiny_questions(16))


def bundle_of(fits, model, use=None, gate=None, sections=SECTIONS, **settings):
    """A fitted bundle in float64."""
    entry = Method(use=use, gate=gate, settings=settings)
    recipe = entry.recipe({}, sections, "test")
    training = replace(fits.training(), sections=sections, model=lambda: model)
    bundle = fit_bundle(training, recipe, model.fingerprint, {})
    tracker = bundle.tracker.to("cpu", torch.float64) if bundle.tracker is not None else None
    return replace(bundle, edit=bundle.edit.to("cpu", torch.float64), tracker=tracker)


def train_of(fits, read):
    """Activations [answer, layer, unit, width], labels and questions of the training rows."""
    bank = fits.bank(read)
    rows = bank.rows(fits.splits[0].train)
    x = np.stack([bank.layer(i) for i in range(bank.n_layers)], 1).astype(np.float64)
    return x[rows], bank.label[rows], bank.question[rows]


def seen_while_writing(model, text, bundle, site, monkeypatch):
    """Of each pass, each layer's activations of a site before and behind the edit.

    [layer][before, behind] of [token, unit, width], pass by pass.
    """
    found, forward, where = [], generate.forward, model.layout.site(site)

    def watched(model, batch, keep=0):
        seen, handles = defaultdict(list), []
        for layer, module in enumerate(where.modules):

            def note(x, layer=layer):
                shape = (where.units, where.width)
                seen[layer].append(x[0].detach().clone().cpu().unflatten(-1, shape))

            for first in (True, False):  # hooks run in this order, the edit's between them
                if where.side == "input":
                    handles.append(
                        module.register_forward_pre_hook(
                            lambda _, x, note=note: note(x[0]), prepend=first
                        )
                    )
                else:
                    handles.append(
                        module.register_forward_hook(
                            lambda _m, _x, out, note=note: note(
                                out[0] if isinstance(out, tuple) else out
                            ),
                            prepend=first,
                        )
                    )
        try:
            return forward(model, batch, keep)
        finally:
            for handle in handles:
                handle.remove()
            found.append([seen[layer] for layer in range(len(where.modules))])

    monkeypatch.setattr(generate, "forward", watched)
    decode_live(model, [text], bundle)
    monkeypatch.setattr(generate, "forward", forward)
    assert len(found) == SECTIONS.decoding.tokens
    return found


# CAA


def test_caa_adds_the_mean_difference_at_its_layer_from_the_prompts_last_token_on(
    fits, model, monkeypatch
):
    x, label, question = train_of(fits, RESIDUAL)
    differences = []
    for one in dict.fromkeys(question):
        own = question == one
        differences.append(x[own & (label == 1)].mean(0) - x[own & (label == 0)].mean(0))
    for depth, layer in ((0.0, 0), (0.5, 1), (1.0, 2)):
        vector = np.mean(differences, axis=0)[layer, 0]
        bundle = bundle_of(fits, model, "caa", layer=depth, alpha=1.5)
        assert bundle.policy.when == "always"
        passes = seen_while_writing(model, PROMPTS[0], bundle, "residual", monkeypatch)
        for number, layers in enumerate(passes):
            for i, (before, behind) in enumerate(layers):
                added = (behind - before).numpy()[:, 0]
                expected = np.zeros_like(added)
                if i == layer:
                    # every token that is run but those of the prompt before its last
                    expected[-1 if number == 0 else 0 :] = 1.5 * vector
                np.testing.assert_allclose(added, expected, rtol=1e-5, atol=1e-6)


# ORTHO


def ortho_direction(fits, layer):
    x, label, _ = train_of(fits, RESIDUAL)
    raw = (x[label == 0].mean(0) - x[label == 1].mean(0))[layer, 0]
    return raw / np.linalg.norm(raw)


@pytest.mark.parametrize("site", ["residual", "attention", "mlp"])
def test_ortho_leaves_nothing_of_its_direction_at_any_layer_and_token(
    fits, model, monkeypatch, site
):
    d = ortho_direction(fits, 1)
    bundle = bundle_of(fits, model, "ortho", layer=0.5, alpha=1)
    for layers in seen_while_writing(model, PROMPTS[1], bundle, site, monkeypatch):
        for before, behind in layers:
            before, behind = before.numpy()[:, 0], behind.numpy()[:, 0]
            assert np.abs(behind @ d).max() < 1e-5 * np.abs(behind).max()
            np.testing.assert_allclose(
                behind, before - np.outer(before @ d, d), rtol=0, atol=1e-5 * np.abs(before).max()
            )
        if site != "residual":  # behind the first layer, the stream has none of it to begin with
            assert np.abs(layers[0][0].numpy()[:, 0] @ d).max() > 1e-3


def test_ortho_twice_is_ortho_once(fits, model):
    edit = bundle_of(fits, model, "ortho").edit
    once = logits_of(model, PROMPTS[0], edit, 1.0)
    with editing(model.layout, edit) as dial:
        dial.strength = torch.ones(1, len(PROMPTS[0]), dtype=torch.float64)
        twice = logits_of(model, PROMPTS[0], edit, 1.0)
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-5)
    assert (once - logits_of(model, PROMPTS[0])).abs().max() > 1e-2


# SADI


@pytest.mark.parametrize("variant", ["head", "hidden", "neuron"])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_sadi_scales_what_truth_makes_largest_at_the_prompts_last_token_alone(
    fits, model, monkeypatch, variant, alpha
):
    read, k = {"head": (HEAD_READS[0], 3), "hidden": (MLP, 5), "neuron": (NEURON, 5)}[variant]
    x, label, _ = train_of(fits, read)
    difference = x[label == 1].mean(0) - x[label == 0].mean(0)
    factor = np.zeros_like(difference)
    if variant == "head":
        for place in np.argsort(-difference.mean(-1), axis=None)[:k]:
            factor[np.unravel_index(place, difference.shape[:2])] = 1
    else:
        factor.flat[np.argsort(-difference, axis=None)[:k]] = 1
    bundle = bundle_of(fits, model, "sadi", variant=variant, k=k, alpha=alpha)
    passes = seen_while_writing(model, PROMPTS[0], bundle, read.site, monkeypatch)
    for number, layers in enumerate(passes):
        for i, (before, behind) in enumerate(layers):
            expected = before.numpy().copy()
            if number == 0:
                expected[-1] *= 1 + alpha * factor[i]
            np.testing.assert_allclose(behind.numpy(), expected, rtol=1e-12)
    assert factor.sum() == (k * model.layout.head_dim if variant == "head" else k)


def test_sadi_takes_signed_differences_and_no_more_than_there_are(fits, model):
    """Heads that truth makes smaller are not among the largest, however much smaller."""
    x, label, _ = train_of(fits, HEAD_READS[0])
    signed = (x[label == 1].mean(0) - x[label == 0].mean(0)).mean(-1)
    chosen = bundle_of(fits, model, "sadi", k=2).edit.changes[0].at.tolist()
    assert sorted(signed[layer, head] for layer, head in chosen) == sorted(signed.flat)[-2:]
    with pytest.raises(ConfigError, match="k: 13, but there are 12; set k to that or less"):
        bundle_of(fits, model, "sadi", k=13)


# CAST


def logit_of_similarity(model, text, layer, c):
    """The logit of (1 + s) / 2 at the end of a prompt, s = cos(h, tanh(P h))."""
    out = model.model(torch.tensor([text], device=model.device), output_hidden_states=True)
    h = out.hidden_states[layer + 1][0, -1].detach().cpu().numpy()
    projected = np.tanh(np.outer(c, c) / (c @ c) @ h)
    cosine = h @ projected / np.linalg.norm(h) / np.linalg.norm(projected)
    return np.log((1 + cosine) / (1 - cosine))


@pytest.mark.parametrize("side", ["above", "below"])
def test_cast_judges_where_a_prompts_similarity_stands_among_training_prompts(fits, model, side):
    """p is the place of that logit in a normal distribution."""
    x, label, question = train_of(fits, RESIDUAL)
    trained = training_prompts(replace(fits.training(), sections=SECTIONS), model)
    for depth, layer in ((0.0, 0), (0.5, 1)):
        pairs = []
        for one in dict.fromkeys(question):
            own = question == one
            pairs.append((x[own & (label == 1)].mean(0) - x[own & (label == 0)].mean(0))[layer, 0])
        values, components = np.linalg.eigh(np.transpose(pairs) @ np.array(pairs))
        c = components[:, values.argmax()]

        seen = np.array([logit_of_similarity(model, text, layer, c) for text in trained])
        bundle = bundle_of(
            fits, model, "cast", "condition", condition=depth, side=side, when="prompt", alpha=2
        )
        for text in trained[:3]:
            z = (logit_of_similarity(model, text, layer, c) - seen.mean()) / seen.std()
            z = z if side == "above" else -z
            p = 1 / (1 + np.exp(-1.702 * z))
            for beta, fires in ((p - 1e-3, True), (p + 1e-3, False)):
                found = decode(model, [text], bundle.with_policy(beta=float(beta)))
                assert found.before.p[0, 0] == pytest.approx(p, abs=1e-4)
                assert found.decision.fired.tolist() == [fires]
                assert found.decision.strength[0] == pytest.approx(2 * p * fires, abs=1e-3)


def test_casts_two_sides_part_the_prompts(fits, model):
    trained = training_prompts(replace(fits.training(), sections=SECTIONS), model)
    shares = []
    for beta in (0.3, 0.5, 0.7):
        fired = {}
        for side, threshold in (("above", beta), ("below", 1 - beta)):
            bundle = bundle_of(fits, model, "cast", "condition", side=side, when="prompt")
            found = decode(model, trained, bundle.with_policy(beta=threshold))
            fired[side] = found.decision.fired
        assert (fired["above"] ^ fired["below"]).all()
        shares.append(fired["above"].mean())
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[1] < 1


def test_cast_adds_the_first_component_of_centred_pairs_at_its_layers(fits, model):
    edit = bundle_of(fits, model, "cast", first=0.0, last=0.5).edit
    (change,) = edit.changes
    assert (change.site, change.at.tolist(), edit.active.positions) == (
        "residual",
        [[0, 0], [1, 0]],
        "from_answer",
    )
    x, label, question = train_of(fits, RESIDUAL)
    for layer, vector in enumerate(change.operation.vector.numpy()):
        states = []
        for one in dict.fromkeys(question):
            own = question == one
            pair = [x[own & (label == side), layer, 0].mean(0) for side in (1, 0)]
            states += [half - np.mean(pair, axis=0) for half in pair]
        values, components = np.linalg.eigh(np.transpose(states) @ np.array(states))
        first = components[:, values.argmax()]
        assert abs(vector @ first) == pytest.approx(1, abs=1e-5)
        along = np.array(states) @ vector
        assert along[::2].mean() > along[1::2].mean()  # true answers project higher


# Head vectors and the probe gate


def sklearn_probes(x, label):
    """scikit-learn's own optimum for each head, by layer and head."""
    found = {}
    for place in np.ndindex(x.shape[1:3]):
        probe = LogisticRegression(tol=1e-10, max_iter=10**6)
        found[place] = probe.fit(x[(slice(None), *place)], label)
    return found


@pytest.fixture(scope="module")
def ranked(fits):
    """Probes of all heads, and the heads by validation accuracy."""
    x, label, _ = train_of(fits, HEAD_READS[0])
    probes = sklearn_probes(x, label)
    bank = fits.bank(HEAD_READS[0])
    rows = bank.rows(fits.splits[0].validation)
    score = {
        (i, head): probe.score(bank.layer(i)[rows, head], bank.label[rows])
        for (i, head), probe in probes.items()
    }
    return probes, sorted(score, key=lambda place: (-score[place], place))


@pytest.mark.parametrize("vector", ["probe", "prototype"])
@pytest.mark.parametrize("scale", ["sigma", "raw"])
def test_head_vectors_are_sigma_times_the_unit_direction_of_the_best_heads(
    fits, model, ranked, vector, scale
):
    probes, best = ranked
    sections = SECTIONS.model_copy(update={"vectors": VectorSettings(scale=scale)})
    (change,) = bundle_of(
        fits, model, "head_vectors", sections=sections, k=4, vector=vector
    ).edit.changes
    assert [tuple(place) for place in change.at.tolist()] == best[:4]
    x, label, _ = train_of(fits, HEAD_READS[0])
    behind = fits.bank(HEAD_READS[1])
    rows = behind.rows(fits.splits[0].train)
    for (layer, head), found in zip(best, change.operation.vector.numpy()):
        raw = probes[layer, head].coef_[0]
        if vector == "prototype":
            raw = x[label == 1, layer, head].mean(0) - x[label == 0, layer, head].mean(0)
        direction = raw / np.linalg.norm(raw)
        along = behind.layer(layer)[rows, head].astype(np.float64) @ direction
        expected = direction * np.std(along) if scale == "sigma" else raw
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def random_vectors(fits, model, seed=0, **settings):
    training = replace(fits.training(), sections=SECTIONS, model=lambda: model, seed=seed)
    entry = Method(use="head_vectors", settings={"k": 4, **settings})
    recipe = entry.recipe({}, SECTIONS, "test")
    (change,) = fit_bundle(training, recipe, model.fingerprint, {}).edit.changes
    return change.at, change.operation.vector


def test_a_random_direction_is_as_long_as_the_probes_and_drawn_from_the_seed(fits, model):
    at, vector = random_vectors(fits, model, vector="random")
    probes_at, probes = random_vectors(fits, model)
    assert torch.equal(at, probes_at)
    torch.testing.assert_close(vector.norm(dim=1), probes.norm(dim=1))
    assert not torch.allclose(vector, probes)
    again, other = (random_vectors(fits, model, seed, vector="random")[1] for seed in (0, 1))
    assert torch.equal(vector, again)
    assert not torch.allclose(vector, other)
    # a smaller k has the same directions
    assert torch.equal(random_vectors(fits, model, vector="random", k=2)[1], vector[:2])


def test_random_heads_are_drawn_from_the_seed_and_keep_their_own_vectors(fits, model):
    at, vector = random_vectors(fits, model, heads="random")
    assert len({tuple(place) for place in at.tolist()}) == 4
    assert not torch.equal(at, random_vectors(fits, model, seed=1, heads="random")[0])
    assert torch.equal(random_vectors(fits, model, heads="random", k=2)[0], at[:2])
    n_heads = model.layout.n_layers * model.layout.n_heads
    every, vectors = random_vectors(fits, model, k=n_heads)
    of = {tuple(place): one for place, one in zip(every.tolist(), vectors)}
    for place, one in zip(at.tolist(), vector):
        assert torch.equal(one, of[tuple(place)])


def test_the_gate_of_chance_has_the_probe_gates_p_on_average_and_knows_nothing(fits, model):
    probe, chance = (
        bundle_of(fits, model, "head_vectors", gate, k=3).tracker for gate in ("probe", "chance")
    )
    assert chance.at.shape == (1, 2)
    bank = fits.bank(HEAD_READS[0])
    rows = bank.rows(fits.splits[0].train)
    logits = []
    for tracker in (probe, chance):
        states = [bank.layer(layer)[rows][:, head] for layer, head in tracker.at.tolist()]
        p = tracker.deviation(torch.from_numpy(np.stack(states, 1)))
        logits.append(torch.logit(p.double(), eps=1e-6).numpy())
    assert logits[1].mean() == pytest.approx(logits[0].mean(), abs=1e-3)
    assert logits[1].std() == pytest.approx(logits[0].std(), rel=1e-3)
    assert np.corrcoef(logits)[0, 1] < 0.9


def test_the_probe_gate_is_the_mean_over_anchors_of_one_minus_p_true(fits, model, ranked):
    probes, best = ranked
    tracker = bundle_of(fits, model, "head_vectors", "probe", k=3).tracker
    assert [tuple(place) for place in tracker.at.tolist()] == best[:3]
    bank = fits.bank(HEAD_READS[0])
    x = np.stack([bank.layer(layer)[:, head] for layer, head in best[:3]], 1).astype(np.float64)
    p_true = [probes[place].predict_proba(x[:, i])[:, 1] for i, place in enumerate(best[:3])]
    found = tracker.deviation(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, 1 - np.mean(p_true, axis=0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prototype", ["cosine", "logistic"])
def test_the_prototype_variant_tracks_what_the_preset_says(fits, model, prototype):
    """Training-free, or the released hybrid: prototype vectors tracked by logistic probes."""
    trackers = TrackerSettings(prototype=prototype)
    sections = SECTIONS.model_copy(update={"trackers": trackers})
    variant = {"vector": "prototype", "classifier": "prototype", "k": 3}
    bundle = bundle_of(fits, model, "head_vectors", "probe", sections, **variant)
    named = bundle_of(fits, model, "head_vectors", "probe", **(variant | {"classifier": prototype}))
    assert bundle.tracker.content() == named.tracker.content()
    assert bundle.edit.content() == named.edit.content()
    assert hasattr(bundle.tracker.score, "centre") == (prototype == "cosine")


def test_depths_beyond_the_last_layer_are_refused(fits, model):
    for use, key in (("caa", "layer"), ("ortho", "layer"), ("cast", "last")):
        with pytest.raises(ConfigError, match=f"{key}: .*less than or equal to 1"):
            bundle_of(fits, model, use, **{key: 1.1})
