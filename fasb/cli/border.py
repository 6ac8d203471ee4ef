"""The border of the command line: whatever happens within is one line without, and nothing is lost.

In: the command as a call. Out: an exit code: 0, 2 for what the user can mend, 1 for a fault of this
program, whose traceback lies in a log, 130 for Ctrl-C.
"""

import contextlib
import os
import shlex
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import fasb
from fasb.errors import FasbError
from fasb.provenance import surroundings
from fasb.study.escaping import without_controls
from fasb.wholefiles import REMEDIES

PROGRAM = Path(fasb.__file__).parent
LOGS = Path("logs")
"""Where the workflow keeps its logs; a traceback lies there in the folder of a study."""
MEMORY = "lower decoding.batch, scoring.batch or activations.batch, or give the job more memory"


def guarded(command: Callable[[], Any], debug: bool) -> int:
    """Return the exit code of a command; with `debug` its errors are raised."""
    try:
        code = command()
    except click.ClickException as error:
        click.echo(without_controls(_usage(error)), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; finished parts are kept, and the same command goes on", err=True)
        return 130
    except Exception as error:
        if debug:
            raise
        known = line_of(error)
        # what it repeats of a file may hold terminal escapes
        click.echo(without_controls(known or _unexpected(error)), err=True)
        return 2 if known else 1
    # outside its standalone mode click returns the code of an `Exit` instead of raising it
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    """Return in one line what is wrong with a command's words, and where its own are listed."""
    told = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "fasb"
    return f"{command}: {told}; see '{command} --help'"


def line_of(error: Exception) -> str | None:
    """Return the line of an error that the user can mend, else None."""
    if isinstance(error, FasbError):
        return str(error)
    # torch's own class is a subclass of RuntimeError, and torch may not be imported yet
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({_first_line(error)}); {MEMORY}"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = error.filename or "a file that is written"
        return f"{where}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}"
    return None


def _unexpected(error: Exception) -> str:
    """Keep the traceback, and return the line that says where."""
    strangers = _in_file_of_strangers(error)
    with contextlib.suppress(OSError, UnicodeError):
        log = _write_log("".join(traceback.format_exception(error)))
        if strangers is not None:
            return f"{strangers}: {_first_line(error)}; mend it there; the traceback is in {log}"
        return (
            f"fasb: {_first_line(error)}: this is a fault of the program; please report it with "
            f"{log}, where the traceback is"
        )
    # no file can be written, so the traceback is kept on the terminal
    traceback.print_exception(error)
    return f"fasb: {_first_line(error)}: this is a fault of the program; please report it"


def _in_file_of_strangers(error: Exception) -> str | None:
    """Return file and line of an extension that failed; None if this program did.

    Libraries are passed over: who called them is asked.
    """
    standard = sysconfig.get_path("stdlib")
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PROGRAM):
            return None
        installed = {"site-packages", "dist-packages"} & set(file.parts)
        if file.is_file() and not installed and not file.is_relative_to(standard):
            return f"{file}:{line}"
    return None


def _write_log(text: str) -> Path:
    name = f"fasb-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    folder = LOGS if LOGS.is_dir() and os.access(LOGS, os.W_OK) else Path(tempfile.gettempdir())
    log = folder / name
    head = [f"{key}: {value}" for key, value in surroundings().items()]
    written = "\n".join([shlex.join(sys.argv), *head, text])
    # arguments may hold bytes that are no text
    log.write_text(written, encoding="utf-8", errors="backslashreplace")
    return log


def _first_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
