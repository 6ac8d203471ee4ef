"""Errors a user can mend. One line each: `<file or key>: <what is wrong>; <what to do>`.

The command line prints the line and exits 2 (`fasb/cli/border.py`); no traceback unless `--debug`
is given.
"""

import difflib
from collections.abc import Iterable


class FasbError(Exception):
    """Something the user gave is wrong; the message names it and the remedy."""

    def __init__(self, message: str) -> None:
        """Make one line of the message: a file's name, which it repeats, may hold line ends."""
        super().__init__(" ".join(message.splitlines()))


class ConfigError(FasbError):
    """A settings key or value is wrong."""


class DataError(FasbError):
    """A data file is missing, malformed, or does not hold what its use needs."""


class ArtifactError(FasbError):
    """A file of the study is missing, truncated, foreign or stale."""


class ModelError(FasbError):
    """A model cannot be loaded, or its layout is not known."""


class BundleError(FasbError):
    """A bundle does not fit the model it is attached to."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
