import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from offline_runs import artifacts, inspect, summarised
from synthetic import METHODS, STYLES, results, styled

from fasb.artifacts import read_json, write_json
from fasb.study.wandb_runs import LoggedStudy, runs, write_runs

FILES = ("metrics.json", "tuned.json", "grid.parquet")
WANDB = Path(sys.executable).with_name("wandb")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return results(
        tmp_path_factory.mktemp("results"), worlds=("tradeoff-s2",), seeds=(0, 1), groups=2
    )


@pytest.fixture(scope="module")
def logged(made, tmp_path_factory):
    """Two methods of one cell, a picture and a table, logged twice into one folder."""
    root = tmp_path_factory.mktemp("logged")
    picture, table = root / "figures" / "one.png", root / "tables" / "main.csv"
    for path in (picture, table):
        path.parent.mkdir()
    Figure(figsize=(1, 1)).savefig(picture)
    table.write_text("method,b\nNone,2\nNA,\n")
    one = LoggedStudy("größe 1", "default", made.cells[:1], styled("iti", "fasb-probe"))
    for _ in range(2):
        n = write_runs(one, [*made.files(*FILES), picture, table], root / "wandb")
    assert n == 3
    return root / "wandb"


def study(made, **changes):
    return LoggedStudy("größe 1", "default", made.cells, STYLES, **changes)


def test_there_is_one_run_per_cell_and_method_and_one_of_the_study(made):
    found = list(runs(study(made), made.files(*FILES)))
    assert [run.kind for run in found] == ["test"] * (2 * len(METHODS)) + ["study"]
    assert found[0].config["model"] == "tradeoff-s2"
    assert found[0].config["model_group"] == "tradeoff"


def test_ids_are_plain_distinct_and_the_same_again(made):
    first, again = (list(runs(study(made, sweep=True), made.files(*FILES))) for _ in range(2))
    ids = [run.id for run in first]
    assert len(set(ids)) == len(ids)
    assert all(set(one) <= set("0123456789abcdef") for one in ids)
    assert ids == [run.id for run in again]


def test_a_sweep_has_one_run_per_fold_and_setting(made):
    found = [
        run for run in runs(study(made, sweep=True), made.files(*FILES)) if run.kind == "validation"
    ]
    grid = [pd.read_parquet(path) for path in made.files("grid.parquet")]
    assert len(found) == sum(map(len, grid))
    probe = next(run for run in found if run.config["method"] == "fasb-probe")
    assert {"k", "alpha", "beta", "s", "vector", "fold"} <= set(probe.config)
    assert "true_info" in probe.summary


def test_settings_are_named_once_where_folds_agree(made):
    probe = next(
        run for run in runs(study(made), made.files(*FILES)) if run.config["method"] == "fasb-probe"
    )
    tuned = read_json(made.files("tuned.json")[0])
    both = [tuned[fold]["fasb-probe"]["setting"] for fold in ("fold0", "fold1")]
    assert probe.config["fold1.alpha"] == both[1]["alpha"]
    assert ("alpha" in probe.config) == (both[0]["alpha"] == both[1]["alpha"])


def test_offline_runs_hold_config_summary_tables_figures_and_artifacts(made, logged):
    found = {}
    for path in logged.rglob("*.wandb"):
        read = summarised(path)
        found[read["config"].get("method")] = (path, read["config"], read["summary"])
    assert set(found) == {"iti", "fasb-probe", None}
    metrics = read_json(made.files("metrics.json")[0])
    _, config, summary = found["iti"]
    assert summary["true_info"] == pytest.approx(metrics["iti"]["true_info"])
    assert (config["kind"], config["seed"]) == ("test", 0)
    assert summary["grid"]["_type"] == "table-file"
    path, _, summary = found[None]
    assert summary["figures/one"]["_type"] == "image-file"
    assert summary["tables/main"]["ncols"] == 2
    shown = json.loads(next(logged.rglob("main_*.table.json")).read_text())
    assert shown["data"] == [["None", 2], ["NA", None]]  # labels that read like a missing value
    contents = artifacts(path)["gr--e-1-results"]["manifest"]["contents"]
    assert {one["path"] for one in contents} == {"figures/one.png", "tables/main.csv"}


def test_all_that_offline_runs_name_is_beside_them_and_there_once(logged):
    kept = []
    for path in logged.rglob("*.wandb"):
        for artifact in artifacts(path).values():
            kept += [Path(one["local_path"]) for one in artifact["manifest"]["contents"]]
    (beside,) = (logged.parent / ".wandb-files").iterdir()  # that of the second log alone
    assert len(kept) == 5  # two grids, the table as such, and the two files of the artifact
    assert all(path.is_file() and path.is_relative_to(beside) for path in kept)


def test_runs_name_neither_the_host_nor_where_python_lies(made, tmp_path, monkeypatch):
    # no name that could stand in a result by chance
    monkeypatch.setattr("socket.gethostname", lambda: "host-of-the-lab")
    monkeypatch.setattr("platform.node", lambda: "host-of-the-lab")
    one = LoggedStudy("a", "default", made.cells[:1], styled("iti"))
    write_runs(one, made.files(*FILES), tmp_path / "wandb")
    for run in (tmp_path / "wandb").rglob("run-*.wandb"):
        recorded = inspect(run)
        for told in ("host-of-the-lab", sys.executable, "writer_id"):
            assert told not in recorded


def test_a_second_log_of_equal_results_replaces_the_first_and_syncs_the_same_ids(logged):
    ids = [path.stem.removeprefix("run-") for path in logged.rglob("*.wandb")]
    assert len(set(ids)) == len(ids) == 3
    command = [str(WANDB), "sync", "--dry-run", str(logged / "wandb")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    said = told.stdout + told.stderr
    assert all(said.count(f"run-{one}.wandb") >= 1 for one in ids), said


@pytest.mark.parametrize("changed", ["a setting of another method", "its own grid", "a result"])
def test_ids_follow_what_made_a_result_and_nothing_else(made, tmp_path, changed):
    folder = made.cells[0].folder
    own, other = {"grid": {"k": [2]}}, {"grid": {"alpha": [1]}}

    def ids(methods, metrics):
        cell = replace(made.cells[0], results=tmp_path)
        made_by = {"settings": {"version": "1", "methods": methods}}
        write_json(cell.folder / "tuned.json", read_json(folder / "tuned.json"), made_by)
        write_json(cell.folder / "metrics.json", metrics)
        (cell.folder / "grid.parquet").write_bytes((folder / "grid.parquet").read_bytes())
        one = LoggedStudy("größe 1", "default", [cell], styled("iti", "fasb-probe"))
        found = list(runs(one, [cell.folder / name for name in FILES]))
        return {run.config.get("method"): run.id for run in found}

    metrics = read_json(folder / "metrics.json")
    before = ids({"iti": own, "fasb-probe": other}, metrics)
    if changed == "a setting of another method":
        after = ids({"iti": own, "fasb-probe": {}}, metrics)
    elif changed == "its own grid":
        after = ids({"iti": other, "fasb-probe": other}, metrics)
    else:
        better = {**metrics["iti"], "true_info": metrics["iti"]["true_info"] + 1e-9}
        after = ids({"iti": own, "fasb-probe": other}, {**metrics, "iti": better})
    assert (before["iti"] == after["iti"]) == (changed == "a setting of another method")
    assert (before["fasb-probe"] == after["fasb-probe"]) == (
        changed != "a setting of another method"
    )
    assert before[None] != after[None]


def test_the_studys_own_id_follows_tables_of_cells_without_runs(made, tmp_path):
    """Of transfer, or of side effects."""
    shown, found = tmp_path / "side_effects.csv", []
    for text in ("kl\n1\n", "kl\n1\n", "kl\n2\n"):
        shown.write_text(text)
        study = LoggedStudy("s", "default", made.cells, styled("iti"))
        found.append([run.id for run in runs(study, [*made.files(*FILES), shown])])
    assert found[0] == found[1]
    assert found[0][:-1] == found[2][:-1]
    assert found[0][-1] != found[2][-1]


def test_disabled_leaves_an_empty_folder(made, tmp_path):
    write_runs(study(made, mode="disabled"), made.files(*FILES), tmp_path / "wandb")
    assert list((tmp_path / "wandb").rglob("*.wandb")) == []
    assert (tmp_path / "wandb").is_dir()
