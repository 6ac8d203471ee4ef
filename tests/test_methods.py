import numpy as np
import pytest
import torch
from fits import some_fits

from fasb.fitting.anchors import anchors
from fasb.methods import fasb, iti, unsteered
from fasb.settings import DecodingSettings, PromptSettings, TrackerSettings


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return some_fits(tmp_path_factory.mktemp("fits")).fit()


@pytest.fixture
def fitted(fits):
    return fits.read()[0]


def heads_of(part):
    return part.heads.tolist()


@pytest.mark.parametrize(("vector", "ranked_by"), [("probe", "logistic"), ("prototype", "cosine")])
def test_fasb_edits_and_tracks_the_heads_whose_own_classifiers_are_best(fitted, vector, ranked_by):
    bundle = fasb.fit(fitted, fasb.Settings(k=3, vector=vector))
    best = anchors(fitted.accuracy[ranked_by], 3)
    assert heads_of(bundle.edit) == heads_of(bundle.tracker) == best.tolist()
    assert torch.equal(bundle.edit.vector, fitted.vectors[vector].edit(best).vector)
    assert (bundle.tracker.centre is not None) == (ranked_by == "cosine")


def test_the_released_hybrid_tracks_prototypes_by_logistic_probes(fits):
    fitted = fits.read(trackers=TrackerSettings(prototype="logistic", judged="previous"))[0]
    bundle = fasb.fit(fitted, fasb.Settings(k=2, vector="prototype"))
    assert heads_of(bundle.tracker) == anchors(fitted.accuracy["logistic"], 2).tolist()
    assert bundle.tracker.centre is None
    assert torch.equal(
        bundle.edit.vector, fitted.vectors["prototype"].edit(bundle.edit.heads.numpy()).vector
    )
    assert bundle.policy.judged == "previous"


def test_fasbs_settings_become_its_policy(fitted):
    settings = fasb.Settings(
        k=2, alpha=7, beta=0.3, s=4, gate="question", adaptive=False, backtrack=False, release=0.2
    )
    policy = fasb.fit(fitted, settings).policy.as_dict()
    assert policy == {
        "alpha": 7, "beta": 0.3, "s": 4, "gate": "question", "adaptive": False, "backtrack": False, "judged": "newest",
        "backtracks": 1, "safe": None, "reestimate": False, "release": 0.2,
    }  # fmt: skip


def test_iti_edits_the_heads_of_the_best_probes_and_always_steers(fitted):
    bundle = iti.fit(fitted, iti.Settings(k=4, alpha=3))
    assert heads_of(bundle.edit) == anchors(fitted.accuracy["logistic"], 4).tolist()
    assert torch.equal(
        bundle.edit.vector, fitted.vectors["prototype"].edit(bundle.edit.heads.numpy()).vector
    )
    assert bundle.tracker is None
    assert (bundle.policy.gate, bundle.policy.alpha, bundle.policy.adaptive) == ("always", 3, False)


def test_fasb_with_everything_fixed_is_iti(fitted):
    fixed = fasb.Settings(
        k=2, alpha=3, gate="always", adaptive=False, backtrack=False, beta=0.1, s=3
    )
    assert (
        fasb.fit(fitted, fixed).key()
        == iti.fit(fitted, iti.Settings(k=2, alpha=3, vector="probe")).key()
    )


def test_unsteered_has_nothing_to_steer_with(fitted):
    bundle = unsteered.fit(fitted, unsteered.Settings())
    assert (bundle.edit, bundle.tracker, bundle.policy.gate) == (None, None, "never")


@pytest.mark.parametrize("method", [unsteered, iti, fasb], ids=lambda module: module.__name__)
def test_a_bundle_is_whole_and_of_its_fold(fits, method):
    sections = {"prompt": PromptSettings(prefix="Say: "), "decoding": DecodingSettings(tokens=9)}
    for fitted in fits.read(**sections):
        few = {"k": 2} if "k" in method.Settings.model_fields else {}
        bundle = method.fit(fitted, method.Settings(**few))
        bundle.require()
        assert bundle.fingerprint == fitted.fingerprint
        assert (bundle.prompt, bundle.decoding) == tuple(sections.values())
        assert bundle.about["fold"] == fitted.fold


def test_folds_differ(fits):
    keys = {fasb.fit(fitted, fasb.Settings(k=2)).key() for fitted in fits.read()}
    assert len(keys) == 2


def test_strength_is_in_units_of_sigma(fitted):
    bundle = iti.fit(fitted, iti.Settings(k=1))
    layer, head = bundle.edit.heads[0].tolist()
    assert np.isclose(
        bundle.edit.vector.norm().item(), fitted.vectors["prototype"].scale[layer, head]
    )
