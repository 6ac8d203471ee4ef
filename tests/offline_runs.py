"""Offline runs of Weights & Biases, read by the tool that wandb ships."""

import json
import subprocess
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def inspect(run: Path, *options: str) -> str:
    """What the tool that wandb ships says of an offline run: `wandb leet inspect --json`."""
    # the program behind that command, without the seconds that `wandb` takes to start
    file = ["--run-file", str(run), str(run.parents[1])]
    command = [get_core_path(), "leet", "inspect", "--json", *options, *file]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def summarised(run: Path) -> dict[str, Any]:
    """Config and summary of an offline run."""
    found: dict[str, Any] = json.loads(inspect(run, "--summary"))
    return found


def artifacts(run: Path) -> dict[str, dict[str, Any]]:
    """The artifacts of an offline run by name."""
    records = [json.loads(line) for line in inspect(run).splitlines()]
    found = [record["artifact"] for record in records if record["type"] == "artifact"]
    return {one["name"]: one for one in found}
