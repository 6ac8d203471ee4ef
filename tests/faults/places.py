"""Disks that are full, folders that cannot be written, files that were moved, clocks set back."""

import contextlib
import os
import shutil
import subprocess
import sys
import time

from damaged import write
from registry import fault, said

from fasb.artifacts import read_json, stamp_of, write_json
from fasb.model.access import check_folder
from fasb.study import config
from fasb.study.jobs import run_job, write_study
from fasb.user.evaluation import questions_of
from fasb.wholefiles import check_out, writing_folder

KEPT = "the file that was there before"
STUDY = {
    "models": {"llama": {"path": "some/llama"}},
    "datasets": {"own": {"load": "table", "settings": {"path": "my.csv"}}},
    "methods": {"unsteered": {}},
    "run": {
        "cells": [{"model": "llama", "dataset": "own"}],
        "seeds": [0],
        "methods": ["unsteered"],
    },
    "wandb": {"mode": "disabled"},
}
FULL = """
import resource, sys
from pathlib import Path
from fasb.errors import FasbError
import damaged
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try: damaged.write(Path(sys.argv[1]))
except FasbError as error: print(error)
"""


def full(path):
    write(path)
    digest = stamp_of(path)["digest"]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, env=surroundings
    )
    assert stamp_of(path)["digest"] == digest
    assert list(path.parent.iterdir()) == [path]
    return done.stdout.strip() or done.stderr


for suffix in ("json", "h5"):
    fault(f"a disk that takes no more, while `x.{suffix}` is written", KEPT)(
        lambda folder, suffix=suffix: full(folder / f"x.{suffix}")
    )


@fault("a pipe where a table is to be read")
def pipe(folder):
    os.mkfifo(folder / "my.parquet")
    return said(lambda: questions_of(folder / "my.parquet"))


@fault("a file of a checkpoint that is a dangling link")
def dangling(folder):
    (folder / "generation_config.json").symlink_to("gone")
    return said(lambda: check_folder(str(folder)))


@fault("a folder that nobody may write to")
def proc(folder):
    return said(lambda: write_json(folder.__class__("/proc/x.json"), 1))


@fault("a folder where a file is to be written", "the folder")
def is_folder(folder):
    (folder / "x.json").mkdir()
    return said(lambda: check_out(folder / "x.json"))


@fault("a file where a folder is to be written", "the file")
def is_file(folder):
    (folder / "model").touch()

    def call():
        with writing_folder(folder / "model"):
            pass

    return said(call)


@fault("a name of 300 characters")
def long_name(folder):
    line = said(lambda: check_out(folder / ("n" * 300)))
    return line.replace("n" * 200, "n…")[-80:]


@fault("a finished study's folder moved elsewhere", "every file")
def moved(folder):
    write_json(folder / "one" / "x.json", 3)
    shutil.move(folder / "one", folder / "two")
    assert read_json(folder / "two" / "x.json") == 3
    return "nothing; files know no folder"


@fault("results copied without Snakemake's memory of them, then another `limit`", "every file")
def copied(folder):
    (folder / "my.csv").write_text(
        "question,true,false\n" + "".join(f"Who is {i}?,this,that\n" for i in range(20))
    )
    with contextlib.chdir(folder):
        write_study(config.load(STUDY))
        run_job("questions", "own")
        changed = {"own": {**STUDY["datasets"]["own"], "limit": 4}}
        write_study(config.load({**STUDY, "datasets": changed}))
        return said(lambda: run_job("splits", "llama/own/seed0"))


@fault("the clock set back by a year after a file was written", "every file")
def clock(folder):
    for name in ("x.json", "x.h5"):
        path = write(folder / name)
        ahead = time.time() + 365 * 24 * 3600
        os.utime(path, (ahead, ahead))
        stamp_of(path)
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        os.utime(path, (ahead, ahead))
        line = said(lambda path=path: stamp_of(path))
        assert path.name in line
        write(path)
        assert stamp_of(path)
    return "nothing; a file that changes afterwards is still found damaged"
