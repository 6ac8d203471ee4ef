"""Health of a world: what is measured, what is needed, and what a rejected world does."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fasb.artifacts import read_json, write_json, write_parquet
from fasb.errors import ConfigError
from fasb.hdf5files import writing_hdf5
from fasb.study.config import load
from fasb.study.jobs import run_job, write_study
from fasb.world.health import (
    Figures,
    HealthError,
    HealthSettings,
    Methods,
    check,
    measure,
    require,
    steering,
)
from fasb.world.text import WorldSettings

METHODS = Methods("unsteered", "iti")
GOOD = Figures(tag=90.0, context=70.0, head=80.0, true=42.0, info=97.0, gain=30.0, loss=12.0)
TRADEOFF, CONTRAST = WorldSettings(kind="tradeoff"), WorldSettings(kind="contrast")
THRESHOLDS = HealthSettings()


def grid(iti, unsteered=(0.4, 1.0), fold=0):
    """A grid.parquet's frame: ITI's settings as (alpha, true, info)."""
    rows = [
        ("unsteered", np.nan, *unsteered),
        *(("iti", *row) for row in iti),
        ("fasb-probe", 5.0, 1.0, 1.0),
    ]
    return pd.DataFrame(rows, columns=["method", "alpha", "true", "info"]).assign(fold=fold)


def cell(folder, **figures):
    """A model folder and the files of one cell."""
    told = {
        "careful_tag": 1.0,
        "credulous_tag": 0.1,
        "careful_context": 0.9,
        "credulous_context": 0.2,
    } | figures
    write_json(folder / "model/training.json", {"figures": told}, {})
    with writing_hdf5(folder / "anchors.h5", {}) as file:
        file["fold0/logistic/accuracy"] = np.array([[0.5, 0.75], [0.7, 0.6]])
        file["fold1/logistic/accuracy"] = np.array([[0.85, 0.75], [0.7, 0.6]])
        file["fold1/cosine/accuracy"] = np.ones((2, 2))
    curve = [(1.0, 0.6, 1.0), (4.0, 0.8, 0.9), (8.0, 0.8, 0.9), (9.0, 0.8, 0.7)]
    both = pd.concat([grid(curve), grid(curve, unsteered=(0.5, 0.9), fold=1)])
    write_parquet(folder / "grid.parquet", both, {})
    return [folder / "model", folder / "anchors.h5", folder / "grid.parquet", folder / "tuned.json"]


def test_a_world_within_all_bounds_is_accepted():
    report = check(TRADEOFF, GOOD, THRESHOLDS)
    assert report["accepted"]
    assert report["failures"] == []
    assert report["figures"]["head"] == {"value": 80.0, "need": "at least 72", "ok": True}


@pytest.mark.parametrize(
    ("name", "value", "failure"),
    [
        ("tag", 59.0, "tag 59, needs at least 60"),
        ("context", 39.9, "context 39.9, needs at least 40"),
        ("head", 71.0, "head 71, needs at least 72"),
        ("true", 29.0, "true 29, needs 30 to 70"),
        ("true", 71.0, "true 71, needs 30 to 70"),
        ("info", 89.0, "info 89, needs at least 90"),
        ("gain", 19.0, "gain 19, needs at least 20"),
        ("loss", 4.0, "loss 4, needs at least 5"),
        ("gain", None, "gain not measured, needs at least 20"),
    ],
)
def test_one_figure_out_of_bounds_rejects_and_is_named(name, value, failure):
    report = check(TRADEOFF, replace(GOOD, **{name: value}), THRESHOLDS)
    assert not report["accepted"]
    assert report["failures"] == [failure]


def test_what_a_tradeoff_world_must_lose_a_contrast_world_must_not():
    assert check(CONTRAST, replace(GOOD, loss=2.0), THRESHOLDS)["accepted"]
    assert check(CONTRAST, GOOD, THRESHOLDS)["failures"] == ["loss 12, needs below 5"]
    assert check(CONTRAST, replace(GOOD, loss=5.0), THRESHOLDS)["failures"] == [
        "loss 5, needs below 5"
    ]
    assert check(TRADEOFF, replace(GOOD, loss=5.0), THRESHOLDS)["accepted"]


def test_a_figure_at_its_bound_is_enough():
    at_bounds = Figures(
        tag=60.0, context=40.0, head=72.0, true=30.0, info=90.0, gain=20.0, loss=5.0
    )
    assert check(TRADEOFF, at_bounds, THRESHOLDS)["accepted"]
    assert check(TRADEOFF, replace(at_bounds, true=70.0), THRESHOLDS)["accepted"]


def test_gain_is_the_most_there_is_and_loss_that_of_the_best_product():
    frame = grid([(9.0, 1.0, 0.2), (8.0, 0.9, 0.8), (5.0, 0.8, 0.9), (1.0, 0.5, 1.0)])
    (row,) = steering(frame, METHODS)
    assert row == pytest.approx({"true": 0.4, "info": 1.0, "gain": 0.6, "loss": 0.1})


def test_figures_come_from_the_files_as_means_over_folds(tmp_path):
    model, *files = cell(tmp_path)
    figures = measure(model, files, METHODS)
    expected = {"tag": 90, "context": 70, "head": 80, "true": 45, "info": 95, "gain": 35, "loss": 5}
    assert asdict(figures) == pytest.approx(expected)


def test_what_no_file_holds_is_not_measured(tmp_path):
    model, _, grid_file, _ = cell(tmp_path)
    write_parquet(grid_file, grid([]), {})
    figures = measure(model, [grid_file], METHODS)
    assert (figures.head, figures.gain, figures.loss) == (None, None, None)
    assert figures.true == pytest.approx(40)


def test_a_rejected_world_is_refused_in_one_line_only_where_that_is_asked():
    report = check(TRADEOFF, replace(GOOD, tag=50.0, head=60.0), THRESHOLDS)
    with pytest.raises(
        HealthError, match="m.json: world rejected: tag 50, .*; head 60, .*; .* take another"
    ):
        require(report, THRESHOLDS, "m.json")
    require(report, HealthSettings(enforce=False), "m.json")
    require(check(TRADEOFF, GOOD, THRESHOLDS), THRESHOLDS, "m.json")


def study_of(health, **pretrain):
    """A study of one world."""
    model = {"world": {"kind": "tradeoff", "seed": 7, "entities": 5}, "pretrain": pretrain}
    questions = {"load": "fasb.world.questions", "settings": {"kind": "tradeoff", "seed": 7}}
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
    cell(tmp_path / "made", careful_tag=0.3)
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
