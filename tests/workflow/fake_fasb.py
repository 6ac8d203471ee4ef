"""Stands in for the `fasb` command: writes empty files where the real one would write results.

Each call appends its command to `calls.txt`. `REJECT=1` in the environment makes `health --check`
fail.
"""

import os
import sys
from itertools import pairwise
from pathlib import Path

FOLDERS = ("pretrain", "wandb")
PREFIXES = {
    "table": ("csv", "md", "tex"),
    "agreement": ("csv", "md", "tex"),
    "figure": ("pdf", "png", "csv"),
}


def main(command: str, *arguments: str) -> int:
    """The exit code."""
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{command} {' '.join(arguments)}\n")
    if command == "health" and "--check" in arguments and os.environ.get("REJECT"):
        sys.stderr.write("tiny: rejected, best head 60 below 72; see results/health/tiny.json\n")
        return 2
    for option, value in pairwise(arguments):
        if option == "--out" and command in PREFIXES:
            for suffix in PREFIXES[command]:
                write(Path(f"{value}.{suffix}"))
        elif option == "--bundles" or (option == "--out" and command in FOLDERS):
            write(Path(value) / "file")
        elif option in ("--out", "--out-mc", "--grid", "--summary"):
            write(Path(value))
    return 0


def write(path: Path) -> None:
    """An empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
