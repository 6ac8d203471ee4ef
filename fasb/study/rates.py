"""How long work takes: by the same jobs' own times, else by a measured rate, else at least so long.

In: work, the folder of Snakemake's benchmark files, and what `make bench` wrote (`live_over_limit`
with `tokens_per_s` and `parameters`, perhaps `tokens_per_s` of `extract_over_forward`). Out:
seconds, and what they rest on. A rate is carried to a model of another size in proportion to its
parameters. Knows no rule but by name.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fasb.errors import ArtifactError
from fasb.study.plan import BYTES, Work
from fasb.textfiles import parse_json, read_text
from fasb.wholefiles import naming

MEASURED = Path("benchmarks/results.json")
TIMING = Path("results/timing")
CASES = ("live_over_limit", "extract_over_forward")
Basis = Literal["timed", "rate", "bound", "unknown"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second, written and read, measured with a model of so many billion parameters."""

    parameters: float
    written: float
    read: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What a lower bound assumes of the device: bytes and operations per second, by its maker."""

    name: str
    bytes: float
    operations: float


MACHINES = {
    "cuda": Machine("one A100 of 80 GB (2.04 TB/s, 312 TFLOP/s)", 2.039e12, 312e12),
    "cpu": Machine("two channels of DDR5-4800 (76.8 GB/s)", 76.8e9, float("inf")),
}


@dataclass(frozen=True, slots=True)
class Held:
    """The model of a job: billion parameters, dtype, `cpu` or `cuda`, rows decoded together."""

    parameters: float
    dtype: str
    device: str
    batch: int


def kind_of(device: str) -> str:
    """`cpu`, or `cuda` for all else."""
    return "cpu" if device == "cpu" else "cuda"


def rates(path: Path = MEASURED) -> dict[str, Rate]:
    """Return the measured rate of each kind of device that was measured with a known model.

    Raises:
        ArtifactError: the file is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    with naming(path):
        payload = parse_json(read_text(path, ArtifactError), str(path), ArtifactError)["payload"]
        rows = payload["measured"]
        writing, reading = (rows.get(case, {}) for case in CASES)
        written = writing.get("tokens_per_s")
        n_parameters = writing.get("parameters", payload.get("parameters"))
        if written is None or n_parameters is None:
            return {}
        # where reading was not timed: it is no slower than writing
        read = reading.get("tokens_per_s", written)
        return {kind_of(payload["device"]): Rate(n_parameters / 1e9, written, read)}


def timed(rule: str, model: str, dataset: str, folder: Path = TIMING) -> float | None:
    """Mean seconds of the jobs that ran here: of this model and dataset where they are named."""
    place = folder.joinpath(*(part for part in (rule, model, dataset) if part))
    # names that are a whole target name a file, else a folder of files
    files = [*place.rglob("*.tsv"), *place.parent.glob(f"{place.name}.tsv")]
    seconds = [one["s"] for file in files if (one := read_timing(file)) is not None]
    return sum(seconds) / len(seconds) if seconds else None


def read_timing(path: Path) -> dict[str, float] | None:
    """Return a job's seconds `s` and MB of memory `max_rss`, NaN where unknown, from its timing.

    None where the file holds none: a job was killed, or a disk was full. No result depends on it.
    """
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        # Snakemake writes a head and a line of values, "-" for what it does not know
        try:
            values = next(csv.DictReader(file, delimiter="\t"), {})
        except csv.Error:
            return None
    memory = values.get("max_rss", "-")
    try:
        seconds = float(values["s"])
        known = {"s": seconds, "max_rss": math.nan if memory == "-" else float(memory)}
    except (KeyError, TypeError, ValueError):  # a line that was cut leaves None
        return None
    return known if 0 <= seconds < math.inf else None


def seconds(
    names: tuple[str, str, str], work: Work, held: Held | None, known: dict[str, Rate]
) -> tuple[float, Basis]:
    """Seconds of all jobs together, and what they rest on."""
    one = timed(*names)
    if one is not None:
        return one * work.jobs, "timed"
    if held is None or not (work.read or work.written):
        return 0.0, "unknown"
    rate = known.get(held.device)
    if rate is not None:
        larger = held.parameters / rate.parameters
        return larger * (work.written / rate.written + work.read / rate.read), "rate"
    machine = MACHINES[held.device]
    weights = held.parameters * 1e9 * BYTES[held.dtype]
    # a multiplication and an addition for each parameter and token
    operations = 2e9 * held.parameters * (work.read + work.written)
    # a step of a batch reads all weights once, whatever the number of rows
    least = weights * work.written / held.batch / machine.bytes + operations / machine.operations
    return least, "bound" if least else "unknown"
