"""`snakemake --profile slurm` on a real SLURM.

Counted GPUs, partitions, shards, jobs submitted together, a cancelled job tried again, the same
results.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cluster import call, cluster, jobs, missing

from fasb.artifacts import stamp_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGETS = ("results/tiny/tiny/seed0/tuned.json",)
GROUP = ["--groups", "activations=read-{model}", "trace=read-{model}"]
GROUP += ["--group-components", "read-{model}=9"]
WITH_MODEL = {"pretrain", "health", "read-tiny", "sweep_part"}
PARTITIONS = {
    **dict.fromkeys([*WITH_MODEL, "sweep"], "models"),
    **dict.fromkeys(["check_judges", "judge_sweep"], "judges"),
    **dict.fromkeys(["questions", "splits", "anchors", "vectors", "trackers", "tune"], "main"),
}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
ENVIRONMENT = {**os.environ, "PATH": PATH}


def start(folder, *arguments, above=()):
    """Snakemake, started from the root of the repository as a user would."""
    command = [
        "snakemake",
        "--directory",
        folder,
        "--configfile",
        HERE / "study.yaml",
        *above,
        *arguments,
        *TARGETS,
    ]
    with (folder / "snakemake.txt").open("w") as log:
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log
        )


def finish(run, folder, seconds):
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.kill()  # a termination signal does not end a Snakemake that waits for SLURM
        run.wait()
    assert run.returncode == 0, (folder / "snakemake.txt").read_text()[-5000:]


def cancel_first(rule, run):
    """Cancel the first job of `rule` as soon as it runs; its id."""
    while run.poll() is None:
        for job in jobs():
            if job["rule"] == rule and job["JobState"] == "RUNNING":
                call("scancel", job["JobId"])
                return job["JobId"]
        time.sleep(0.3)
    pytest.fail(f"no job of rule {rule} was seen running")


def digests(folder):
    """The payload digest of every result; of a model, its weights. The study tells of shards."""
    stamped = {".json", ".parquet", ".safetensors", ".h5"}
    results = folder / "results"
    found = {
        str(path.relative_to(results)): stamp_of(path)["digest"]
        for path in sorted(results.rglob("*"))
        if path.suffix in stamped
        and not {"models", ".store", "parts", "study.json"} & set(path.relative_to(results).parts)
    }
    return {**found, "weights": (results / "models" / "tiny" / "model.safetensors").read_bytes()}


@pytest.fixture
def slurm():
    if reason := missing():
        pytest.skip(reason)
    # not tmp_path: a socket's whole path has 108 characters at most
    with (
        tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as folder,
        cluster(Path(folder)),
    ):
        yield


@pytest.mark.slurm
@pytest.mark.timeout(2000)
def test_a_study_on_slurm_survives_a_cancelled_job_and_equals_a_local_one(slurm, tmp_path):
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
    alone = tmp_path / "alone.yaml"
    alone.write_text("models: {tiny: {job: {shards: 1}}}")
    local = start(tmp_path / "local", "--cores", "1", above=[alone])
    finish(local, tmp_path / "local", 800)

    polling = ["--slurm-init-seconds-before-status-checks", "6"]
    run = start(tmp_path / "cluster", *GROUP, "--profile", "slurm", *polling)
    cancelled = cancel_first("anchors", run)
    finish(run, tmp_path / "cluster", 1000)

    # a group's name goes on with the rules of its jobs
    seen = [{**job, "rule": re.sub("^read-tiny.*", "read-tiny", job["rule"])} for job in jobs()]
    assert {job["rule"]: job["Partition"] for job in seen} == PARTITIONS
    assert {job["rule"] for job in seen if job.get("TresPerJob") == "gres:gpu:1"} == WITH_MODEL
    submitted = [job["rule"] for job in seen]
    assert (submitted.count("sweep_part"), submitted.count("read-tiny")) == (2, 1)
    states = {job["JobId"]: job["JobState"] for job in seen if job["rule"] == "anchors"}
    assert states.pop(cancelled) == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"}
    assert re.search(
        rf"SLURM-job '{cancelled}' failed", (tmp_path / "cluster" / "snakemake.txt").read_text()
    )
    assert digests(tmp_path / "cluster") == digests(tmp_path / "local")
