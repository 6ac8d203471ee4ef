"""Mutations of files: of their bytes, and of their content under a checksum that is made anew."""

import copy
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa

from fasb.artifacts import write_parquet
from fasb.hdf5files import seal

SCALARS = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e39, 1e-300),
    *(float("nan"), float("inf"), "", "x", "head", "fold0", "\u2028", "\x1b[2J", "a\nb"),
    *("{question.foo}", "{question[x]}", "{question:>1000000000}", "../../x", "/dev/zero"),
    *("x" * 5000, "1e999", "\ud800", [], {}, [[]], [None], {"": None}),
)
"""Values that stand anywhere else than where they belong."""
CELLS = tuple(value for value in SCALARS if value != "\ud800")
"""Those that a frame can hold."""
SPECIAL = (
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"[" * 2000,
    b"9" * 400,
    b"\n",
    b",",
    b"&a *a",
)


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three of them turned, cut, doubled, moved or put in."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.choice(("turn", "turn", "cut", "drop", "double", "put", "number"))
        if kind == "turn" and at < len(data):
            data[at] ^= rng.randint(1, 255)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + rng.choice((1, 4, 100))]
        elif kind == "double":
            data[at:at] = data[at : at + rng.choice((1, 8, 500))]
        elif kind == "put":
            data[at:at] = rng.choice(SPECIAL)
        elif kind == "number":
            data[at : at + 8] = rng.choice((2**62, 2**32 - 1, 2**31)).to_bytes(8, "little")
    return bytes(data)


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """All places of nested mappings and lists."""
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    found = [way] if way else []
    for key, part in inside:
        found += places(part, (*way, key))
    return found


def of_value(value: Any, rng: random.Random) -> Any:
    """A nested value with one or two places changed, taken out, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        found = places(value)
        if not found:
            return rng.choice(SCALARS)
        *way, last = rng.choice(found)
        place = value
        for key in way:
            place = place[key]
        kind = rng.choice(("put", "put", "put", "drop", "add", "swap"))
        if kind == "put":
            place[last] = copy.deepcopy(rng.choice(SCALARS))
        elif kind == "drop":
            del place[last]
        elif isinstance(place, list):
            place.append(copy.deepcopy(rng.choice((*SCALARS, place[last]))))
        elif kind == "add":
            place[rng.choice(("more", "", "seed", str(last).upper()))] = rng.choice(SCALARS)
        else:
            place[last] = [place[last]]
    return value


def of_frame(frame: pd.DataFrame, rng: random.Random) -> pd.DataFrame:
    """A frame with values, rows or columns changed."""
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(frame.columns) or ["a"])
        kind = rng.choice(("put", "put", "put", "drop", "add", "rows", "double", "all", "none"))
        if name not in frame or kind == "add":
            frame = frame.assign(**{f"{name}_more": 1})
        elif kind == "put" and len(frame):
            values = list(frame[name])
            values[rng.randrange(len(values))] = rng.choice(CELLS)
            frame = frame.assign(**{name: pd.Series(values, index=frame.index, dtype=object)})
        elif kind == "drop":
            frame = frame.drop(columns=name)
        elif kind == "rows":
            frame = frame.sample(rng.randrange(len(frame) + 1), random_state=rng.randrange(2**31))
        elif kind == "double":
            frame = pd.concat([frame, frame.iloc[:1]])
        elif kind == "all":
            frame = frame.assign(**{name: [rng.choice(CELLS)] * len(frame)})
        else:
            frame = frame.assign(**{name: None})
    return frame.reset_index(drop=True)


def put_frame(path: Path, frame: pd.DataFrame) -> bool:
    """Write a frame, with whatever it holds that Parquet can; False where it cannot."""
    try:
        write_parquet(path, frame)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def of_array(rng: random.Random) -> np.ndarray:
    """Any small array."""
    shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 4))]
    value = rng.choice((0, 1, -1, 3, 10**12, np.nan, np.inf))
    kinds = ("f4", "f8", "f2", "i8", "i4", "i1", "?", "u1", "u8")
    with np.errstate(all="ignore"):
        return np.full(shape, value, dtype=np.float64).astype(rng.choice(kinds))


def of_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Named arrays, one of them replaced, turned, taken out or added."""
    arrays, name = dict(arrays), rng.choice(sorted(arrays))
    kind = rng.choice(("other", "value", "drop", "add"))
    if kind == "other":
        arrays[name] = of_array(rng)
    elif kind == "value" and arrays[name].size:
        changed = arrays[name].copy()
        with np.errstate(all="ignore"):
            value = np.float64(rng.choice((7, -1, 1e30, 2))).astype(changed.dtype)
            changed.ravel()[rng.randrange(changed.size)] = value
        arrays[name] = changed
    elif kind == "drop":
        del arrays[name]
    else:
        arrays["more"] = of_array(rng)
    return arrays


def of_hdf5(path: Path, rng: random.Random) -> None:
    """Change an HDF5 file in place, and seal it again."""
    content = path.read_bytes()
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        kind = rng.choice(("other", "value", "drop", "attribute", "texts", "link", "huge"))
        if kind == "attribute":
            holder = file if rng.random() < 0.7 or not len(file[name].attrs) else file[name]
            key = rng.choice(sorted(holder.attrs))
            holder.attrs[key] = rng.choice(("{}", "null", "[", "head", 3, -1, "x" * 5000))
        elif kind == "value" and hasattr(file[name], "shape") and file[name].size:
            at = tuple(rng.randrange(n) for n in file[name].shape)
            texts = file[name].dtype == object
            file[name][at] = rng.choice(("", "q1", "x")) if texts else rng.choice((7, 0.5, -1))
        elif kind in ("other", "texts", "link", "huge", "drop"):
            del file[name]
            if kind == "other":
                file[name] = of_array(rng)
            elif kind == "texts":
                texts = [rng.choice(("q0", "q1", "x", "")) for _ in range(rng.randrange(6))]
                file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
            elif kind == "link":
                file[name] = rng.choice((h5py.SoftLink("/label"), h5py.ExternalLink("x.h5", "/")))
            elif kind == "huge":
                file.create_dataset(name, (10**9, 10**3), "f4", chunks=(1000, 10))
    seal(path)
