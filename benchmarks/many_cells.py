"""What Snakemake itself costs for a study of many cells: no model is run.

    python benchmarks/many_cells.py --cells 1000              a dry run: the DAG's time and memory
    python benchmarks/many_cells.py --cells 50 --run          every job, by a stand-in that writes
                                                              empty files
    python benchmarks/many_cells.py --cells 50 --run --killed 10
                                                              of which so many in 100 are killed
    python benchmarks/many_cells.py --cells 50 --run --killed 10 -- --profile slurm
                                                              as jobs of SLURM; behind -- stand
                                                              options of Snakemake

Prints seconds, CPU-seconds and memory of Snakemake's own process, which holds the DAG and schedules
the jobs; after `--run` also how many jobs were killed, and whether anything is left to do.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from fasb.study.config import load_files
from fasb.study.jobs import STAGES, count_jobs

ROOT = Path(__file__).parents[1]
STAND_IN = """#!/bin/sh
# Writes empty files where a job of the study would write results; some of its runs are killed.
if [ "$(od -An -N2 -tu2 /dev/urandom)" -lt "$KILLED" ]; then
    echo x >>killed.txt
    kill -9 $$
fi
[ "$3" = --key ] && set -- "$1" "$2" ""
for path in $(cat "$FILES/$2/$3/files"); do
    case "$path" in *.*) ;; *) mkdir -p "$path"; path=$path/file ;; esac
    mkdir -p "$(dirname "$path")" && : >"$path"
done
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run of Snakemake: its own CPU-seconds, without those of jobs, and MB at most."""

    seconds: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        """Return it in a line."""
        load = 100 * self.cpu / self.seconds
        took = f"{self.seconds:.0f} s, {self.cpu:.0f} CPU-seconds ({load:.0f} %)"
        return f"{took}, {self.memory:.0f} MB"


def config_of(cells: int) -> dict:
    """Return a study of so many cells: ten models or as many as there are tens, and split seeds."""
    n_models = min(10, cells)
    job = {"gpu": 0, "threads": 1, "mem_mb": 500}  # a stand-in needs no more
    models = {f"m{i}": {"path": f"some/m{i}", "job": job} for i in range(n_models)}
    grid = {"k": [24], "alpha": [30, 60]}
    method = {"use": "head_vectors", "gate": "probe", "grid": grid}
    return {
        "models": models,
        "datasets": {"d": {"load": "table", "settings": {"path": "d.csv"}}},
        "methods": {"unsteered": {}, "fasb": method},
        "run": {
            "cells": [{"model": name, "dataset": "d"} for name in models],
            "seeds": list(range(max(cells // n_models, 1))),
            "methods": ["unsteered", "fasb"],
        },
        "wandb": {"mode": "disabled"},
    }


def run(folder: Path, *arguments: str, killed: int = 0) -> Cost:
    """Run Snakemake on the study in a folder.

    Raises:
        RuntimeError: it fails.
    """
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), "/usr/bin:/bin"])
    own = {"PATH": path, "FILES": str(folder / "jobs"), "KILLED": str(killed)}
    command = ["snakemake", "--snakefile", ROOT / "workflow" / "Snakefile", "--directory", folder]
    command += ["--configfile", folder / "config.yaml", *arguments]
    start, cpu, memory = time.monotonic(), 0.0, 0
    with (folder / "said.txt").open("w") as said:
        process = psutil.Popen(
            list(map(str, command)), env={**os.environ, **own}, stdout=said, stderr=said
        )
        while process.poll() is None:
            if process.status() != psutil.STATUS_ZOMBIE:
                spent = process.cpu_times()
                cpu, memory = spent.user + spent.system, max(memory, process.memory_info().rss)
            time.sleep(0.2)
    if process.returncode:
        raise RuntimeError((folder / "said.txt").read_text()[-3000:])
    return Cost(time.monotonic() - start, cpu, memory / 1e6)


def prepare(folder: Path, cells: int) -> int:
    """Write the study, the stand-in and the files of each job; return the number of jobs."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(config_of(cells)))
    study = load_files([config])
    for stage in STAGES.values():
        for target, names in stage.scope.targets(study).items():
            files = folder / "jobs" / stage.command / target / "files"
            files.parent.mkdir(parents=True, exist_ok=True)
            files.write_text("\n".join(stage.paths(study, names).outputs.values()))
    stand_in = folder / "bin" / "fasb"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return count_jobs(study).total()


def main() -> None:
    """Print the costs."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=1000)
    options.add_argument("--run", action="store_true")
    options.add_argument("--killed", type=int, default=0, metavar="PERCENT")
    options.add_argument("snakemake", nargs="*", default=["--cores", "2"])
    given = options.parse_args()
    if given.cells % 10:
        options.error("cells come in tens")
    folder = Path(tempfile.mkdtemp(prefix="cells"))
    try:
        n_jobs = prepare(folder, given.cells)
        print(f"{given.cells} cells, {n_jobs} jobs")
        print(f"dry run: {run(folder, '-n', '--quiet')}", flush=True)
        if given.run:
            at = ["--retries", "5", "--quiet", *given.snakemake]
            print(f"run: {run(folder, *at, killed=655 * given.killed)}", flush=True)
            killed = folder / "killed.txt"
            n_killed = len(killed.read_text().split()) if killed.exists() else 0
            run(folder, "-n")
            done = "Nothing to be done" in (folder / "said.txt").read_text()
            print(f"{n_killed} jobs killed; {'nothing' if done else 'something'} is left to do")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
