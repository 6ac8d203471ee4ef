"""Many real cells of tiny models through Snakemake, some killed; the same by a plain loop.

    python benchmarks/real_cells.py --cells 1000 --by-hand FOLDER
    python benchmarks/real_cells.py --cells 1000 --killed 5 FOLDER -- --profile slurm

The first is a loop over cells and stages in one process. The second runs the workflow with a job
for each cell, of which so many in 100 are killed at a random moment; behind -- stand options of
Snakemake. It prints seconds, CPU-seconds and memory of Snakemake's own process, how many jobs were
killed, whether anything is left to do, and, where the first has run in the same folder, how many
payloads differ. Both go on where they were stopped.
"""

import argparse
import contextlib
import random
import sys
import time
from pathlib import Path

import yaml
from many_cells import run

from fasb.artifacts import SEALED, stamp_of
from fasb.study import celljobs, jobs
from fasb.study.config import Study, load_files

ROOT = Path(__file__).parents[1]
N_MODELS = 10
WORDS = "sky blue old house river quick brown fox lazy dog answer question truth nobody comment"
KILLING = """#!/bin/sh
# The real program; of those that do a cell, some are killed at a random moment.
export PATH={path}
draw() {{ od -An -N2 -tu2 /dev/urandom; }}
if [ "$2" != cell ] || [ $(draw) -ge $KILLED ]; then exec fasb "$@"; fi
# none is killed twice
if [ -f killed.txt ] && grep -qx "$3" killed.txt; then exec fasb "$@"; fi
fasb "$@" &
sleep $(($(draw) % 4)).$(($(draw) % 10))
if kill -9 $!; then echo "$3" >>killed.txt; fi
wait $!
"""
"""Stands before the real `fasb` on the path, under its name."""


def config_of(folder: Path, n_cells: int) -> dict:
    """Return a study of so many cells: tiny models, and as many split seeds as that takes."""
    job = {"gpu": 0, "threads": 1, "mem_mb": 1500, "runtime": 10}
    models = {
        f"m{i}": {"path": str(folder / "models" / f"m{i}"), "device": "cpu", "job": job}
        for i in range(N_MODELS)
    }
    heads = {"use": "head_vectors", "grid": {"k": [2], "alpha": [8, 40]}}
    questions = {"path": str(folder / "questions.csv")}
    return {
        "models": models,
        "datasets": {"q": {"load": "table", "settings": questions, "exact": True}},
        "methods": {
            "unsteered": {},
            "iti": {**heads, "settings": {"when": "always"}},
            "fasb": {**heads, "gate": "probe", "settings": {"beta": 0.4}},
        },
        "split": {"folds": 2, "validation": 0.4},
        "decoding": {"tokens": 8},
        "vectors": {"sigma_rows": "all"},
        "run": {
            "name": "many",
            "jobs": "cells",
            "cells": [{"model": name, "dataset": "q"} for name in models],
            "seeds": list(range(n_cells // N_MODELS)),
            "methods": ["unsteered", "iti", "fasb"],
        },
        "wandb": {"mode": "disabled"},
    }


def prepare(folder: Path, n_cells: int) -> Study:
    """Write models, questions and config, unless they are there; return the study."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_checkpoint

    config = folder / "config.yaml"
    if not config.exists():
        for i in range(N_MODELS):
            tiny_checkpoint(folder / "models" / f"m{i}", seed=i)
        draw = random.Random(0)
        lines = ["question,true,false"]
        for i in range(40):
            text = [" ".join(draw.sample(WORDS.split(), 3)) for _ in range(5)]
            lines.append(f"What is {text[0]} {i}?,{text[1]};{text[2]},{text[3]};{text[4]}")
        (folder / "questions.csv").write_text("\n".join(lines) + "\n")
        config.write_text(yaml.safe_dump(config_of(folder, n_cells)))
    return load_files([config])


def by_hand(folder: Path, study: Study) -> float:
    """Run what is missing of every cell, stage by stage, in this process; return the seconds."""
    start = time.monotonic()
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        jobs.write_study(study)
        shared = [jobs.STAGES[name] for name in ("questions", "activations", "trace")]
        for stage in shared:
            for target, names in stage.scope.targets(study).items():
                _once(jobs.Job(stage, target, names, study))
        for cell in celljobs.of_cells(study).values():
            for job in cell.stages:
                _once(job)
    return time.monotonic() - start


def _once(job: jobs.Job) -> None:
    if not all(Path(path).exists() for path in job.paths.outputs.values()):
        job.run()


def through_snakemake(folder: Path, killed: int, options: list[str]) -> str:
    """Run the workflow to its end; return what it took, and what became of it."""
    fasb = folder / "bin" / "fasb"
    fasb.parent.mkdir(parents=True, exist_ok=True)
    fasb.write_text(KILLING.format(path=f"{Path(sys.executable).parent}:/usr/bin:/bin"))
    fasb.chmod(0o755)
    (folder / "config.yaml").write_bytes((folder.parent / "config.yaml").read_bytes())
    cost = run(folder, "--retries", "5", *options, killed=656 * killed)
    seen = folder / "killed.txt"
    n_killed = len(seen.read_text().split()) if seen.exists() else 0
    run(folder, "-n")
    done = "Nothing to be done" in (folder / "said.txt").read_text()
    return f"{cost}\n{n_killed} jobs killed; {'nothing' if done else 'something'} is left to do"


def payloads(folder: Path) -> dict[str, str]:
    """Return the digest of what every file of models and cells holds, by the file's name."""
    found = {}
    for path in sorted(folder.glob("results/*/**/*")):
        name = path.relative_to(folder)
        if path.suffix in SEALED and name.parts[1] not in (".store", "tables", "figures"):
            found[str(name)] = stamp_of(path)["digest"]
    return found


def main() -> None:
    """Run the cells one way, and print what it took."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=1000)
    options.add_argument("--by-hand", action="store_true")
    options.add_argument("--killed", type=int, default=0, metavar="PERCENT")
    options.add_argument("folder", type=Path)
    options.add_argument("snakemake", nargs="*", default=["--cores", "2"])
    given = options.parse_args()
    if given.cells % N_MODELS:
        options.error(f"there are {N_MODELS} models; cells come in so many")
    folder = given.folder.absolute()
    folder.mkdir(exist_ok=True)
    study = prepare(folder, given.cells)
    if given.by_hand:
        print(f"{given.cells} cells by hand: {by_hand(folder / 'by_hand', study):.0f} s")
        return
    print(through_snakemake(folder / "snakemake", given.killed, given.snakemake), flush=True)
    if (folder / "by_hand").exists():
        here, there = payloads(folder / "snakemake"), payloads(folder / "by_hand")
        differ = [name for name in sorted(here | there) if here.get(name) != there.get(name)]
        print(f"{len(there)} payloads of a plain loop; {len(differ)} differ {differ[:3]}")


if __name__ == "__main__":
    main()
