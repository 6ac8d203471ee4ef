from pathlib import Path

import pytest

from fasb.errors import ArtifactError, ConfigError
from fasb.study import celljobs, jobs
from fasb.study.config import load, load_files
from fasb.study.layers import read_mapping

CONFIGS = Path(__file__).parent / "workflow" / "configs"


def _cells(study):
    return [own.cell for own in celljobs.of_cells(study).values()]


def _made(one):
    return [path.format(**one.names) for path in one.stage.outputs.values()]


@pytest.fixture
def study():
    """Cells of several datasets, in part, and in transfer."""
    return load_files([CONFIGS / "variants.yaml"])


def test_every_job_of_a_stage_and_a_cell_is_in_the_job_of_that_cell_and_in_no_other(study):
    expected = []
    for stage in jobs.STAGES.values():
        expected += [
            f"{stage.command} {target}"
            for target, names in stage.scope.targets(study).items()
            if "cell" in names
        ]
    found = [one.command for own in celljobs.of_cells(study).values() for one in own.stages]
    assert sorted(f"fasb run {one}" for one in expected) == sorted(found)


def test_stages_stand_in_an_order_in_which_they_can_run(study):
    for own in celljobs.of_cells(study).values():
        made = set(own.inputs)
        for one in own.stages:
            assert {path for paths in one.inputs.values() for path in paths} <= made
            made |= set(_made(one))


def test_a_cell_reads_what_it_shares_with_others_and_its_source(study):
    own = celljobs.job_of(study, str(next(cell for cell in _cells(study) if cell.source)))
    assert f"{own.cell.fitted_in.folder}/tuned.json" in own.inputs
    assert not any(path.startswith(f"{own.cell.folder}/") for path in own.inputs)


def test_cells_of_one_kind_make_the_same_files(study):
    kinds = celljobs.kinds(study)
    for own in celljobs.of_cells(study).values():
        cell = own.cell
        suffix = cell.cell_suffix
        names = {"model": cell.model, "dataset": cell.dataset, "seed": cell.seed, "suffix": suffix}
        patterns = kinds[cell.dataset, suffix]
        made = [path for one in own.stages for path in _made(one)]
        assert [path.format(**names) for path in patterns] == made


def test_the_key_of_a_cell_hangs_on_what_its_stages_hang_on():
    def key(**changed):
        mapping = read_mapping(CONFIGS / "world.yaml")
        (own,) = celljobs.of_cells(load({**mapping, **changed})).values()
        return own.key

    keys = {key(), key(wandb={"mode": "disabled"})}
    assert len(keys) == 1
    keys |= {key(decoding={"tokens": 13}), key(split={"folds": 2, "validation": 0.3})}
    assert len(keys) == 3


def test_a_cell_asks_for_enough_for_its_model_and_its_judges():
    mapping = read_mapping(CONFIGS / "world.yaml")
    mapping["models"]["tiny"]["job"] = {"threads": 3, "mem_mb": 900, "runtime": 5}
    mapping["datasets"]["tiny"]["judge"]["job"] = {"gpu": 2, "threads": 1, "mem_mb": 1000}
    asked = celljobs.resources(load(mapping), "tiny", "tiny")
    assert (asked.gpu, asked.threads, asked.mem_mb, asked.runtime) == (2, 3, 1000, 65)


def test_an_unknown_cell_is_refused_in_a_line(study):
    name = str(_cells(study)[0])
    with pytest.raises(ConfigError, match=f"^cell: the study has no target .*did you mean '{name}"):
        celljobs.job_of(study, f"{name}9")


def test_a_job_whose_study_changed_since_is_refused(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs.write_study(study)
    with pytest.raises(ArtifactError, match="^results/study.json: cell .* depends on other"):
        celljobs.run(str(_cells(study)[0]), "another")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("world", "models.tiny: is trained by the study and judged by its cells' anchors"),
        ("sharded", "models.large.job.shards: shares the questions of a stage among jobs"),
    ],
)
def test_what_lies_between_the_stages_of_a_cell_is_refused(config, told):
    mapping = read_mapping(CONFIGS / f"{config}.yaml")
    mapping["run"]["jobs"] = "cells"
    with pytest.raises(ConfigError, match=f"{told}.*; remove"):
        load(mapping)
