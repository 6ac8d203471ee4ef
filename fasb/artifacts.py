"""Files of a study: written whole or not at all, with checksum and provenance, and checked on reading.

JSON, Parquet, safetensors and HDF5; never pickle. "The same result" means the same payload digest,
which leaves provenance out. `Store` keeps finished cells of a job that may be killed.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.errors import ArtifactError
from fasb.textfiles import parse_json, read_text

KEY = "fasb"
"""Metadata key under which every format holds `{"digest": …, "provenance": …}`."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(
        f".{path.name}.{uuid.uuid4().hex[:12]}.part"
    )  # jobs of several nodes may meet here
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Like `writing`, for a folder; a folder that is already at `path` is replaced."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        part = Path(scratch, "new")
        part.mkdir()
        yield part
        if path.exists():
            path.rename(Path(scratch, "old"))
        part.rename(path)


def content_hash(value: Any) -> str:
    """16 hex digits of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_of(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of each weight file of a local model: a retrained one is another.

    Empty for a hub id: there the revision says which weights they are.
    """
    path = Path(model)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for kind in ("*.safetensors", "*.bin") for file in path.glob(kind))
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@cache
def surroundings() -> dict[str, Any]:
    """Versions, commit and hardware, the same for all that one process writes."""
    packages = ("fasb", "torch", "transformers", "scikit-learn", "numpy", "h5py")
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in packages},
        "commit": _commit(),
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "gpu": _gpu()},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout this library runs from, `+` appended where files differ from it."""
    folder = Path(__file__).parent
    try:
        run = [
            "git",
            "-C",
            str(folder),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty=+",
            "--exclude=*",
        ]
        return subprocess.run(
            run, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _gpu() -> str | None:
    import sys

    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _stamp(digest: str, made_by: dict[str, Any]) -> dict[str, Any]:
    return {"digest": digest, "provenance": {**surroundings(), **made_by}}


def write_json(path: Path, payload: Any, made_by: dict[str, Any]) -> None:
    """`{"payload": …, "digest": …, "provenance": …}`, indented."""
    document = {"payload": payload, **_stamp(_json_digest(payload), made_by)}
    with writing(path) as part:
        part.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The payload of a file that `write_json` made.

    Raises:
        ArtifactError: the file is missing, truncated, or its payload does not match its digest.
    """
    text = read_text(_existing(path), ArtifactError)
    document = parse_json(text, str(path), ArtifactError, "make it again")
    with _naming(path):
        _match(path, document["digest"], _json_digest(document["payload"]))
    return document["payload"]


def _json_digest(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def write_parquet(path: Path, frame: pd.DataFrame, made_by: dict[str, Any]) -> None:
    """The frame without its index; lists of numbers or strings are list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    stamp = _stamp(_table_digest(table), made_by)
    with writing(path) as part:
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps(stamp)}), part)


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The frame of a file that `write_parquet` made, or some of its columns.

    Raises:
        ArtifactError: the file is missing or damaged, or lacks a column.
    """
    import pyarrow.parquet as pq

    with _naming(_existing(path)):
        table = pq.read_table(path)
        _match(
            path, json.loads(table.schema.metadata[KEY.encode()])["digest"], _table_digest(table)
        )
    missing = set(columns or ()) - set(table.column_names)
    if missing:
        raise ArtifactError(
            f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(table.column_names)}"
        )
    frame: pd.DataFrame = table.select(columns or table.column_names).to_pandas()
    return frame


def _table_digest(table: Any) -> str:
    """Hash of names and values as JSON, floats to 15 digits: the same whatever the file's encoding."""
    text = table.to_pandas().to_json(orient="split", index=False, double_precision=15)
    return hashlib.sha256(text.encode()).hexdigest()


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], made_by: dict[str, Any], about: Any = None
) -> None:
    """A safetensors file; `about` is any JSON value kept with the tensors and covered by the digest."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    stamp = _stamp(_tensor_digest(tensors, about), made_by)
    with writing(path) as part:
        save_file(tensors, part, metadata={KEY: json.dumps(stamp), "about": json.dumps(about)})


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any, dict[str, Any]]:
    """Tensors, `about` and provenance of a file that `write_tensors` made.

    Raises:
        ArtifactError: the file is missing, truncated, foreign, or does not match its digest.
    """
    from safetensors import safe_open

    with _naming(_existing(path)), safe_open(path, framework="numpy") as file:
        meta = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        stamp, about = json.loads(meta[KEY]), json.loads(meta["about"])
        _match(path, stamp["digest"], _tensor_digest(tensors, about))
        provenance = stamp["provenance"]
    return tensors, about, provenance


def _tensor_digest(tensors: dict[str, np.ndarray], about: Any) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


@contextlib.contextmanager
def writing_hdf5(path: Path, made_by: dict[str, Any]) -> Iterator[Any]:
    """An HDF5 file to fill; on success it is stamped and takes its place at `path`."""
    import h5py

    with writing(path) as part, h5py.File(part, "w") as file:
        yield file
        file.attrs[KEY] = json.dumps(_stamp(_hdf5_digest(file), made_by))


def is_ours(path: Path) -> bool:
    """Return whether a Parquet file was made by `write_parquet`; False for any that cannot be read."""
    import pyarrow.parquet as pq

    try:
        return KEY.encode() in (pq.read_schema(path).metadata or {})
    except Exception:  # whatever is wrong with it is said by who reads it
        return False


def hdf5_stamp(file: Any, path: Path) -> dict[str, Any]:
    """Digest and provenance of an open HDF5 file.

    Raises:
        ArtifactError: the file is not one of ours or was not finished.
    """
    if KEY not in file.attrs:
        raise ArtifactError(
            f"{path}: not a finished file of this library; delete it and make it again"
        )
    stamp: dict[str, Any] = json.loads(file.attrs[KEY])
    return stamp


def _hdf5_digest(file: Any) -> str:
    digest = hashlib.sha256()
    names: list[str] = []
    file.visit(names.append)
    for name in sorted(names):
        item = file[name]
        if hasattr(item, "shape"):
            digest.update(f"{name}{item.dtype}{item.shape}".encode())
            step = item.chunks[0] if item.chunks else max(1, item.shape[0] if item.shape else 1)
            for start in range(0, item.shape[0] if item.shape else 0, step):
                block = item[start : start + step]
                digest.update(
                    repr(block.tolist()).encode()
                    if block.dtype == object
                    else np.ascontiguousarray(block).data
                )
    return digest.hexdigest()


def stamp_of(path: Path) -> dict[str, Any]:
    """`{"digest", "provenance"}` of any file of a study, its payload checked against the digest.

    Raises:
        ArtifactError: the file is missing, damaged, or of an unknown kind.
    """
    path = _existing(path)
    if path.suffix == ".json":
        read_json(path)
        return {
            key: value for key, value in json.loads(path.read_text()).items() if key != "payload"
        }
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        read_parquet(path)
        stamp: dict[str, Any] = json.loads(pq.read_schema(path).metadata[KEY.encode()])
        return stamp
    if path.suffix in (".safetensors", ".bundle"):
        tensors, about, provenance = read_tensors(path)
        return {"digest": _tensor_digest(tensors, about), "provenance": provenance}
    if path.suffix == ".h5":
        import h5py

        with _naming(path), h5py.File(path) as file:
            stamp = hdf5_stamp(file, path)
            _match(path, stamp["digest"], _hdf5_digest(file))
        return stamp
    raise ArtifactError(
        f"{path}: not a kind of file this library writes; give .json .parquet .safetensors .bundle .h5"
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one line that names it."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path}: cannot be read ({reason}); delete it and make it again"
        ) from error


def _existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such file; make it first, or correct the path")
    return Path(path)


def _match(path: Path, recorded: str, found: str) -> None:
    if recorded != found:
        raise ArtifactError(
            f"{path}: content does not match its checksum; delete it and make it again"
        )


@dataclass(frozen=True)
class Store:
    """Finished cells of long jobs: frames under the hash of all that they depend on.

    Lives beside the declared outputs (`results/.store/`), so that a killed job resumes and equal
    cells are shared.
    """

    folder: Path

    def load(self, key: Any) -> pd.DataFrame | None:
        """The frame kept for `key`, or None; a damaged one counts as absent."""
        with contextlib.suppress(ArtifactError):
            return read_parquet(self._path(key))
        return None

    def keep(self, key: Any, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the frame for `key` and give it back as a later `load` will."""
        write_parquet(self._path(key), frame, {})
        return read_parquet(self._path(key))

    def _path(self, key: Any) -> Path:
        name = content_hash(key)
        return self.folder / name[:2] / f"{name}.parquet"
