"""`make fuzz`: mutations of every kind of file, each read or refused in one line, in bounds.

Bounds: 20 seconds, and 2 GB more than the process had before. Run
`python tests/faults/fuzz.py 100000 [SEED]`; a table of what came out is printed, and every mutation
that was neither is kept with its error in `out-fuzz/`.
"""

import contextlib
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from mutations import of_bytes  # noqa: E402 - the folders above hold helpers
from readers import READERS, Reader  # noqa: E402

from fasb.artifacts import stamp_of  # noqa: E402
from fasb.errors import FasbError  # noqa: E402

SECONDS, MEMORY = 20, 2 * 2**30
OUT = Path("out-fuzz")


class TooLong(Exception):
    """A read that did not end in time."""


@dataclass
class Found:
    """What came of one reader's mutations."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)


def _alarm(*_: object) -> None:
    raise TooLong(f"no end after {SECONDS} s")


def outcome(reader: Reader, path: Path, digest: str | None) -> str:
    """`read`, `refused`, or what else happened; a digest must be that of the whole file."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except FasbError as error:
        line = str(error)
        return (
            "refused" if "\n" not in line and len(line) < 12_000 else f"not one line: {line[:300]}"
        )
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    if digest is not None and stamp_of(path)["digest"] != digest:
        return "read with another content than its checksum's"
    return "read"


def fuzz(reader: Reader, n: int, seed: int, folder: Path) -> Found:
    """Try n mutations of a reader's file, half of its bytes and half of its content."""
    rng, found = random.Random(f"{seed} {reader.name}"), Found()
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.write(path)
    reader.read(path)
    whole = path.read_bytes()
    digest = stamp_of(path)["digest"] if reader.sealed else None
    for i in range(n):
        of_content = rng.random() < 0.5
        path.write_bytes(whole)
        if not of_content:
            path.write_bytes(of_bytes(whole, rng))
        elif not reader.mutate(path, rng):
            found.counts["not written"] += 1
            continue
        start = time.monotonic()
        said = outcome(reader, path, None if of_content else digest)
        found.slowest = max(found.slowest, time.monotonic() - start)
        found.counts[said if said in ("read", "refused") else "wrong"] += 1
        if said not in ("read", "refused"):
            found.wrong.append(said)
            _keep(reader, path, i, said)
    return found


def _keep(reader: Reader, path: Path, i: int, said: str) -> None:
    OUT.mkdir(exist_ok=True)
    name = f"{reader.name}-{i}"
    shutil.copy(path, OUT / f"{name}{path.suffix}")
    (OUT / f"{name}.txt").write_text(said)


def main() -> int:
    """Spread the mutations over the readers, and print the table."""
    n, seed = int(sys.argv[1]), int((*sys.argv, "0")[2])
    import torch  # its libraries are mapped before the limit is set

    assert torch
    logging.disable()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    each, total = -(-n // len(READERS)), Counter()
    print(
        "| reader | tried | read | refused | wrong | slowest, s |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for reader in READERS:
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(reader, each, seed, Path(folder))
        counts = found.counts
        total += counts
        tried = each - counts["not written"]
        numbers = (tried, counts["read"], counts["refused"], counts["wrong"])
        shown = " | ".join(f"{number:,}" for number in numbers)
        print(f"| {reader.name} | {shown} | {found.slowest:.2f} |", flush=True)
    tried = total["read"] + total["refused"] + total["wrong"]
    print(f"| all | {tried:,} | {total['read']:,} | {total['refused']:,} | {total['wrong']:,} | |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nLargest memory: {peak:.1f} GB.")
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
