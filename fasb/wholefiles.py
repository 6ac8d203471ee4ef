"""Whole files: written whole or not at all, and what is wrong with one said in one line.

In: a path. Out: a path beside it to write to, which takes its place at the end. Knows no format.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fasb.errors import ArtifactError, FasbError, first_line

STALE = 24 * 3600
"""Seconds after which the half-written file of another machine counts as left behind."""


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
        if path.exists() and not path.is_file():
            # such as /dev/null, in whose place an administrator could put a file
            raise ArtifactError(f"{path}: no ordinary file; give the path of a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            part.touch()
            mode = stat.S_IMODE(
                part.stat().st_mode
            )  # as the umask says; some writers do not ask it
            yield part
            part.chmod(mode)
            # synced before it has its name, or a power cut may leave an empty file of that name
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
            # unlike a file, a folder that is not empty cannot be replaced in one step
            if path.exists():
                path.rename(scratch / "old")
            part.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def check_out(path: Path, *inputs: Any) -> None:
    """Refuse a path to write to before the work for it begins.

    inputs: what the work reads; what names no file is passed over.

    Raises:
        ArtifactError: it is one of the inputs, or a folder, or nothing can be written beside it.
    """
    for one in inputs:
        there = isinstance(one, str | Path) and Path(one).exists() and path.exists()
        if there and path.samefile(one):
            raise ArtifactError(f"{path}: is read by this command; write to another file")
    with contextlib.suppress(_Undo), writing(path):
        raise _Undo


class _Undo(Exception):
    """Leaves `writing` without writing."""


def _part(path: Path) -> Path:
    """Return where a file is written before it is whole; the name tells the process."""
    unique = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return path.parent / f".{_short(path)}.{unique}.part"


def _short(path: Path) -> str:
    """Return the beginning of a file's name, which with what is added has at most 255 bytes."""
    return os.fsencode(path.name)[:100].decode("utf-8", "ignore")


@cache
def _host() -> str:
    """Return a hash of the machine, or of the container on it, that process ids are of."""
    space = Path("/proc/self/ns/pid")
    name = socket.gethostname() + (str(space.readlink()) if space.exists() else "")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _sweep(path: Path) -> None:
    """Remove half-written files for `path` whose process is gone, or that are older than a day."""
    start = f".{_short(path)}."
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
        os.kill(int(found[2]), 0)  # signal 0 only asks
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
        # `filename` may be the number of a descriptor
        named = error.filename is not None and not isinstance(error.filename, int)
        about = not named or str(os.fsdecode(error.filename)).startswith(str(path.parent))
        return error.errno if about or str(path).startswith(str(error.filename)) else None
    said = str(error)
    return next((number for number in REMEDIES if os.strerror(number) in said), None)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one line that names it."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise ArtifactError(
            f"{path}: cannot be read ({reason}); correct the path, or make the file again"
        ) from error


def existing(path: Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        ArtifactError: it is missing, no file, or may not be read.
    """
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
