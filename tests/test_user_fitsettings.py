"""What `fasb fit` is asked for: any method's edit under FASB's gate, and wrong settings refused."""

import pytest

import fasb
from fasb.errors import ConfigError
from fasb.user.fitsettings import checked_settings, points_of
from tests.test_user import QUESTIONS, SETTINGS
from tests.tiny import tiny_model

MINE = '''"""The first head's mean difference, times a factor."""

from fasb.fitting.reads import Read
from fasb.settings import Section

READS = (Read(),)


class Settings(Section):
    """One setting."""

    factor: float = 1.0


def fit(training, settings):
    """Return the edit of one head."""
    import torch

    from fasb.fitting.directions import mean_difference
    from fasb.steering.edit import Edit

    bank = training.bank(Read())
    vector = mean_difference(bank, training.train_rows(bank))[0, 0]
    at = torch.tensor([[0, 0]])
    return Edit.add(at, settings.factor * torch.from_numpy(vector)[None].float())
'''


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_another_methods_edit_is_tuned_and_gated_as_fasbs(model):
    settings = {**SETTINGS, "use": "caa", "method": {"layer": [0.0, 1.0]}}
    bundle = fasb.fit(model, QUESTIONS, settings)
    (change,) = bundle.edit.changes
    assert change.site == "residual"
    assert bundle.tracker.site == "head"
    assert bundle.about["use"] == "caa"
    tried = [one["point"] for one in bundle.about["tried"]]
    assert [point["layer"] for point in tried if point] == 4 * [0.0] + 4 * [1.0]
    assert {(point["k"], point["alpha"]) for point in tried if point} == {
        *((k, alpha) for k in (2, 4) for alpha in (2.0, 6.0))
    }


def test_a_file_of_ones_own_is_fitted_by_its_name(model, tmp_path, monkeypatch):
    (tmp_path / "lab_for_a_test").mkdir()
    (tmp_path / "lab_for_a_test" / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {**SETTINGS, "use": "lab_for_a_test.mine", "method": {"factor": [2.0]}}
    bundle = fasb.fit(model, QUESTIONS, settings)
    assert bundle.edit.changes[0].at.tolist() == [[0, 0]]


def test_points_are_those_of_the_grid_with_all_of_the_methods_own():
    settings = checked_settings({**SETTINGS, "use": "caa", "method": {"layer": [0.25, 0.5]}})
    points = points_of(settings, 4)
    assert len(points) == 2 * 2 * 2
    assert points[0] == {"k": 2, "alpha": 2.0, "s": 3, "layer": 0.25}


def test_points_beyond_all_measure_are_refused():
    many = [i / 1000 for i in range(1000)]
    settings = {**SETTINGS, "use": "caa", "method": {"layer": many}}
    settings["grid"] = {**SETTINGS["grid"], "alpha": [float(i) for i in range(1, 1000)]}
    with pytest.raises(ConfigError, match=r"grid: [\d,]+ settings, more than"):
        points_of(checked_settings(settings), 4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"use": "cca"}, "cca.*did you mean 'caa'"),
        ({"use": "nowhere.at_all"}, "nowhere.at_all"),
        ({"use": "caa", "vector": "probe"}, r"settings.vector: is of head_vectors.*leave it out"),
        ({"use": "caa", "method": {"layr": [1.0]}}, r"settings.method.layr: .* 'layer'"),
        (
            {"use": "caa", "method": {"layer": [2.0]}},
            r"settings.method.layer: .*less than or equal",
        ),
        ({"use": "caa", "method": {"layer": []}}, r"settings.method.layer: empty; give"),
        (
            {"use": "caa", "method": {"layer": [0.5, 0.5]}},
            r"settings.method.layer: 0.5 appears twice",
        ),
        ({"use": "ortho", "method": {"k": [2]}}, r"settings.method.k: unknown key"),
        ({"method": {"read": ["answer_end"]}}, r"settings.method.read: unknown key"),
    ],
)
def test_what_a_method_does_not_take_is_refused_by_name(given, told):
    with pytest.raises(ConfigError, match=told) as caught:
        checked_settings({**SETTINGS, **given})
    assert "\n" not in str(caught.value)


def test_a_prompt_that_only_the_method_looks_at_is_taken():
    probe = {"prompt": {"probe": "{question} {answer}"}}
    assert checked_settings({**probe, "use": "caa"}).prompt.probe == "{question} {answer}"
    with pytest.raises(ConfigError, match="not looked at"):
        checked_settings(probe)
