"""What is out of reach, and what goes wrong within the program itself."""

import contextlib
import io
import tempfile

from registry import fault, said

from fasb.cli.border import PROGRAM, guarded


@fault("a model of the hub, and no network")
def hub(folder):
    from huggingface_hub import errors

    from fasb.model.access import explained
    from fasb.settings import ModelSettings

    def call():
        with explained(ModelSettings(path="some/model")):
            raise errors.OfflineModeIsEnabled("out of reach")

    return said(call).partition(", or unset")[0]


def border(folder, error, file=PROGRAM / "some.py"):
    own = {"error": error}
    exec(compile("def command():\n    raise error", str(file), "exec"), own)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.chdir(folder):
            guarded(own["command"], debug=False)
    finally:
        tempfile.tempdir = before
    logs = list(folder.glob("fasb-*.log"))
    assert len(logs) == isinstance(error, KeyError)
    assert all("Traceback" in log.read_text() for log in logs)
    return shown.getvalue().strip()


@fault("an error that nobody foresaw", "the traceback, in the log")
def unforeseen(folder):
    return border(folder, KeyError("odd"))


@fault("an error in one's own extension", "the traceback, in the log")
def extension(folder):
    (folder / "mine.py").touch()
    return border(folder, KeyError("odd"), folder / "mine.py")


@fault("Ctrl-C", "finished parts; the same command goes on")
def interrupted(folder):
    return border(folder, KeyboardInterrupt())


@fault("no memory left", "finished parts; the same command goes on")
def memory(folder):
    return border(folder, MemoryError())


@fault("a full disk where a file is not the program's own", "finished parts")
def full(folder):
    return border(folder, OSError(28, "No space left on device", "a.log"))
