"""Health of a world: what is measured, what is needed, and what a rejected world does."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fasb.artifacts import read_json, write_json
from fasb.errors import ArtifactError, ConfigError
from fasb.hdf5files import writing_hdf5
from fasb.study.config import load
from fasb.study.jobs import run_job, write_study
from fasb.study.stages.world import health
from fasb.world.health import (
    Figures,
    HealthError,
    HealthSettings,
    check,
    measure,
    require,
)
from fasb.world.text import WorldSettings

GOOD = Figures(known=95.0, tag=90.0, context=70.0, grammar=100.0, head=82.0)
MIDDLE = WorldSettings(level="middle")
THRESHOLDS = HealthSettings()


def cell(folder, **figures):
    """A model folder and the files of one cell."""
    told = {
        "careful_tag": 1.0,
        "credulous_tag": 0.1,
        "careful_context": 0.9,
        "credulous_context": 0.2,
        "grammar": 0.99,
    } | figures
    write_json(folder / "model/training.json", {"figures": told}, {})
    with writing_hdf5(folder / "anchors.h5", {}) as file:
        file["fold0/logistic/accuracy"] = np.array([[0.5, 0.79], [0.7, 0.6]])
        file["fold1/logistic/accuracy"] = np.array([[0.85, 0.75], [0.7, 0.6]])
        file["fold1/cosine/accuracy"] = np.ones((2, 2))
    return [folder / "model", folder / "anchors.h5"]


def test_a_world_within_all_bounds_is_accepted():
    report = check(MIDDLE, GOOD, THRESHOLDS)
    assert report["accepted"]
    assert report["failures"] == []
    assert report["figures"]["head"] == {"value": 82.0, "need": "75 to 88", "ok": True}


@pytest.mark.parametrize(
    ("name", "value", "failure"),
    [
        ("known", 84.9, "known 84.9, needs at least 85"),
        ("tag", 59.0, "tag 59, needs at least 60"),
        ("context", 29.9, "context 29.9, needs at least 30"),
        ("grammar", 94.0, "grammar 94, needs at least 95"),
        ("head", 74.0, "head 74, needs 75 to 88"),
        ("head", 88.1, "head 88.1, needs 75 to 88"),
        ("head", None, "head not measured, needs 75 to 88"),
    ],
)
def test_one_figure_out_of_bounds_rejects_and_is_named(name, value, failure):
    report = check(MIDDLE, replace(GOOD, **{name: value}), THRESHOLDS)
    assert not report["accepted"]
    assert report["failures"] == [failure]


def test_what_heads_must_show_depends_on_the_level():
    for level, head in (("easy", 95.0), ("middle", 82.0), ("hard", 74.0)):
        accepted = {
            other: check(WorldSettings(level=other), replace(GOOD, head=head), THRESHOLDS)
            for other in ("easy", "middle", "hard")
        }
        assert [other for other in accepted if accepted[other]["accepted"]] == [level]
    with pytest.raises(HealthError, match=r"health.head: no range for level middle; add it"):
        check(MIDDLE, GOOD, HealthSettings(head={"easy": (90.0, 100.0)}))


def test_a_figure_at_its_bound_is_enough():
    at_bounds = Figures(known=85.0, tag=60.0, context=30.0, grammar=95.0, head=75.0)
    assert check(MIDDLE, at_bounds, THRESHOLDS)["accepted"]
    assert check(MIDDLE, replace(at_bounds, head=88.0), THRESHOLDS)["accepted"]


def test_figures_come_from_the_files_as_means_over_folds(tmp_path):
    model, anchors = cell(tmp_path)
    figures = measure(model, [anchors])
    expected = {"known": 100, "tag": 90, "context": 70, "grammar": 99, "head": 82}
    assert asdict(figures) == pytest.approx(expected)
    assert measure(model, []).head is None


def test_no_answer_of_any_method_says_whether_a_world_is_accepted():
    study = study_of({})
    files = health.inputs(study, "m")["cells"]
    assert [Path(file).name for file in files] == ["anchors.h5"]
    assert set(asdict(GOOD)) == {"known", "tag", "context", "grammar", "head"}


def test_a_rejected_world_is_refused_in_one_line_only_where_that_is_asked():
    report = check(MIDDLE, replace(GOOD, tag=50.0, head=60.0), THRESHOLDS)
    with pytest.raises(
        HealthError, match="m.json: world rejected: tag 50, .*; head 60, .*; .* take another"
    ):
        require(report, THRESHOLDS, "m.json")
    require(report, HealthSettings(enforce=False), "m.json")
    require(check(MIDDLE, GOOD, THRESHOLDS), THRESHOLDS, "m.json")


def study_of(health, **pretrain):
    """A study of one world."""
    model = {"world": {"level": "middle", "seed": 7, "entities": 5}, "pretrain": pretrain}
    questions = {"load": "fasb.world.questions", "settings": {"level": "middle", "seed": 7}}
    run = {"cells": [{"model": "m", "dataset": "d"}], "seeds": [0], "methods": ["unsteered", "iti"]}
    return load(
        {
            "models": {"m": model},
            "datasets": {"d": questions},
            "methods": {"iti": {"use": "head_vectors"}, "unsteered": {}},
            "health": health,
            "run": run,
        }
    )


def test_the_report_of_a_rejected_world_is_written_before_it_is_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cell(tmp_path / "made", credulous_tag=0.8)
    (tmp_path / "results" / "models").mkdir(parents=True)
    shutil.copytree(tmp_path / "made" / "model", tmp_path / "results" / "models" / "m")
    folder = tmp_path / "results" / "m" / "d" / "seed0"
    shutil.copytree(tmp_path / "made", folder)
    write_study(study_of({}))
    run_job("health", "m")
    assert "results/health/m.json: tag 20, needs at least 60" in capsys.readouterr().err
    assert read_json(Path("results/health/m.json"))["failures"] == ["tag 20, needs at least 60"]
    with pytest.raises(HealthError):
        run_job("accept", "m")
    accepted = Path("results/health/m.accepted.json")
    assert not accepted.exists()
    write_study(study_of({"enforce": False}))
    with pytest.raises(ArtifactError, match="run 'fasb run health m' first"):
        run_job("accept", "m")
    run_job("health", "m")
    run_job("accept", "m")
    assert not read_json(accepted)["accepted"]


def test_a_model_is_trained_by_its_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = {"tokens": 600, "hidden": 16, "layers": 1, "heads": 2, "feed_forward": 16, "threads": 1}
    write_study(study_of({}, **tiny))
    run_job("pretrain", "m")
    assert "tokens in" in capsys.readouterr().err
    assert Path("results/models/m/model.safetensors").exists()


def test_an_unknown_threshold_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        study_of({"heads": 70})
