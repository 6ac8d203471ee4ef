"""A method is one entry of a config: its settings go to policy, method and gate by their names."""

import sys
from types import ModuleType

import pytest
import torch
from fits import fit_bundle, some_fits

from fasb import search
from fasb.errors import ConfigError
from fasb.fitting.reads import HEAD_READS, Read
from fasb.search import Method
from fasb.settings import DecodingSettings, PromptSettings, Section, StageSettings, TrackerSettings
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy

MODEL = Fingerprint("tiny", 2, 3, 5, "vocabulary")
FASB = {"use": "head_vectors", "gate": "probe"}
RELEASED = StageSettings(trackers=TrackerSettings(judged="previous"))


def recipe(settings=None, point=None, sections=StageSettings(), **entry):
    entry = Method(settings=settings or {}, **entry)
    return entry.recipe(point or {}, sections, "mine")


def test_each_key_goes_to_whoever_knows_it():
    found = recipe(
        {"k": 4, "vector": "prototype", "alpha": 7}, {"beta": 0.3, "s": 4, "k": 2}, **FASB
    )
    assert found.policy == Policy(7.0, 0.3, 4)
    assert (found.method.k, found.method.vector) == (2, "prototype")
    assert found.gate_settings.k == 2
    assert found.settings()["k"] == 2


@pytest.mark.parametrize(
    ("entry", "when"),
    [({}, "never"), ({"use": "head_vectors"}, "always"), (FASB, "token")],
    ids=["unsteered", "method", "method and gate"],
)
def test_when_follows_from_what_an_entry_has(entry, when):
    assert recipe(**entry).policy.when == when


def test_values_have_their_type_however_they_are_written():
    """So that equal settings are equal bundles."""
    found = recipe({"alpha": 3, "beta": 1, "s": 4.0}, **FASB).policy
    assert [type(value) for value in (found.alpha, found.beta, found.s)] == [float, float, int]


def test_when_can_be_said():
    for when in ("token", "prompt", "always", "never"):
        assert recipe({"when": when}, **FASB).policy.when == when


def test_the_presets_judged_state_is_taken_where_it_has_a_meaning():
    assert recipe(sections=RELEASED, **FASB).policy.judged == "previous"
    assert recipe(**FASB).policy.judged == "newest"
    assert recipe({"judged": "newest"}, sections=RELEASED, **FASB).policy.judged == "newest"
    for beyond in ({"backtracks": 2}, {"reestimate": True}, {"release": 0.2}):
        assert recipe(beyond, sections=RELEASED, **FASB).policy.judged == "newest"


def test_what_a_policy_does_not_look_at_makes_no_difference():
    """FASB with everything fixed is ITI: the same policy, and so the same bundle."""
    iti = recipe({"alpha": 3}, use="head_vectors").policy
    fixed = recipe({"alpha": 3, "when": "always"}, **FASB).policy
    assert fixed == iti
    assert (iti.adaptive, iti.backtrack) == (False, False)
    prompt = recipe({"alpha": 3, "when": "prompt"}, **FASB).policy
    assert (prompt.adaptive, prompt.backtrack) == (True, False)
    assert recipe({"when": "prompt", "adaptive": False}, **FASB).policy.adaptive is False


@pytest.mark.parametrize(
    ("settings", "entry", "message"),
    [
        ({"alhpa": 3}, FASB, r"methods\.mine\.alhpa: unknown key; did you mean 'alpha'"),
        ({"k": 3}, {}, r"methods\.mine\.k: unknown key"),
        ({"vector": "probe"}, {"use": "caa"}, r"methods\.mine\.vector: unknown key"),
        ({"condition": 0.5}, FASB, r"methods\.mine\.condition: unknown key"),
        ({"k": 0}, FASB, r"methods\.mine\.k: .*greater than or equal to 1"),
        ({"vector": "randm"}, FASB, r"methods\.mine\.vector: "),
        ({"layer": 2.0}, {"use": "caa"}, r"methods\.mine\.layer: .*less than or equal to 1"),
        ({"s": 0}, FASB, r"policy\.s: 0"),
        ({"s": 2.5}, FASB, r"methods\.mine\.s: .*valid integer.*got 2\.5"),
        ({"alpha": "much"}, FASB, r"methods\.mine\.alpha: .*valid number.*got 'much'"),
        ({"backtracks": None}, FASB, r"methods\.mine\.backtracks: .*valid integer"),
        ({"when": "answer"}, FASB, r"methods\.mine\.when: .*got 'answer'"),
        ({"when": "token"}, {"use": "caa"}, r"methods\.mine\.when: 'token' reads p; name a gate"),
        (
            {"backtracks": 2},
            {"use": "caa"},
            r"methods\.mine\.when: 'always' reads p; name a gate",
        ),
        ({}, {"use": "hed_vectors"}, r"no module 'hed_vectors'; did you mean 'head_vectors'"),
        ({}, {"use": "caa", "gate": "prob"}, r"no module 'prob'; did you mean 'probe'"),
    ],
    ids=str,
)
def test_what_no_entry_can_say_is_refused_by_its_key(settings, entry, message):
    with pytest.raises(ConfigError, match=message) as caught:
        recipe(settings, **entry)
    assert "\n" not in str(caught.value)


def test_points_cross_the_grid_the_last_key_fastest():
    entry = Method(**FASB, grid={"alpha": (1, 2), "s": (3, 4)})
    assert entry.points() == [
        {"alpha": 1, "s": 3},
        {"alpha": 1, "s": 4},
        {"alpha": 2, "s": 3},
        {"alpha": 2, "s": 4},
        {"when": "never"},
    ]
    assert Method().points() == [{}]


def test_not_to_steer_is_the_last_point_of_every_grid_that_steers():
    entry = Method(**FASB, settings={"when": "prompt", "alpha": 3}, grid={"k": (2, 4)})
    *steering, last = entry.points()
    assert all(search.steers(point) for point in steering)
    assert last == {"k": 2, "when": "never"}
    found = entry.recipe(last, StageSettings(), "test")
    assert (found.policy.when, found.policy.reads_p, found.method.k) == ("never", False, 2)
    assert Method(**FASB, settings={"alpha": 3}).points() == [{}]


def test_an_entry_like_another_takes_what_it_knows_of_its_setting():
    point = {"k": 2, "alpha": 3.0, "beta": 0.4, "s": 5, "vector": "prototype"}
    found = recipe({"beta": 0.9}, point, use="caa", like="fasb")
    assert (found.policy.alpha, found.policy.beta) == (3.0, 0.4)
    with pytest.raises(ConfigError, match=r"methods\.mine\.k: unknown key"):
        recipe({}, point, use="caa")


def test_what_is_read_is_what_method_and_gate_read_each_once():
    assert recipe(**FASB).reads() == HEAD_READS
    assert recipe(use="caa", gate="condition").reads() == (Read("residual", "answer_end"),)
    assert recipe(use="ortho", gate="probe").reads() == (Read("residual"), Read("head"))
    assert recipe({"variant": "hidden"}, use="sadi").reads() == (Read("mlp"),)
    assert recipe(use="east").reads() == ()
    assert recipe().reads() == ()


@pytest.fixture
def own(monkeypatch):
    """A method module of one's own that says nothing of what it reads."""
    module = ModuleType("own.method")
    module.Settings, module.fit = Section, lambda training, settings: None
    monkeypatch.setitem(sys.modules, "own.method", module)
    return module


def test_a_module_says_what_it_reads_in_a_constant_or_by_its_settings(own):
    assert recipe(use="own.method").reads() == ()
    own.READS = (Read("mlp"),)
    assert recipe(use="own.method").reads() == (Read("mlp"),)
    own.reads = lambda settings: [Read("neuron"), Read("neuron")]
    assert recipe(use="own.method").reads() == (Read("neuron"),)


@pytest.mark.parametrize("said", [Read("mlp"), ("mlp",)])
def test_what_is_no_read_is_refused(own, said):
    own.READS = said
    with pytest.raises(ConfigError, match="own.method: reads gives .*; give a tuple of Read"):
        recipe(use="own.method").reads()


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return some_fits(tmp_path_factory.mktemp("fits"))


def test_a_bundle_is_whole_and_says_what_it_was_made_of(fits):
    sections = {"prompt": PromptSettings(prefix="Say: "), "decoding": DecodingSettings(tokens=9)}
    training, one = fits.training(**sections), recipe({"k": 2}, **FASB)
    bundle = fit_bundle(training, one, MODEL, {"fold": 0})
    bundle.require()
    assert (bundle.prompt, bundle.decoding) == tuple(sections.values())
    assert bundle.fingerprint == MODEL
    assert bundle.about == {"fold": 0, "settings": one.settings()}
    assert bundle.policy == one.policy
    assert torch.equal(bundle.edit.changes[0].at, bundle.tracker.at)


def test_a_policy_that_reads_no_p_has_no_tracker(fits):
    for settings in ({"when": "always"}, {"when": "never"}):
        bundle = fit_bundle(fits.training(), recipe({"k": 2} | settings, **FASB), MODEL, {})
        assert bundle.tracker is None
    assert fit_bundle(fits.training(), recipe(), MODEL, {}).edit is None


def test_folds_differ(fits):
    found = [
        fit_bundle(fits.training(fold), recipe({"k": 2}, **FASB), MODEL, {}) for fold in (0, 1)
    ]
    assert found[0].key() != found[1].key()


def test_a_method_may_say_how_long_its_edits_last(fits):
    """ITI's persist also in a study of the released program, whose own do not (G8, G9)."""
    training = fits.training(decoding=DecodingSettings(edit="transient"))
    own = recipe({"k": 2, "alpha": 1, "edit": "persistent"}, use="head_vectors")
    assert fit_bundle(training, own, MODEL, {}).decoding.edit == "persistent"
    assert own.settings()["edit"] == "persistent"
    plain = recipe({"k": 2, "alpha": 1}, use="head_vectors")
    assert fit_bundle(training, plain, MODEL, {}).decoding.edit == "transient"


def test_a_wrong_edit_names_its_key():
    with pytest.raises(ConfigError, match=r"methods\.mine\.edit: .*'persistent' or 'transient'"):
        recipe({"edit": "forever"}, use="head_vectors")
