import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import METHODS, STYLES, results, styled

from fasb.artifacts import read_json
from fasb.study.panels import Cell
from fasb.study.wandb_runs import Study, runs, write_runs

FILES = ("metrics.json", "tuned.json", "grid.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return results(
        tmp_path_factory.mktemp("results"), worlds=("tradeoff-s2",), seeds=(0, 1), groups=2
    )


def study(made, **changes):
    return Study("small", "default", Cell.of(made.cells), STYLES, **changes)


def inspect(run: Path) -> dict:
    """What the tool that wandb ships reads from an offline run."""
    wandb = Path(sys.executable).with_name("wandb")
    command = [str(wandb), "leet", "inspect", "--summary", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)


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


def test_offline_files_hold_config_summary_table_and_pictures(made, tmp_path):
    picture, table = tmp_path / "figure_1.png", tmp_path / "main.csv"
    Figure(figsize=(1, 1)).savefig(picture)
    table.write_text("a,b\n1,2\n")
    one = Study("small", "default", Cell.of(made.cells[:1]), styled("iti", "fasb-probe"))
    out = tmp_path / "wandb"
    for _ in range(2):  # a second time replaces the first
        n = write_runs(one, [*made.files(*FILES), picture, table], out)
    found = {
        read["config"].get("method"): read for read in map(inspect, sorted(out.rglob("*.wandb")))
    }
    assert n == 3
    assert set(found) == {"iti", "fasb-probe", None}
    metrics = read_json(made.files("metrics.json")[0])
    assert found["iti"]["summary"]["true_info"] == pytest.approx(metrics["iti"]["true_info"])
    assert found["iti"]["config"]["seed"] == 0
    assert "grid" in found["iti"]["summary"]
    assert "figure_1" in found[None]["summary"]
    assert [path.read_text() for path in out.rglob("main.csv")] == ["a,b\n1,2\n"]
    assert not any(path.is_symlink() for path in out.rglob("main.csv"))


def test_disabled_leaves_an_empty_folder(made, tmp_path):
    write_runs(study(made, mode="disabled"), made.files(*FILES), tmp_path / "wandb")
    assert list((tmp_path / "wandb").rglob("*.wandb")) == []
    assert (tmp_path / "wandb").is_dir()
