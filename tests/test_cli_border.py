"""Whatever goes wrong within a command: one line, a right exit code, and a log where it helps."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fasb.cli import main
from fasb.cli.border import PROGRAM, guarded, line_of
from fasb.errors import DataError


def raising(error, file=PROGRAM / "some.py"):
    """A command that fails in a file, which is the program's unless it is named."""
    own = {"error": error}
    exec(compile("def command():\n    raise error", str(file), "exec"), own)
    return own["command"]


def test_a_fault_of_the_program_is_one_line_and_its_traceback_lies_in_a_log(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert guarded(raising(KeyError("gone\nand more")), debug=False) == 1
    line = capsys.readouterr().err
    (log,) = tmp_path.glob("fasb-*.log")
    assert line.count("\n") == 1
    assert line.startswith("fasb: KeyError: ")
    assert f"please report it with {log}" in line
    assert "Traceback (most recent call last)" in log.read_text()
    assert "versions: " in log.read_text()


def test_a_fault_of_an_extension_names_its_file_and_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "mine.py").touch()
    assert guarded(raising(KeyError("gone"), tmp_path / "mine.py"), debug=False) == 1
    (log,) = tmp_path.glob("fasb-*.log")
    line = capsys.readouterr().err
    assert line == (
        f"{tmp_path / 'mine.py'}:2: KeyError: 'gone'; mend it there; the traceback is in {log}\n"
    )
    # what a library raises is the fault of who called it

    def calling_a_library():
        return json.loads("{")

    assert guarded(calling_a_library, debug=False) == 1
    assert capsys.readouterr().err.startswith(f"{__file__}:")


def test_what_an_error_repeats_is_no_command_of_the_terminal(capsys):
    guarded(raising(DataError("key \x1b[2Ja: unknown; remove it")), debug=False)
    assert capsys.readouterr().err == "key [2Ja: unknown; remove it\n"


@pytest.mark.parametrize("command", ["show", "verify", "explain"])
def test_a_line_end_in_a_name_makes_no_second_line(command):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, command, "no\n\x1b[2Jsuch.bundle"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("no [2Jsuch.bundle: no such file; ")
    assert done.stderr.count("\n") == 1


def test_in_the_folder_of_a_study_the_log_lies_beside_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    guarded(raising(RuntimeError("odd")), debug=False)
    (log,) = tmp_path.glob("logs/fasb-*.log")
    assert f"report it with logs/{log.name}" in capsys.readouterr().err


def test_where_no_log_can_be_written_the_traceback_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert guarded(raising(RuntimeError("odd")), debug=False) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("fasb: RuntimeError: odd: this is a fault")


def test_with_debug_every_error_is_raised():
    for error in (DataError("x: bad; mend"), RuntimeError("odd")):
        with pytest.raises(type(error)):
            guarded(raising(error), debug=True)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("x: bad; mend"), "x: bad; mend"),
        (OSError(errno.ENOSPC, "", "a.h5"), "a.h5: No space left on device; free space there"),
        (OSError(errno.EROFS, ""), "a file that is written: Read-only file system; choose"),
        (MemoryError("8 GB"), "out of memory (MemoryError: 8 GB); lower decoding.batch"),
    ],
)
def test_what_the_user_can_mend_is_exit_code_2_and_no_fault(error, line, capsys):
    assert guarded(raising(error), debug=False) == 2
    assert capsys.readouterr().err.startswith(line)


def test_other_errors_of_the_system_are_faults():
    assert line_of(OSError(errno.EBADF, "odd")) is None


def test_codes_of_commands_and_usage_come_through(capsys):
    assert guarded(lambda: None, debug=False) == 0
    assert guarded(lambda: 2, debug=False) == 2
    assert guarded(raising(click.UsageError("no such option")), debug=False) == 2
    assert "no such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep", "zig"], "fasb sweep: No such command 'zig'; see 'fasb sweep --help'"),
        (["zig"], "fasb: no command 'zig'; known: "),
        (["show"], "fasb show: Missing argument 'BUNDLE'; see 'fasb show --help'"),
        (["show", "--jsn", "x"], "fasb show: No such option '--jsn'"),
    ],
)
def test_wrong_words_are_one_line(words, line, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fasb", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(line)
    assert "--help'" in told


def test_ctrl_c_is_one_line(capsys):
    for stopped in (KeyboardInterrupt(), click.Abort()):
        assert guarded(raising(stopped), debug=False) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["stopped; finished parts are kept, and the same command goes on"] * 2


MAIN = "import sys; from fasb.cli import main; sys.argv[0] = 'fasb'; main()"


def fasb(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, **options
    )


def test_a_pipe_that_is_closed_is_no_error():
    writer = subprocess.Popen(
        [sys.executable, "-c", MAIN, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer.stdout.read(10)
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    writer.wait()
    assert said == b""


def test_ctrl_c_in_a_process_leaves_with_130(tmp_path):
    code = (
        "import click, signal, sys, time; import fasb.cli as cli\n"
        # a shell lets what runs in the background ignore Ctrl-C, which is inherited
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "@click.command()\n"
        "def slow(): print('now', flush=True); time.sleep(60)\n"
        "cli.group.get_command = lambda *_: slow\n"
        "sys.argv = ['fasb', 'slow']; cli.main()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run.stdout.readline()
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines()[-1].startswith("stopped; ")
    assert "Traceback" not in said


PLAN = ("plan",)


@pytest.mark.parametrize("arguments", [("schema",), PLAN, ("--help",), ("verify", "--help")])
def test_no_command_writes_escapes_where_there_is_no_terminal(arguments):
    root = Path(__file__).parents[1]
    surroundings = {**os.environ, "COLUMNS": "40", "NO_COLOR": "1", "TERM": "dumb"}
    run = fasb(*arguments, cwd=root, env=surroundings, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout + run.stderr
    assert "…" not in run.stdout
