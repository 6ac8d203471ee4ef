"""Processes that were killed at their most delicate moments, and two of them at once."""

import os
import subprocess
import sys

from registry import fault, said

from fasb.artifacts import read_json, stamp_of, write_json

KILL = """
import os, signal, sys
from pathlib import Path
from fasb import wholefiles
from fasb.artifacts import write_json
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
where, path = sys.argv[1], Path(sys.argv[2])
if where == "half":
    Path.write_text = lambda self, text, *a: (self.write_bytes(text[:9].encode()), die())
elif where == "before":
    Path.replace = die
elif where == "after":
    real = Path.replace
    Path.replace = lambda self, to: (real(self, to), die())
if where == "folder":
    real = Path.rename
    Path.rename = lambda self, to: (real(self, to), die())
    with wholefiles.writing_folder(path) as part:
        (part / "weights").write_text("new")
else:
    write_json(path, {"a": 3})
"""


def kill(where, path):
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILL, where, path], capture_output=True, text=True, env=surroundings
    )
    assert done.returncode == -9, done.stderr


def resumed(where, folder, old):
    """Kill it, look at what is there, and let it run again."""
    path = folder / "x.json"
    write_json(folder / "whole.json", {"a": 3})
    if old:
        write_json(path, {"a": 2})
    kill(where, path)
    found = read_json(path) if path.exists() else None
    assert found == ({"a": 3} if where == "after" else {"a": 2} if old else None)
    write_json(path, {"a": 3})
    assert stamp_of(path)["digest"] == stamp_of(folder / "whole.json")["digest"]
    assert sorted(item.name for item in folder.iterdir()) == ["whole.json", "x.json"]
    return "nothing; run again, it gives the same content and sweeps what was left"


for where, what in {
    "half": "half of a file is written",
    "before": "a file is whole and before it takes its place",
    "after": "a file took its place",
}.items():
    fault(f"`kill -9` when {what}", "the old file, or the new one, whole")(
        lambda folder, where=where: resumed(where, folder, old=True)
    )


@fault("`kill -9` between the old folder and the new one", "no half folder; it is made again")
def folders(folder):
    from fasb.wholefiles import writing_folder

    path = folder / "model"
    for _ in range(2):
        with writing_folder(path) as part:
            (part / "weights").write_text("new")
        kill("folder", path)
        assert not path.exists() or (path / "weights").read_text() == "new"
    with writing_folder(path) as part:
        (part / "weights").write_text("new")
    assert [item.name for item in folder.iterdir()] == ["model"]
    return "nothing; run again, it gives the same content and sweeps what was left"


@fault("two runs that write one file at the same time", "one of the two, whole")
def two(folder):
    code = (
        "import sys; from pathlib import Path; from fasb.artifacts import write_json\n"
        "for i in range(200): write_json(Path(sys.argv[1]), list(range(500)))"
    )
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, folder / "x.json"]
    both = [subprocess.Popen(command, env=surroundings) for _ in range(2)]
    assert [run.wait() for run in both] == [0, 0]
    assert read_json(folder / "x.json") == list(range(500))
    assert len(list(folder.iterdir())) == 1
    return "nothing"


@fault("an HDF5 file that another program holds open to write", "the file")
def locked(folder):
    from damaged import write

    path = write(folder / "x.h5")
    code = (
        "import h5py, sys, time; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        line = said(lambda: stamp_of(path))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert "delete" not in line
    return line


@fault(
    "a bank's run killed while it counts its answers", "finished blocks; the run goes on from there"
)
def counted(folder):
    from fasb.fitting.bank import Bank

    parts = folder / ".bank.h5.parts" / "key"
    parts.mkdir(parents=True)
    (parts / "n_answers").write_text("")
    return said(lambda: Bank.open(folder / "bank.h5"))
