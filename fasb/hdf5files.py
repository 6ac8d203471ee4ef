"""HDF5 files: sealed with a checksum of all their bytes, which is compared before they are parsed.

In: a path. Out: an open file, to fill or to read. Knows no dataset's meaning.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fasb.errors import ArtifactError
from fasb.provenance import KEY, checked_stamp, is_checked, remember, require_match, stamp_for
from fasb.wholefiles import existing, naming, writing

SEAL = b"FASBSEAL"
"""What stands before the checksum at the end of an HDF5 file.

The HDF5 library does not look there.
"""


@contextlib.contextmanager
def writing_hdf5(path: Path, made_by: dict[str, Any] | None = None) -> Iterator[Any]:
    """Give an HDF5 file to fill; on success it is stamped, sealed and takes its place at `path`."""
    import h5py

    with writing(path) as part:
        # unbuffered, so that an error comes up in the write that it is of
        with part.open("w+b", buffering=0) as raw:
            careful = _Careful(raw)
            with h5py.File(careful, "w") as file:
                yield file
                # before the digest, which reads back what was written
                careful.check()
                file.attrs[KEY] = json.dumps(stamp_for(_hdf5_digest(file), made_by))
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
                # a raw write may take less than it is given
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

    _check_lock(existing(path))
    _check_seal(path)
    with naming(path):
        # nobody changes a file in place, and some file systems of clusters know no locks
        file = h5py.File(path, "r", locking=False)
    with file:
        with naming(path):
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
    with naming(path):
        if is_checked(path):
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
        require_match(path, end.removeprefix(SEAL).hex(), _bytes_digest(path, size).hex())
        remember(path)


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
        # nothing of ours is compressed, so no dataset is larger than its file
        if hasattr(item, "nbytes") and (
            item.nbytes > largest or item.is_virtual or item.external or item.compression
        ):
            raise ArtifactError(
                f"{path}: {name} claims {item.nbytes:,} bytes of a file of {largest:,}, or lies in "
                "another; make the file again"
            )

    def check_link(name: str, link: Any) -> None:
        import h5py

        if not isinstance(link, h5py.HardLink):
            raise ArtifactError(f"{path}: {name} is a link elsewhere; make the file again")

    file.visititems_links(check_link)
    file.visititems(check)


def hdf5_stamp(file: Any, path: Path) -> dict[str, Any]:
    """Digest and provenance of an open HDF5 file.

    Raises:
        ArtifactError: the file is not one of ours or was not finished.
    """
    if KEY not in file.attrs:
        raise ArtifactError(f"{path}: not a finished file of this library; make it again")
    return checked_stamp(json.loads(file.attrs[KEY]))


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
                # texts are objects, of which the array holds pointers alone
                digest.update(
                    repr(block.tolist()).encode()
                    if block.dtype == object
                    else np.ascontiguousarray(block).data
                )
    return digest.hexdigest()
