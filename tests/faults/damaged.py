"""Bytes that were lost or turned, of every format."""

import json

import numpy as np
import pandas as pd
from registry import fault, said

from fasb.artifacts import Store, stamp_of, write_json, write_parquet, write_tensors
from fasb.hdf5files import writing_hdf5

KEPT = "the file, as it is"


def write(path):
    if path.suffix == ".json":
        write_json(path, {"a": [1, 2.5, None]})
    elif path.suffix == ".parquet":
        write_parquet(path, pd.DataFrame({"a": ["x", "y"], "p": [0.5, 0.25]}))
    elif path.suffix == ".safetensors":
        write_tensors(path, {"w": np.arange(600.0)})
    else:
        with writing_hdf5(path) as file:
            file["w"] = np.arange(600.0)
    return path


def cut(path):
    content = write(path).read_bytes()
    # of JSON within the payload: how long the stamp behind it is depends on the versions it names
    half = content.index(b"2.5") if path.suffix == ".json" else len(content) // 2
    path.write_bytes(content[:half])
    return said(lambda: stamp_of(path))


def turned(path):
    content = bytearray(write(path).read_bytes())
    content[content.index(b"2.5") if path.suffix == ".json" else len(content) // 2] ^= 1
    path.write_bytes(content)
    return said(lambda: stamp_of(path))


def emptied(path):
    write(path).write_bytes(b"")
    return said(lambda: stamp_of(path))


for suffix in ("json", "parquet", "safetensors", "h5"):
    for what, make in (("truncated", cut), ("with a bit turned", turned), ("of 0 bytes", emptied)):
        fault(f"`x.{suffix}` {what}", KEPT)(
            lambda folder, make=make, suffix=suffix: make(folder / f"x.{suffix}")
        )


@fault("a file that is another program's", KEPT)
def foreign(folder):
    pd.DataFrame({"a": [1]}).to_parquet(folder / "x.parquet")
    return said(lambda: stamp_of(folder / "x.parquet"))


@fault("`x.json` with a stamp of another form", KEPT)
def other_stamp(folder):
    (folder / "x.json").write_text(json.dumps({"payload": 1, "digest": 3, "provenance": []}))
    return said(lambda: stamp_of(folder / "x.json"))


@fault("a damaged cell of the store", "all other cells; this one is made again")
def store(folder):
    kept = Store(folder)
    frame = kept.keep("cell", pd.DataFrame({"a": [1]}))
    next(folder.rglob("*.parquet")).write_bytes(b"PAR1 half")
    assert kept.load("cell") is None
    assert kept.keep("cell", frame).equals(kept.load("cell"))
    return "nothing; it counts as absent"
