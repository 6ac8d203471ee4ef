"""Files of a study: whole or absent, and checked on reading.

They are written with checksum and provenance, and checked on reading.

JSON, Parquet, safetensors and HDF5; never pickle. "The same result" means the same payload digest,
which leaves provenance out. An HDF5 file ends in a checksum of all its bytes, compared before they
are parsed. `Store` keeps finished cells of a job that may be killed.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.errors import ArtifactError, FasbError
from fasb.textfiles import parse_json, read_text

KEY = "fasb"
"""Metadata key under which every format holds `{"digest": …, "provenance": …}`."""

SEAL = b"FASBSEAL"
"""What stands before the checksum at the end of an HDF5 file.

The HDF5 library does not look there.
"""

STALE = 24 * 3600
"""Seconds after which the half-written file of another machine counts as left behind."""

_made_by: ContextVar[dict[str, Any]] = ContextVar("made_by", default={})  # noqa: B039 - never changed
_checked: dict[Path, tuple[int, int, int]] = {}
"""Files whose content was compared with its checksum by this process.

With inode, size and time of change.
"""


@contextlib.contextmanager
def provenance(**made_by: Any) -> Iterator[None]:
    """Add to the provenance of everything that is written inside the block."""
    token = _made_by.set({**_made_by.get(), **made_by})
    try:
        yield
    finally:
        _made_by.reset(token)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to.

    It takes `path`'s place when the block ends without an error.

    Half-written files that killed runs left for the same path are removed.

    Raises:
        ArtifactError: the disk, the folder or the name does not allow it; nothing is changed then.
    """
    path = Path(path)
    part = _part(path)
    with _explained(path):
        if path.is_dir():
            raise ArtifactError(f"{path}: a folder; give the path of a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            part.touch()
            mode = stat.S_IMODE(
                part.stat().st_mode
            )  # as the umask says; some writers do not ask it
            yield part
            part.chmod(mode)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Do what `writing` does, for a folder; a folder that is already at `path` is replaced.

    Raises:
        ArtifactError: as for `writing`.
    """
    path = Path(path)
    scratch = _part(path)
    with _explained(path):
        if path.is_file():
            raise ArtifactError(f"{path}: a file; give the path of a folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            part = scratch / "new"
            part.mkdir(parents=True)
            yield part
            probe = scratch / "probe"
            probe.touch()
            for file in part.rglob("*"):
                if file.is_file():
                    file.chmod(stat.S_IMODE(probe.stat().st_mode))
            if path.exists():
                path.rename(scratch / "old")
            part.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def check_out(path: Path) -> None:
    """Refuse a path to write to before the work for it begins.

    Raises:
        ArtifactError: it is a folder, or nothing can be written beside it.
    """
    with contextlib.suppress(_Undo), writing(path):
        raise _Undo


class _Undo(Exception):
    """Leaves `writing` without writing."""


def _part(path: Path) -> Path:
    """Return where a file is written before it is whole; the name tells the process."""
    unique = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    # a path such as "." has no name
    return path.parent / f".{path.name[:100]}.{unique}.part"


@cache
def _host() -> str:
    """Return a hash of the machine, or of the container on it, that process ids are of."""
    space = Path("/proc/self/ns/pid")
    name = socket.gethostname() + (str(space.readlink()) if space.exists() else "")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _sweep(path: Path) -> None:
    """Remove half-written files for `path` whose process is gone, or that are older than a day."""
    start = f".{path.name[:100]}."
    for old in path.parent.iterdir():
        if not (old.name.startswith(start) and old.suffix == ".part"):
            continue
        with contextlib.suppress(OSError):
            if not _in_use(old.name) or time.time() - old.lstat().st_mtime > STALE:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def _in_use(part: str) -> bool:
    """Return whether the process that writes a part may still be there."""
    found = re.search(r"\.(\w+)-(\d+)-\w+\.part$", part)
    if found is None or found[1] != _host():
        return True
    try:
        os.kill(int(found[2]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


REMEDIES = {
    errno.ENOSPC: "free space there, or choose another folder, and run it again",
    errno.EDQUOT: "free space there, or choose another folder, and run it again",
    errno.EFBIG: "raise the limit of file size, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path",
    errno.EEXIST: "a file stands where a folder is needed; choose another path",
}
"""What to do about errors of the operating system."""


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that is written into one line that names it."""
    try:
        yield
    except FasbError:
        raise
    except Exception as error:
        number = _system_error(error, path)
        if number is None:
            raise
        remedy = REMEDIES.get(number, "choose another path")
        raise ArtifactError(
            f"{str(path)[:300]}: cannot be written ({os.strerror(number)}); {remedy}"
        ) from error


def _system_error(error: Exception, path: Path) -> int | None:
    """Return the system's number of an error about `path`.

    Errors of other libraries are known by the system's words in them.
    """
    if isinstance(error, OSError) and error.errno is not None:
        named = error.filename is not None and not isinstance(error.filename, int)
        about = not named or str(os.fsdecode(error.filename)).startswith(str(path.parent))
        return error.errno if about or str(path).startswith(str(error.filename)) else None
    said = str(error)
    return next((number for number in REMEDIES if os.strerror(number) in said), None)


def content_hash(value: Any) -> str:
    """Return 16 hex digits of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_of(model: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of each weight file of a local model.

    They tell a retrained model from the one before.

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
    """Return the commit of the checkout this library runs from.

    With a `+` behind it where files differ from it.
    """
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


def _stamp(digest: str, made_by: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "digest": digest,
        "provenance": {**surroundings(), **_made_by.get(), **(made_by or {})},
    }


def write_json(path: Path, payload: Any, made_by: dict[str, Any] | None = None) -> None:
    """`{"payload": …, "digest": …, "provenance": …}`, indented."""
    document = {"payload": payload, **_stamp(_json_digest(payload), made_by)}
    with writing(path) as part:
        part.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Return the payload of a file that `write_json` made.

    Raises:
        ArtifactError: the file is missing, truncated, or its payload does not match its digest.
    """
    return _read_document(path)["payload"]


def _read_document(path: Path) -> dict[str, Any]:
    text = read_text(_existing(path), ArtifactError)
    document = parse_json(text, str(path), ArtifactError, "make it again")
    with _naming(path):
        _match(path, document["digest"], _json_digest(document["payload"]))
        if not isinstance(document["provenance"], dict):
            raise ValueError("no provenance")
    return dict(document)


def _json_digest(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def write_parquet(path: Path, frame: pd.DataFrame, made_by: dict[str, Any] | None = None) -> None:
    """The frame without its index; lists of numbers or strings are list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    stamp = _stamp(_table_digest(table), made_by)
    with writing(path) as part:
        stamped = table.replace_schema_metadata({KEY: json.dumps(stamp)})
        pq.write_table(stamped, part, write_page_checksum=True)


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the frame of a file that `write_parquet` made, or some of its columns.

    Raises:
        ArtifactError: the file is missing or damaged, or lacks a column.
    """
    import pyarrow.parquet as pq

    with _naming(_existing(path)):
        table = pq.read_table(path, page_checksum_verification=True)
        if not _is_checked(path):
            stamp = json.loads((table.schema.metadata or {})[KEY.encode()])
            _match(path, stamp["digest"], _table_digest(table))
            _remember(path)
        missing = set(columns or ()) - set(table.column_names)
        if missing:
            raise ArtifactError(
                f"{path}: no column {', '.join(sorted(missing))}; it has "
                f"{', '.join(table.column_names)}"
            )
        frame: pd.DataFrame = table.select(columns or table.column_names).to_pandas()
    return frame


def _table_digest(table: Any) -> str:
    """Return a hash of names and values as JSON, floats to 15 digits.

    It is the same whatever the file's encoding.
    """
    text = table.to_pandas().to_json(orient="split", index=False, double_precision=15)
    return hashlib.sha256(text.encode()).hexdigest()


def write_tensors(
    path: Path,
    tensors: dict[str, np.ndarray],
    made_by: dict[str, Any] | None = None,
    about: Any = None,
) -> None:
    """A safetensors file.

    `about` is any JSON value kept with the tensors and covered by the digest.
    """
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
def writing_hdf5(path: Path, made_by: dict[str, Any] | None = None) -> Iterator[Any]:
    """Give an HDF5 file to fill; on success it is stamped, sealed and takes its place at `path`."""
    import h5py

    with writing(path) as part:
        with part.open("w+b", buffering=0) as raw:
            careful = _Careful(raw)
            with h5py.File(careful, "w") as file:
                yield file
                careful.check()
                file.attrs[KEY] = json.dumps(_stamp(_hdf5_digest(file), made_by))
            careful.check()
        seal(part)


class _Careful:
    """A file for HDF5, whose library ends the process where a write fails.

    The error is kept for later.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        """Write, or pretend to after the first failure."""
        left = memoryview(data).cast("B")
        while len(left) and self._error is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._error = error
        return memoryview(data).nbytes

    def truncate(self, size: int) -> None:
        """Set the size, or pretend to."""
        if self._error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._error = error

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._error is not None:
            raise self._error


def seal(path: Path) -> None:
    """Append the checksum of its bytes to a file."""
    digest = _bytes_digest(path, path.stat().st_size)
    with path.open("ab") as end:
        end.write(SEAL + digest)


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file that `writing_hdf5` made; its bytes are compared before they are parsed.

    A file is compared once by a process, in pieces of a megabyte.

    Raises:
        ArtifactError: it is missing, unfinished, damaged, foreign or locked.
    """
    import h5py

    _check_lock(_existing(path))
    _check_seal(path)
    with _naming(path):
        # nobody changes a file in place, and some file systems of clusters know no locks
        file = h5py.File(path, "r", locking=False)
    with file:
        with _naming(path):
            hdf5_stamp(file, path)
            _check_datasets(file, path)
        yield file


def _check_lock(path: Path) -> None:
    """Refuse a file that another program has opened to change it."""
    with contextlib.suppress(ImportError, OSError), path.open("rb") as file:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{path}: locked by another program, which may be changing it; wait for it to end, "
                "or close it there"
            ) from None


def _check_seal(path: Path) -> None:
    """Compare the bytes of an HDF5 file with the checksum at its end."""
    with _naming(path):
        if _is_checked(path):
            return
        size = path.stat().st_size - len(SEAL) - hashlib.sha256().digest_size
        end = b""
        if size > 0:
            with path.open("rb") as file:
                file.seek(size)
                end = file.read()
        if not end.startswith(SEAL):
            raise ArtifactError(
                f"{path}: not a finished HDF5 file of this version of the library; make it again"
            )
        _match(path, end.removeprefix(SEAL).hex(), _bytes_digest(path, size).hex())
        _remember(path)


def _bytes_digest(path: Path, size: int) -> bytes:
    """Return the SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 2**20))):
            digest.update(piece)
            size -= len(piece)
    return digest.digest()


def _check_datasets(file: Any, path: Path) -> None:
    """Refuse datasets that claim more than the file holds, or that lie in other files."""
    largest = path.stat().st_size

    def check(name: str, item: Any) -> None:
        if hasattr(item, "nbytes") and (
            item.nbytes > largest or item.is_virtual or item.external or item.compression
        ):
            raise ArtifactError(
                f"{path}: {name} claims {item.nbytes:,} bytes of a file of {largest:,}, or lies in "
                "another; make the file again"
            )

    file.visititems(check)


def _is_checked(path: Path) -> bool:
    return _checked.get(path.resolve()) == _state(path)


def _remember(path: Path) -> None:
    # a file may change again within one tick of its clock
    if time.time() - path.stat().st_mtime > 2:
        _checked[path.resolve()] = _state(path)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_ours(path: Path) -> bool:
    """Return whether a Parquet file was made by `write_parquet`.

    False for any that cannot be read.
    """
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
        raise ArtifactError(f"{path}: not a finished file of this library; make it again")
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
    """Return `{"digest", "provenance"}` of any file of a study.

    The payload is compared with the digest.

    Raises:
        ArtifactError: the file is missing, damaged, or of an unknown kind.
    """
    path = _existing(path)
    if path.suffix == ".json":
        document = _read_document(path)
        return {key: value for key, value in document.items() if key != "payload"}
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        read_parquet(path)
        with _naming(path):
            stamp: dict[str, Any] = json.loads(pq.read_schema(path).metadata[KEY.encode()])
        return stamp
    if path.suffix in (".safetensors", ".bundle"):
        tensors, about, provenance = read_tensors(path)
        return {"digest": _tensor_digest(tensors, about), "provenance": provenance}
    if path.suffix == ".h5":
        with reading_hdf5(path) as file:
            return hdf5_stamp(file, path)
    raise ArtifactError(
        f"{path}: not a kind of file this library writes; give .json .parquet .safetensors .bundle "
        ".h5"
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
            f"{path}: cannot be read ({reason}); correct the path, or make the file again"
        ) from error


def _existing(path: Path) -> Path:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - odd paths raise, too
            raise ArtifactError(f"{path}: not a file; correct the path")
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise ArtifactError(
                f"{str(path)[:300]}: cannot be read ({os.strerror(number)}); correct the path"
            ) from None
        raise ArtifactError(f"{path}: no such file; make it first, or correct the path") from None
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
        """Return the frame kept for `key`, or None; a damaged one counts as absent."""
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
