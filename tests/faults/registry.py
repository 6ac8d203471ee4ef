"""The faults that are tried: each is injected in its smallest form, and what is said is kept.

`test_faults.py` runs them all and compares docs/faults.md with what was said;
`python tests/faults/registry.py > docs/faults.md` writes that page.
"""

import importlib
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from fasb.errors import FasbError  # noqa: E402 - the folders above hold helpers

KINDS = {
    "damaged": "Damaged files",
    "restamped": "Altered files whose checksum was made anew",
    "texts": "Text, tables and templates",
    "ranges": "Numbers and settings",
    "places": "Disks, folders and paths",
    "killed": "Kills and runs at the same time",
    "elsewhere": "Hub and terminal",
}
"""Modules of this folder, and what the page calls them."""


@dataclass(frozen=True)
class Fault:
    """What was done, what is kept, and the function that does it; it returns what was said."""

    kind: str
    what: str
    kept: str
    run: Callable[[Path], str]


FAULTS: list[Fault] = []


def fault(what: str, kept: str = "nothing is written"):
    """Declare the function below as a fault of its module's kind."""

    def declare(run):
        FAULTS.append(Fault(run.__module__.rpartition(".")[2], what, kept, run))
        return run

    return declare


def said(call: Callable[[], object]) -> str:
    """The line of the error that a call raises; it must be one of ours."""
    try:
        call()
    except FasbError as error:
        return str(error)
    raise AssertionError("nothing was said")


def load_all() -> list[Fault]:
    """All faults, in the order of the page."""
    for kind in KINDS:
        importlib.import_module(kind)
    return FAULTS


def plain(line: str, folder: Path) -> str:
    """A line without what differs between machines and versions of libraries."""
    line = line.replace(f"{folder}/", "").replace(str(folder), ".")
    line = re.sub(r"fasb-\d+-\d+-\d+\.log", "fasb-….log", line)
    foreign = r"(cannot be read|not JSON|not YAML|not JSON that can be read) \(.*\);"
    line = re.sub(foreign, r"\1 (…);", line)
    line = re.sub(r"\(\W?Unable [^;]*\);", "(…);", line)  # HDF5's words
    line = line.replace("`", "'")
    return line.replace("|", "\\|")


HEAD = """# Faults

What was tried on purpose, what is said of it, and what is kept. Every row is injected again by
`tests/faults/`, in its smallest form, and this page is compared with what was said; `(…)` stands
for the words of another library. An error is one line with exit code 2; a fault of the program
itself is one line with exit code 1 and leaves its traceback in a log. `fasb verify FOLDER` looks
for damaged and stale files of a finished study.
"""
TAIL = Path(__file__).with_name("fuzzed.md")
"""What mutations came to when they were last tried; written by hand."""


def page(lines: dict[str, str]) -> str:
    """The page, of what was said by what was done."""
    parts = [HEAD]
    for kind, title in KINDS.items():
        parts.append(f"\n## {title}\n\n| done | said | kept |\n|---|---|---|\n")
        for one in FAULTS:
            if one.kind == kind:
                parts.append(f"| {one.what} | `{lines[one.what]}` | {one.kept} |\n")
    return "".join(parts) + "\n" + TAIL.read_text()


def main() -> None:
    """Write the page to standard output."""
    lines = {}
    for one in load_all():
        with tempfile.TemporaryDirectory() as folder:
            lines[one.what] = plain(one.run(Path(folder)), Path(folder))
    print(page(lines), end="")


if __name__ == "__main__":
    sys.modules["registry"] = sys.modules["__main__"]
    main()
