"""`fasb sweep`: comparisons in a terminal, and a cell as `wandb agent` runs it."""

import json
import shutil
from pathlib import Path

import pytest
import wandb
import yaml
from click.testing import CliRunner
from offline_runs import summarised
from published_sets import write_lines
from safetensors.torch import load_file, save_file
from synthetic import METHODS, results
from tiny import tiny_checkpoint
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from fasb.artifacts import read_json, stamp_of, write_json
from fasb.cli import group
from fasb.study.config import load
from fasb.study.jobs import STUDY, run_job, write_study
from fasb.study.verify import verify_folder

SETTINGS = {"use": "head_vectors", "gate": "probe"}


def fasb(*arguments, **environment):
    """What the command prints."""
    run = CliRunner().invoke(group, arguments, env={"TERM": "dumb", **environment})
    assert run.exception is None, run.exception
    return run.stdout


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The folder of a study of three cells, of which two are tested."""
    folder = tmp_path_factory.mktemp("tested")
    results(folder / "results", worlds=("tradeoff-s2",), seeds=(0, 1), groups=2)
    methods = {name: SETTINGS if name != "unsteered" else {} for name in METHODS}
    methods["fasb-probe"] = {**SETTINGS, "label": "[bold]FASB"}
    entry = {"load": "table", "settings": {"path": "t.csv"}, "judge": {"use": "light"}}
    run = {"cells": [{"model": "tradeoff-s2", "dataset": "tradeoff-s2"}], "seeds": [0, 1, 2]}
    mapping = {
        "models": {"tradeoff-s2": {"path": "some/model"}},
        "datasets": {"tradeoff-s2": entry},
        "methods": methods,
        "run": {**run, "name": "mine", "methods": list(METHODS)},
    }
    write_study(load(mapping), folder / STUDY)
    return folder


@pytest.mark.parametrize("columns", ["40", "120"])
def test_a_sweep_is_shown_at_any_width_without_escapes(tested, monkeypatch, columns):
    monkeypatch.chdir(tested)
    said = fasb("sweep", "show", "--best", "2", COLUMNS=columns, NO_COLOR="1")
    lines = said.splitlines()
    assert lines[0] == "mine: 2 of 3 cells tested"
    assert max(map(len, lines)) <= int(columns)
    assert "\x1b" not in said
    assert "…" not in said
    if columns == "120":
        assert "[bold]FASB" in said
        (alpha,) = [line for line in lines if line.split()[:2] == ["iti", "alpha"]]
        assert alpha.split()[-1] == "%"
        best = [line for line in lines if line.split()[:2] == ["fasb-prototype", "k"]]
        assert any("beta" in line for line in best)


def test_a_method_that_the_study_does_not_run_any_more_is_left_out(tested, tmp_path, monkeypatch):
    shutil.copytree(tested, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    study = read_json(STUDY)
    study["run"]["methods"].remove("iti")
    write_json(STUDY, study, {})
    said = fasb("sweep", "show", COLUMNS="120")
    assert "fasb-prototype" in said
    assert not [line for line in said.splitlines() if line.split()[:1] == ["iti"]]


def test_without_a_tested_cell_it_says_what_to_do(tested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    shutil.copy(tested / STUDY, STUDY)
    run = CliRunner().invoke(group, ["sweep", "show"])
    assert str(run.exception).startswith("results/: none of the 3 cells is tested yet; run")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_view_without_an_owner_is_printed_or_refused(tested, monkeypatch):
    monkeypatch.chdir(tested)
    refused = CliRunner().invoke(group, ["sweep", "view"])
    assert refused.exit_code == 2
    assert "give --entity, or --json to print it" in refused.output
    pytest.importorskip("wandb_workspaces")
    stored = json.loads(fasb("sweep", "view", "--json"))
    assert [block["type"] for block in stored["blocks"]].count("panel-grid") == 3


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a study that was planned only."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for i in range(14):
        rows.append({"question": f"What is {i}?", "true": [f"{i}."], "false": [f"{i + 1}."]})
    write_lines(tmp_path / "t.jsonl", rows)
    mapping = {
        "models": {"m": {"path": str(tiny_checkpoint(tmp_path / "m"))}},
        "datasets": {"d": {"load": "table", "settings": {"path": "t.jsonl"}}},
        "methods": {"unsteered": {}, "fasb": {**SETTINGS, "grid": {"k": [2]}}},
        "split": {"validation": 0.4},
        "run": {"cells": [{"model": "m", "dataset": "d"}], "seeds": [3]},
        "wandb": {"project": "p"},
    }
    mapping["run"]["methods"] = ["unsteered", "fasb"]
    write_study(load(mapping))


def test_an_agent_of_wandb_runs_a_cell_and_logs_it(begun, tmp_path, monkeypatch):
    defined = yaml.safe_load(CliRunner().invoke(group, ["sweep", "define"]).output)
    assert defined["metric"] == {"name": "fasb/mc1", "goal": "maximize"}
    # as the agent builds it of what the server sends, in whose words parameters have a `value`
    (cell,) = defined["parameters"]["cell"]["values"]
    sent = {"args": {"cell": {"value": cell}}, "program": defined["program"]}
    macros = {**create_sweep_command_args(sent), "program": [sent["program"]], "env": []}
    command = []
    for part in create_sweep_command(defined["command"]):
        command += macros[part[2:-1]] if part.startswith("${") else [part]
    assert command == ["fasb", "sweep", "cell", "--cell=m/d/seed3"]
    agent = {"WANDB_MODE": "offline", "WANDB_RUN_ID": "first", "WANDB_SWEEP_ID": "s1"}
    for name, value in {**agent, "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "p"}.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # an agent's command is a process of its own, which reads these anew
    times = []
    for run_id in ("first", "second"):
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        assert CliRunner().invoke(group, command[1:]).exception is None
        files = sorted(tmp_path.glob("results/m/d/seed3/*"))
        times.append({path.name: path.stat().st_mtime_ns for path in files})
    assert "metrics.json" in times[0]
    assert times[1] == times[0]  # nothing was left to run
    metrics = read_json(Path("results/m/d/seed3/metrics.json"))
    for path in tmp_path.rglob("run-*.wandb"):
        read = summarised(path)
        assert (read["config"]["model"], read["config"]["seed"]) == ("m", 3)
        assert read["summary"]["fasb/mc1"] == pytest.approx(metrics["fasb"]["mc1"])
        assert read["summary"]["grid"]["_type"] == "table-file"
    assert len(list(tmp_path.rglob("run-*.wandb"))) == 2
    wandb.teardown()


def test_an_unknown_cell_is_told_the_nearest(begun):
    run = CliRunner().invoke(group, ["sweep", "cell", "--cell", "m/d/seed4"])
    assert "the study has no cell 'm/d/seed4'; did you mean 'm/d/seed3'?" in str(run.exception)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a study of a world's model that trains in a second."""
    small = {"level": "easy", "seed": 7, "entities": 8, "values": 4}
    size = {"tokens": 3000, "hidden": 16, "layers": 2, "heads": 2, "feed_forward": 32}
    judge = {"use": "fasb.world.judge", "settings": small}
    entry = {"load": "fasb.world.questions", "settings": small, "judge": judge, "limit": 8}
    mapping = {
        "models": {"m": {"world": small, "pretrain": size, "job": {"threads": 1}}},
        "datasets": {"d": entry},
        "methods": {"unsteered": {}, "fasb": {**SETTINGS, "grid": {"k": [2]}}},
        "health": {"enforce": False},
        "decoding": {"tokens": 6},
        "run": {"cells": [{"model": "m", "dataset": "d"}], "seeds": [3]},
    }
    mapping["run"]["methods"] = ["unsteered", "fasb"]
    folder = tmp_path_factory.mktemp("world")
    write_study(load(mapping), folder / STUDY)
    return folder


def run_cell():
    """Run the cell `m/d/seed3`; the time of change of every file that a job of it writes."""
    assert CliRunner().invoke(group, ["sweep", "cell", "--cell", "m/d/seed3"]).exception is None
    paths = [path for path in Path("results").rglob("*") if path.is_file()]
    paths = [path for path in paths if path.parts[1] not in (".store", "models", "study.json")]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def alter(path):
    """Multiply the weights of a safetensors file of another library."""
    tensors = {name: 1.5 * value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_another_model_in_a_worlds_folder_is_named_and_makes_its_cell_run_again(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = run_cell()
    # the same settings train the same weights, though at another time
    run_job("pretrain", "m")
    assert run_cell() == before
    alter(Path("results/models/m/model.safetensors"))
    stale = {
        str(one.path) for one in verify_folder(Path("results")) if "models/m is an" in one.told
    }
    loading = {"activations/m/d/answer_end.h5", "traces/m/d.parquet"}
    loading |= {f"m/d/seed3/{name}.parquet" for name in ("sweep", "generations", "scores")}
    assert {f"results/{name}" for name in loading} <= stale
    now = run_cell()
    unmoved = {path for path in now if now[path] == before[path]}
    assert {f"results/{name}" for name in UNMOVED} <= unmoved
    assert not {f"results/{name}" for name in loading} & unmoved
    told = [one.told for one in verify_folder(Path("results")) if one.wrong]
    assert all(one.startswith("missing") for one in told)


UNMOVED = ("questions/d.parquet", "questions/d.judge.json", "m/d/seed3/splits.json")
"""What does not depend on a model's weights."""


def test_a_bundle_that_was_altered_is_tuned_again(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = run_cell()
    path = Path("results/m/d/seed3/bundles/fasb-fold0.safetensors")
    digest = stamp_of(path)["digest"]
    alter(path)
    told = {str(one.path): one.told for one in verify_folder(Path("results"))}
    assert told["results/m/d/seed3/scores.parquet"].startswith(
        "stale: results/m/d/seed3/bundles is "
    )
    now = run_cell()
    assert stamp_of(path)["digest"] == digest
    # they are the same again, so nothing is tested anew
    for name in ("results/m/d/seed3/generations.parquet", "results/m/d/seed3/scores.parquet"):
        assert now[name] == before[name]
