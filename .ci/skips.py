"""Exit 1 when a test of a JUnit report was skipped without a stated reason; list all skips."""

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(report: Path) -> int:
    """Return the exit code for one report."""
    silent = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - written by our own pytest
        for skip in case.iter("skipped"):
            name, reason = (
                f"{case.get('classname')}.{case.get('name')}",
                (skip.get("message") or "").strip(),
            )
            stated = bool(reason) and reason.lower() not in (
                "unconditional skip",
                "skipped",
                "expected test failure",
            )
            silent += not stated
            sys.stderr.write(f"skipped: {name}: {reason or 'no reason'}\n")
    if silent:
        sys.stderr.write(
            f"{report}: {silent} tests skipped without a reason; give pytest.skip a reason\n"
        )
    return int(silent > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
