"""Control questions: everyday prompts that steering should leave as they are (docs/method.md X7).

In: a text file of one's own, or `controls.txt` beside this file. Out: prompts that tune, and
prompts that are held out for the report. They have no reference answers; what counts is what
changes.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fasb.data.protocol import plain_text
from fasb.errors import DataError
from fasb.textfiles import read_text

OWN = Path(__file__).with_name("controls.txt")
"""What is asked where no file is given."""


TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Controls:
    """Prompts that thresholds and guards are tuned on, and those held out."""

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]


def controls_of(path: str | Path | None = None) -> Controls:
    """Return the prompts of a file, one a line, every second one held out.

    Empty lines and lines that begin with # are passed over, as is a prompt that is there twice.

    Raises:
        DataError: the file is missing, no text but a table, or has fewer than two prompts.
    """
    path = OWN if path is None else Path(path)
    if path.suffix.lower() in TABLES:
        # its head, commas and answers would be read as prompts
        raise DataError(f"{path}: a table; give a text file with one question a line")
    # a line separator may stand within a question, as in JSON lines
    lines = [line.strip() for line in re.split(r"[\r\n]", read_text(path, DataError))]
    prompts: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            prompts.setdefault(plain_text(line), line)
    if len(prompts) < 2:
        raise DataError(
            f"{path}: {len(prompts)} control questions; give one a line, best 100 or more"
        )
    found = tuple(prompts.values())
    # in turn: neighbours in the library's own file are of one kind
    return Controls(found[::2], found[1::2])
