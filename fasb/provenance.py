"""Provenance: what made a file, and whether its content is still what was written.

In: what a stage says of itself. Out: the stamp that every format holds, hashes of settings and of
weights. Knows no format.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from fasb.errors import ArtifactError

KEY = "fasb"
"""Metadata key under which every format holds `{"digest": …, "provenance": …}`."""

# the default is never changed, only replaced
_made_by: ContextVar[dict[str, Any]] = ContextVar("made_by", default={})  # noqa: B039

WHOLE, BLOCKS, BLOCK = 2**26, 2**10, 2**16
"""Bytes up to which a local file is hashed whole; of a larger one blocks of so many bytes are."""

WEIGHTS = frozenset((".safetensors", ".bin", ".gguf"))
OF_MODELS = WEIGHTS | {".json", ".jinja", ".model", ".txt", ".py"}
"""Files of a model's folder: weights, config, tokenizer, chat template and code."""
TOKENIZER = frozenset(("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))

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


def content_hash(value: Any) -> str:
    """Return 16 hex digits of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def content_of(model: str) -> list[tuple[str, str]]:
    """Return name and hash of a file, or of each file of a local model that says what it answers.

    Of a file beyond `WHOLE` bytes its size, its beginning and blocks spread over it are hashed: so
    many bytes are read of it, however large it is. A load compares a hash of all rows besides.

    Empty for a hub id: there the revision says which weights they are.
    """
    found = []
    for file in _files_of(Path(model)) if model else []:  # "" is no path, not the working folder
        stat = file.stat()
        found.append((file.name, _sampled(file.resolve(), stat.st_size, stat.st_mtime_ns)))
    return found


def _files_of(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        inside = [*path.glob("*"), *path.glob("additional_chat_templates/*.jinja")]
        files = sorted(file for file in inside if file.suffix in OF_MODELS)
        files = [file for file in files if file.is_file()]  # no folder, no dangling link
    except OSError:  # a text that is too long for a name
        return []
    # other folders hold .json and .txt too; one with a tokenizer may have no weights
    ours = any(file.suffix in WEIGHTS or file.name in TOKENIZER for file in files)
    return files if ours else []


def contents_of(settings: Any) -> list[list[tuple[str, str]]]:
    """Return the content of every local file or model that settings name, in the keys' order."""
    if isinstance(settings, Mapping):
        return [one for key in sorted(settings) for one in contents_of(settings[key])]
    if isinstance(settings, list | tuple):
        return [one for value in settings for one in contents_of(value)]
    found = content_of(os.path.expandvars(settings)) if isinstance(settings, str) else []
    return [found] if found else []


@cache
def _sampled(path: Path, size: int, mtime_ns: int) -> str:
    """Return 16 hex digits of a file's content; the same process does not read it twice."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        for i in range(BLOCKS if size > WHOLE else 0):
            # the first is the header, the last ends with the file
            file.seek((size - BLOCK) * i // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


@cache
def surroundings() -> dict[str, Any]:
    """Versions, commit and hardware, the same for all that one process writes."""
    packages = ("fasb", "torch", "transformers", "scikit-learn", "numpy", "h5py")
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in packages},
        "commit": _commit(),
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "gpu": _gpu(),
        },
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
            "--no-optional-locks",  # killed at its time limit, it would leave a lock behind
            "-C",
            str(folder),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty=+",
            "--exclude=*",  # no tags
        ]
        return subprocess.run(
            run, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str | None:
    """Return the processor's name and its widest vectors; None where the system does not say.

    Sums are rounded in another order on another one, and a training ends at another model.
    """
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    name = re.search(r"^model name\s*: (.+)$", told, re.MULTILINE)
    widest = [vectors for vectors in ("avx512f", "avx2") if re.search(rf"\b{vectors}\b", told)]
    return " ".join([*([name[1]] if name else []), *widest[:1]]) or None


def _gpu() -> str | None:
    # torch is not imported for this alone
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def stamp_for(digest: str, made_by: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is kept beside a payload: its digest, and what made it."""
    return {
        "digest": digest,
        "provenance": {**surroundings(), **_made_by.get(), **(made_by or {})},
    }


def checked_stamp(stamp: Any) -> dict[str, Any]:
    """Return the stamp that a file holds, if it is one.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(stamp, dict) or not isinstance(stamp.get("digest"), str):
        raise ValueError("its stamp holds no digest")
    provenance = stamp.get("provenance")
    if not isinstance(provenance, dict):
        raise ValueError("its stamp holds no provenance")
    for key in ("versions", "hardware", "inputs"):
        if not isinstance(provenance.get(key, {}), dict):
            raise ValueError(f"{key} in its provenance is no mapping")
    if not isinstance(provenance.get("commit"), str | None):
        raise ValueError("commit in its provenance is no text")
    return stamp


def require_match(path: Path, recorded: str, found: str) -> None:
    """Raise ArtifactError, naming the file, where two digests differ."""
    if recorded != found:
        raise ArtifactError(
            f"{path}: content does not match its checksum; delete it and make it again"
        )


def is_checked(path: Path) -> bool:
    """Return whether this process has compared the file, as it is now, with its checksum."""
    return _checked.get(path.resolve()) == _state(path)


def remember(path: Path) -> None:
    """Note that a file was compared with its checksum."""
    # a file may change again within one tick of its clock
    if time.time() - path.stat().st_mtime > 2:
        _checked[path.resolve()] = _state(path)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
