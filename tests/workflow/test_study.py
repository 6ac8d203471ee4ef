"""A small study, run for real.

Everything is made, twice the same, also after a kill in the middle.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fasb.artifacts import read_json, stamp_of
from fasb.study import cells
from fasb.study.config import load_files
from fasb.study.jobs import count_jobs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "configs" / "world.yaml"
CELL = "results/tiny/tiny/seed0"
COMPARED = (f"{CELL}/metrics.json", f"{CELL}/side_effects.parquet")
"""Files that come after every other of which a digest is compared."""
ASIDE = {"models", ".store", "wandb", "health", "tables", "figures", "report.json"}
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}


def start(folder, *arguments):
    """Snakemake from the root of the repository, in a session of its own."""
    folder.mkdir(exist_ok=True)
    command = [
        "snakemake",
        "--directory",
        folder,
        "--cores",
        "2",
        *arguments,
        "--configfile",
        CONFIG,
    ]
    with (folder / "snakemake.txt").open("a") as log:
        return subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def run(folder, *arguments):
    process = start(folder, *arguments)
    said = folder / "snakemake.txt"
    assert process.wait(900) == 0, said.read_text()[-6000:]
    return said.read_text()


def digests(folder):
    results = folder / "results"
    return {
        str(path.relative_to(results)): stamp_of(path)["digest"]
        for path in sorted(results.rglob("*"))
        if path.suffix in {".json", ".parquet", ".safetensors", ".h5"}
        and not ASIDE & set(path.relative_to(results).parts)
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small study that ran to its end."""
    folder = tmp_path_factory.mktemp("study")
    run(folder)
    return folder


@pytest.mark.study
@pytest.mark.timeout(2000)
def test_one_command_makes_every_table_figure_and_the_report(finished):
    study = load_files([CONFIG])
    assert [target for target in cells.targets(study) if not (finished / target).exists()] == []
    metrics = read_json(finished / CELL / "metrics.json")
    assert set(study.run.methods) <= set(metrics)


@pytest.mark.study
def test_a_finished_study_has_nothing_to_do(finished):
    assert "Nothing to be done" in run(finished, "-n")


@pytest.mark.study
def test_every_job_leaves_its_log_and_its_time(finished):
    for rule in count_jobs(load_files([CONFIG])):
        (log, *_), (timing, *_) = (
            [*(finished / kind).rglob(f"{rule}*")] for kind in ("logs", "results/timing")
        )
        assert log.exists()
        assert timing.exists()


@pytest.mark.study
def test_results_say_what_made_them(finished):
    made_by = stamp_of(finished / CELL / "generations.parquet")["provenance"]
    assert {"versions", "commit", "hardware"} <= set(made_by)
    assert made_by["versions"]["fasb"]


@pytest.mark.study
@pytest.mark.timeout(2000)
def test_a_study_killed_in_the_middle_goes_on_and_gives_the_same(finished, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copytree(finished / "results" / "models", folder / "results" / "models")
    expected = digests(finished)
    process = start(folder, *COMPARED)
    for _ in range(6000):
        if (folder / "logs" / "sweep").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(digests(folder)) < len(expected)
    run(folder, "--unlock")
    run(folder, *COMPARED)
    assert digests(folder) == expected


@pytest.mark.study
def test_wandb_runs_carry_the_config_and_the_metrics(finished):
    (one, *_) = sorted((finished / "results" / "wandb").rglob("*.wandb"))
    inspect = subprocess.run(
        ["wandb", "leet", "inspect", "--summary", "--json", one],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    inspected = json.loads(inspect.stdout)
    assert {"model", "dataset", "method", "seed"} <= set(inspected["config"])
    assert inspected["summary"]
