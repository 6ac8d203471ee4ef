"""`fasb verify results/` finds damaged, stale and missing files; `fasb explain` remakes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fasb.artifacts import write_json, write_tensors
from fasb.cli import group
from fasb.errors import ArtifactError, ConfigError
from fasb.study import config
from fasb.study.jobs import job, read_study, run_job, write_study
from fasb.study.stage import differences, without_code
from fasb.study.verify import is_fresh, verify_folder

MAPPING = {
    "models": {"llama": {"path": "some/llama"}},
    "datasets": {"own": {"load": "table", "settings": {"path": "my.csv"}}},
    "methods": {"unsteered": {}, "iti": {"use": "head_vectors", "settings": {"k": 2}}},
    "run": {
        "cells": [{"model": "llama", "dataset": "own"}],
        "seeds": [0],
        "methods": ["unsteered", "iti"],
    },
    "wandb": {"mode": "disabled"},
}
SPLITS = "results/llama/own/seed0/splits.json"
QUESTIONS = "results/questions/own.parquet"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A study of which questions and splits are made."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path)
    write_study(config.load(MAPPING))
    run_job("questions", "own")
    run_job("splits", "llama/own/seed0")
    return tmp_path


def write_table(folder, first="Who?"):
    rows = [first, *(f"What is {i}?" for i in range(20))]
    text = "\n".join(["question,true,false", *(f"{row},this,that" for row in rows)])
    (folder / "my.csv").write_text(text + "\n")


def fasb(*arguments):
    run = CliRunner().invoke(group, arguments, catch_exceptions=False)
    return run.exit_code, run.stdout, run.stderr


def found_of(name):
    return [one for one in verify_folder(Path("results")) if str(one.path) == name]


def test_whole_and_fresh_files_have_no_finding_and_unmade_ones_are_missing(folder):
    assert found_of(SPLITS) == found_of(QUESTIONS) == []
    (one,) = found_of("results/llama/own/seed0/metrics.json")
    assert (one.told, one.wrong) == ("missing; run 'fasb run metrics llama/own/seed0'", True)
    code, stdout, stderr = fasb("verify", "results")
    assert code == 2
    assert "files are damaged, stale or missing\n" in stdout
    assert all(": missing; run " in line for line in stderr.splitlines())


def test_provenance_of_a_strangers_file_is_data(folder):
    """Neither its escapes reach the terminal, nor does an empty name end the check."""
    inputs = {"": "a", ".": "b", "\x1b]0;c\x07d": "e"}
    write_json(folder / "results" / "x.json", {}, {"inputs": inputs})
    code, stdout, stderr = fasb("verify", "results")
    assert code == 2
    assert "\x1b" not in stdout + stderr
    assert "results/x.json" in stdout + stderr
    assert without_code(["zig"]) == ["zig"]  # settings that are no mapping, which differ from any


def test_a_changed_setting_makes_stale_what_depends_on_it(folder):
    write_study(config.load({**MAPPING, "split": {"validation": 0.5}}))
    (one,) = found_of(SPLITS)
    assert one.told == (
        "stale: split.validation changed; run 'fasb run splits llama/own/seed0' again"
    )
    assert found_of(QUESTIONS) == []


def test_a_changed_input_makes_stale_what_was_made_of_it(folder):
    write_table(folder, "Whose?")
    run_job("questions", "own")
    (one,) = found_of(SPLITS)
    assert one.told.startswith(f"stale: {QUESTIONS} is another than it was made of; run ")


def test_an_edited_table_makes_its_questions_stale_and_their_job_another(folder):
    before = job(read_study(), "questions", "own").key
    write_table(folder, "Whose?")
    assert job(read_study(), "questions", "own").key != before
    (one,) = found_of(QUESTIONS)
    assert one.told == "stale: files.my.csv changed; run 'fasb run questions own' again"
    with pytest.raises(ArtifactError, match="another files.my.csv than the study has now"):
        run_job("splits", "llama/own/seed0")
    (folder / "my.csv").unlink()
    assert job(read_study(), "questions", "own").key != before


def test_a_job_refuses_an_input_that_was_made_with_other_settings(folder):
    changed = {"own": {**MAPPING["datasets"]["own"], "limit": 4}}
    write_study(config.load({**MAPPING, "datasets": changed}))
    with pytest.raises(ArtifactError) as refused:
        run_job("splits", "llama/own/seed0")
    assert str(refused.value) == (
        f"{QUESTIONS}: made with another limit than the study has now; run 'fasb run questions "
        "own' first"
    )
    run_job("questions", "own")
    run_job("splits", "llama/own/seed0")
    assert found_of(SPLITS) == []


@pytest.mark.parametrize(
    ("stage", "target", "missing", "command"),
    [
        ("report", "", "tables/main.csv", "table main"),
        ("figure", "tradeoff", "llama/own/seed0/grid.parquet", "tune llama/own/seed0"),
        ("wandb", "", "tables/main.csv", "table main"),
        ("tune", "llama/own/seed0", "llama/own/seed0/sweep.parquet", "sweep llama/own/seed0"),
    ],
)
def test_a_job_whose_input_is_not_there_names_what_makes_it(
    folder, stage, target, missing, command
):
    write_study(config.load({**MAPPING, "wandb": {"mode": "offline"}}))
    with pytest.raises(ArtifactError) as refused:
        run_job(stage, target)
    assert str(refused.value) == (
        f"results/{missing}: no such file; run 'fasb run {command}' first"
    )


def test_a_job_takes_an_input_of_other_code_and_verify_names_it(folder, monkeypatch):
    monkeypatch.setattr("fasb.study.stages.data.code_hash", lambda *_: "of before")
    run_job("questions", "own")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    run_job("splits", "llama/own/seed0")
    (one,) = found_of(QUESTIONS)
    assert one.told.startswith("stale: code changed; ")


def test_a_damaged_file_and_one_that_breaks_its_schema_are_named(folder):
    path = folder / SPLITS
    path.write_text(path.read_text().replace('"1"', '"7"', 1))
    write_json(folder / "results/llama/own/seed0/metrics.json", {"iti": {"true": [1]}})
    assert found_of(SPLITS)[0].told.startswith("damaged: content does not match its checksum")
    found = found_of("results/llama/own/seed0/metrics.json")
    assert "damaged: iti.true" in found[0].told


def test_a_file_of_another_version_or_study_is_worth_knowing(folder):
    path = folder / SPLITS
    document = json.loads(path.read_text())
    document["provenance"]["versions"]["numpy"] = "1.0"
    path.write_text(json.dumps(document))
    (one,) = found_of(SPLITS)
    assert one.told.startswith("made with numpy 1.0, here ")
    assert not one.wrong
    write_json(folder / "results/llama/old/seed0/splits.json", {})
    (other,) = found_of("results/llama/old/seed0/splits.json")
    assert other.told.startswith("not of the study")
    assert not other.wrong


def test_explain_prints_the_commands_from_nothing_and_the_inputs(folder):
    code, stdout, _ = fasb("explain", SPLITS)
    lines = stdout.splitlines()
    assert code == 0
    assert lines[0].startswith(f"# {SPLITS}: ")
    assert lines[1] == f"#   {QUESTIONS} as it was"
    assert lines[2:] == ["fasb run questions own", "fasb run splits llama/own/seed0"]
    commands = fasb("explain", "results/report.html")[1].splitlines()
    assert commands[-1] == "fasb run report"
    assert commands.index("fasb run generate llama/own/seed0") < commands.index(
        "fasb run metrics llama/own/seed0"
    )
    assert len(set(commands)) == len(commands)


def test_explain_of_a_missing_or_damaged_file_says_what_makes_it_again(folder):
    path = folder / SPLITS
    path.write_text(path.read_text().replace('"1"', '"7"', 1))
    code, stdout, _ = fasb("explain", SPLITS)
    first, *commands = stdout.splitlines()
    assert (code, commands[-1]) == (0, "fasb run splits llama/own/seed0")
    assert first.startswith(f"# {SPLITS}: content does not match its checksum")
    missing = "results/llama/own/seed0/metrics.json"
    first, *commands = fasb("explain", missing)[1].splitlines()
    assert first.startswith(f"# {missing}: no such file")
    assert commands[-1] == "fasb run metrics llama/own/seed0"


def test_explain_of_a_file_deep_in_a_jobs_folder_names_the_job(folder):
    mapping = {**TRAINED, "wandb": {"mode": "offline"}}
    write_study(config.load(mapping))
    told = job(read_study(), "pretrain", "easy-s1").paths
    write_json(Path("results/models/easy-s1/training.json"), {}, told.made_by())
    Path("results/models/easy-s1/model.safetensors").write_bytes(b"of another library")
    first, *commands = fasb("explain", "results/models/easy-s1/model.safetensors")[1].splitlines()
    assert first.startswith("# results/models/easy-s1/training.json: ")
    assert commands == ["fasb run pretrain easy-s1"]
    run = "results/wandb/offline-run-1/files/wandb-summary.json"
    assert fasb("explain", run)[1].splitlines()[-1] == "fasb run wandb"


def test_explain_of_a_bundle_saved_from_python_asks_for_no_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tensors(tmp_path / "my.bundle", {"x": np.ones(1)}, {})
    with pytest.raises(ConfigError, match="my.bundle: of no study here, and no bundle of 'fasb fi"):
        fasb("explain", "my.bundle")
    with pytest.raises(ArtifactError, match="other.bundle: no such file"):
        fasb("explain", "other.bundle")


def test_explain_says_what_writes_the_study_itself(folder):
    with pytest.raises(ConfigError, match="made of configs, by 'fasb study --configfile FILE'"):
        fasb("explain", "results/study.json")


def test_explain_follows_no_link_that_results_are(folder):
    elsewhere = folder.with_name("elsewhere")
    (folder / "results").rename(elsewhere)
    (folder / "results").symlink_to(elsewhere)
    code, stdout, _ = fasb("explain", SPLITS)
    assert code == 0
    assert stdout.splitlines()[-1] == "fasb run splits llama/own/seed0"


def test_explain_prints_the_command_of_a_bundle_of_ones_own(tmp_path):
    made_by = {"model": "some/llama", "data": "my data.csv", "settings": {"seed": 3}}
    write_tensors(tmp_path / "my.bundle", {"x": np.ones(1)}, made_by)
    _, stdout, _ = fasb("explain", str(tmp_path / "my.bundle"))
    assert stdout.splitlines()[1] == (
        f"fasb fit --model some/llama --data 'my data.csv' --out {tmp_path}/my.bundle "
        "--settings '{\"seed\": 3}'"
    )


def test_keys_that_differ_are_named_by_their_way():
    before, now = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 2, "c": [1]}, "e": 3}
    assert differences(before, now) == ["a.b", "d", "e"]


def test_only_hashes_of_code_and_the_librarys_version_are_left_out():
    own = {"use": "lab", "code": "1a", "settings": {"code": 7, "version": 2}}
    settings = {"version": "0.1.0", "load": "table", "code": "2b", "fits": [own]}
    kept = {"use": "lab", "settings": {"code": 7, "version": 2}}
    assert without_code(settings) == {"load": "table", "fits": [kept]}


WORLD = {"level": "easy", "seed": 1}
TRAINED = {
    **MAPPING,
    "models": {"easy-s1": {"world": WORLD}},
    "datasets": {"easy-s1": {"load": "fasb.world.questions", "settings": WORLD}},
    "run": {**MAPPING["run"], "cells": [{"model": "easy-s1", "dataset": "easy-s1"}]},
}


def test_a_model_that_was_trained_with_other_settings_is_no_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = config.load(TRAINED)
    write_study(first)
    one = job(first, "pretrain", "easy-s1")
    told = Path("results/models/easy-s1/training.json")
    write_json(told, {}, one.paths.made_by())
    job(first, "activations", "easy-s1/easy-s1/answer_end").check_inputs()
    assert found_of(str(told)) == []
    assert is_fresh(one)
    other = config.load(
        {**TRAINED, "models": {"easy-s1": {"world": WORLD, "pretrain": {"tokens": 90000}}}}
    )
    write_study(other)
    with pytest.raises(ArtifactError, match=r"models/easy-s1: made with another pretrain\.tokens"):
        job(other, "activations", "easy-s1/easy-s1/answer_end").check_inputs()
    (found,) = found_of(str(told))
    assert found.told == "stale: pretrain.tokens changed; run 'fasb run pretrain easy-s1' again"
    assert not is_fresh(job(other, "pretrain", "easy-s1"))


@pytest.mark.parametrize("name", [".", "/"])
def test_explain_of_no_file_is_one_line(folder, name):
    result = CliRunner().invoke(group, ["explain", name])
    assert isinstance(result.exception, ConfigError)
