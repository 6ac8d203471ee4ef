"""Many worlds in one line of a config."""

from pathlib import Path

import pytest

from fasb.errors import ConfigError
from fasb.study.config import load_study
from fasb.study.entries import ModelEntry
from fasb.study.worlds import check_different, write_out

ROOT = Path(__file__).parents[1]


def test_a_line_of_seeds_stands_for_models_datasets_and_cells():
    written = write_out({"run": {"worlds": {"middle": [2, 3], "easy": [2]}, "cells": ["mine"]}})
    middle = {"level": "middle", "seed": 3}
    assert list(written["models"]) == list(written["datasets"])
    assert list(written["models"]) == ["middle-s2", "middle-s3", "easy-s2"]
    assert written["models"]["middle-s3"] == {"world": middle, "job": {"threads": 1}}
    assert written["datasets"]["middle-s3"] == {
        "load": "fasb.world.questions",
        "settings": middle,
        "judge": {"use": "fasb.world.judge", "settings": middle},
    }
    named = [{"model": name, "dataset": name} for name in written["models"]]
    assert written["run"] == {"cells": ["mine", *named]}


def test_what_is_said_of_one_world_is_laid_over_the_line():
    pretrain = {"models": {"middle-s2": {"pretrain": {"tokens": 9}}}}
    written = write_out({**pretrain, "run": {"worlds": {"middle": [2]}}})
    assert written["models"]["middle-s2"] == {
        "world": {"level": "middle", "seed": 2},
        "job": {"threads": 1},
        "pretrain": {"tokens": 9},
    }


def test_a_mapping_without_the_line_is_left_as_it_is():
    for mapping in ({"run": {"cells": []}}, {"run": "x"}, {}):
        assert write_out(mapping) is mapping


@pytest.mark.parametrize("worlds", [3, [2, 3], {"middle": 2}, {"middle": {"seed": 2}}])
def test_other_than_lists_of_seeds_are_refused_in_one_line(worlds):
    with pytest.raises(ConfigError, match=r"run\.worlds: not lists of seeds by level; write"):
        write_out({"run": {"worlds": worlds}})


def test_cells_that_are_no_list_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"run\.cells: not a list; give pairs"):
        write_out({"run": {"worlds": {"middle": [2]}, "cells": 3}})


def test_the_evidence_run_has_thirty_worlds_that_the_default_does_not_show(monkeypatch):
    monkeypatch.chdir(ROOT)
    evidence, default = load_study([Path("config/evidence.yaml")]), load_study()
    names = {cell.model for cell in evidence.run.cells}
    assert len(names) == len(evidence.run.cells) == 30
    assert len(evidence.run.seeds) == 1
    seeds = {evidence.models[name].world["seed"] for name in names}
    assert not seeds & {
        0,
        1,
        *(model.world["seed"] for model in default.models.values() if model.world),
    }
    assert {evidence.models[name].world["level"] for name in names} == {"middle"}
    grids = [
        {name: {**vars(method), "grid": {}} for name, method in rows.items()}
        for rows in (evidence.chosen_methods, default.chosen_methods)
    ]
    assert grids[0] == grids[1]
    for name, method in evidence.chosen_methods.items():
        usual = default.chosen_methods[name].grid
        assert {**method.grid, "alpha": None} == {**usual, "alpha": None}, name
        assert len(method.grid.get("alpha", ())) == len(usual.get("alpha", ())), name


@pytest.mark.parametrize("again", [{"level": "easy", "seed": 2}, {"level": "easy", "seed": "2"}])
def test_one_world_under_two_names_is_not_averaged_over_as_two(again):
    models = {
        "easy-s2": ModelEntry(world={"level": "easy", "seed": 2}),
        "easy-s3": ModelEntry(world=again),
        "easy-s4": ModelEntry(world={**again, "seed": 4}),
        "other": ModelEntry(world=again),
        "path-s1": ModelEntry(path="somewhere"),
    }
    apart = [("easy-s2", "easy-s2"), ("easy-s4", "easy-s4"), ("other", "easy-s2")]
    check_different(models, [*apart, apart[0], ("path-s1", "easy-s2")])
    with pytest.raises(ConfigError, match=r"^models\.easy-s3\.world: is that of easy-s2, and"):
        check_different(models, [*apart, ("easy-s3", "easy-s3")])
