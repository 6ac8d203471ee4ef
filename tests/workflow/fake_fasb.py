"""Stands in for the `fasb` command: writes empty files where the real one would write results.

`jobs.json` beside it has, for each stage and target, the key that is expected and the files to
write. Each call appends its command to `calls.txt`. `REJECT=1` in the environment makes `accept`
fail.
"""

import json
import os
import sys
from pathlib import Path


def main(command: str, stage: str, *arguments: str) -> int:
    """The exit code."""
    *target, _, key = arguments
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{stage} {' '.join(arguments)}\n")
    jobs = json.loads(Path(__file__).with_name("jobs.json").read_text())
    expected, files = jobs[" ".join([stage, *target])]
    assert (command, key) == ("run", expected)
    if stage == "accept" and os.environ.get("REJECT"):
        sys.stderr.write("tiny: rejected, best head 60 below 72; see results/health/tiny.json\n")
        return 2
    for path in map(Path, files):
        path = path if path.suffix else path / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
