"""`fasb crate results`: what it says of a study's files, and what it refuses to describe."""

import hashlib
import json
from pathlib import Path

import pytest
from test_study_verify import (
    MAPPING,
    QUESTIONS,
    SPLITS,
    fasb,
    folder,  # noqa: F401
    write_table,
)

from fasb.errors import ArtifactError, ConfigError
from fasb.study import config
from fasb.study.crate import PROFILE, write_crate
from fasb.study.jobs import run_job, write_study
from fasb.study.verify import CRATE, verify_folder

pytest.importorskip("rocrate", reason="no rocrate: pip install fasb[crate]")


@pytest.fixture
def entities(folder):  # noqa: F811
    write_study(config.load({**MAPPING, "wandb": {"mode": "offline"}}))
    # as if it had been run: a folder carries no stamp
    Path("results/wandb").mkdir()
    graph = json.loads(write_crate(Path("results")).read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def test_every_job_that_ran_is_an_action_with_what_it_read_and_wrote(entities):
    actions = {one["name"]: one for one in entities.values() if one["@type"] == "CreateAction"}
    asked = {"fasb run questions own", "fasb run splits llama/own/seed0", "fasb run wandb"}
    assert set(actions) == asked
    splits = actions["fasb run splits llama/own/seed0"]
    assert splits["result"] == [{"@id": SPLITS.removeprefix("results/")}]
    assert {"@id": QUESTIONS.removeprefix("results/")} in splits["object"]
    (settings,) = (
        json.loads(entities[one["@id"]]["value"])
        for one in splits["object"]
        if one["@id"].startswith("#settings-")
    )
    assert settings["split"] == {"folds": 2, "train_share": 1.0, "validation": 0.2}
    mentioned = [one["@id"] for one in entities["./"]["mentions"]]
    assert mentioned == [one["@id"] for one in actions.values()]


def test_files_have_size_and_sha256_and_software_its_version_and_commit(entities):
    path = Path(SPLITS)
    file = entities[SPLITS.removeprefix("results/")]
    assert file["contentSize"] == str(path.stat().st_size)
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    tools = [one for one in entities.values() if one["@type"] == "SoftwareApplication"]
    (own,) = (one for one in tools if "softwareRequirements" in one)
    assert own["softwareVersion"].startswith("0.1.0 (")
    needed = {entities[one["@id"]]["name"] for one in own["softwareRequirements"]}
    assert {"python", "torch", "numpy"} <= needed


def test_of_files_without_a_stamp_neither_version_nor_settings_are_claimed(entities):
    (runs,) = (one for one in entities.values() if one.get("name") == "fasb run wandb")
    assert entities[runs["instrument"]["@id"]]["name"] == "fasb"
    assert "softwareVersion" not in entities[runs["instrument"]["@id"]]
    assert not any("settings" in one["@id"] for one in runs.get("object", []))


def test_it_is_a_process_run_crate_that_rocrate_reads_and_verify_passes_over(entities):
    from rocrate.rocrate import ROCrate

    assert entities["./"]["conformsTo"] == {"@id": PROFILE}
    assert all(entities["./"][key] for key in ("name", "description", "license", "datePublished"))
    read = ROCrate("results")
    assert {entity.id for entity in read.data_entities} >= {"study.json", "questions/own.parquet"}
    assert not [one for one in verify_folder(Path("results")) if one.path.name == CRATE]


def test_every_entity_that_is_named_is_described(entities):
    def named(value):
        if isinstance(value, dict):
            return [value["@id"]] if set(value) == {"@id"} else []
        return [one for part in value for one in named(part)] if isinstance(value, list) else []

    for entity in entities.values():
        for key, value in entity.items():
            outside = key in ("actionStatus", "conformsTo")
            assert outside or set(named(value)) <= set(entities)


def change_input(here):
    write_table(here, first="Who else?")
    run_job("questions", "own")


def damage(_folder):
    Path(SPLITS).write_text(Path(SPLITS).read_text().replace('"1"', '"7"', 1))


@pytest.mark.parametrize("what", [change_input, damage])
def test_stale_and_damaged_files_are_not_described(folder, what):  # noqa: F811
    what(folder)
    with pytest.raises(ArtifactError, match="'fasb verify results' lists all such files"):
        write_crate(Path("results"))
    assert not Path("results", CRATE).exists()


def test_the_command_prints_where_it_is(folder):  # noqa: F811
    assert fasb("crate", "results") == (0, f"results/{CRATE}\n", "")


def test_without_rocrate_the_remedy_is_said(folder, monkeypatch):  # noqa: F811
    monkeypatch.setitem(__import__("sys").modules, "rocrate.rocrate", None)
    with pytest.raises(ConfigError, match=r"pip install fasb\[crate\]"):
        write_crate(Path("results"))
