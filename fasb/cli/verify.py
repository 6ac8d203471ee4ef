"""Commands about files: whether they are whole and fresh, and what makes them again."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from fasb.errors import ArtifactError, ConfigError


@click.command(
    "verify", epilog="Example: fasb verify my.bundle results/middle-s2/middle-s2/seed0/*"
)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
def verify_command(files: tuple[Path, ...]) -> None:
    """Check files against their own checksums and say what made them, one line each.

    Of a folder `results/`, check every file of its study too: inputs, settings, code and schema;
    one line for each that is damaged, stale or missing. Exit code 2 if any is.
    """
    wrong = 0
    for file in files:
        wrong += _verify_folder(file) if file.is_dir() else _verify_file(file)
    if wrong:
        sys.exit(2)


def _verify_file(file: Path) -> int:
    from fasb.artifacts import stamp_of

    try:
        stamp = stamp_of(file)
    except ArtifactError as error:
        click.echo(_one_line(str(error)), err=True)
        return 1
    known = f"{file}: ok, {stamp['digest'][:12]}, {_provenance(stamp['provenance'])}"
    click.echo(_one_line(known))
    return 0


def _verify_folder(root: Path) -> int:
    from fasb.study.verify import verify_folder

    found = list(verify_folder(root))
    for one in found:
        click.echo(_one_line(f"{one.path}: {one.told}"), err=one.wrong)
    wrong = len({one.path for one in found if one.wrong})
    said = f"{wrong} files are damaged, stale or missing" if wrong else "every file is ok"
    click.echo(f"{root}: {said}")
    return wrong


@click.command("explain", epilog="Example: fasb explain results/tables/main.csv")
@click.argument("file", type=click.Path(path_type=Path))
def explain_command(file: Path) -> None:
    """Print the inputs that made FILE, and the commands that make it again from nothing.

    What is no command stands behind `#`, so that the output is a script. A file of a study is named
    from where `./study` runs; a bundle of 'fasb fit' may lie anywhere.
    """
    from fasb.artifacts import SEALED, stamp_of
    from fasb.study.stage import TRAINING

    made_by: dict[str, Any] = {}
    # of the files of a trained model's folder one speaks for all
    told = file.parent / TRAINING if (file.parent / TRAINING).is_file() else file
    # of a folder, or what lost its receipt, the study alone says what makes it
    receipt = told.name and told.with_suffix(".json").is_file()
    if told.suffix in (".bundle", *SEALED) or receipt:
        try:
            stamp = stamp_of(told)
        except ArtifactError as error:
            # what is missing or damaged is what most needs to be made again
            if not _is_below_results(file):
                raise
            click.echo(_one_line(f"# {error}"))
        else:
            made_by = stamp["provenance"]
            click.echo(_one_line(f"# {told}: {stamp['digest'][:12]}, {_provenance(made_by)}"))
    by_fit = all(isinstance(made_by.get(key), str) for key in ("model", "data"))
    for line in _fit_lines(file, made_by) if by_fit else _study_lines(file, made_by):
        click.echo(line)


@click.command("crate", epilog="Example: fasb crate results")
@click.argument("folder", type=click.Path(path_type=Path))
def crate_command(folder: Path) -> None:
    """Describe a study's results for an archive: an RO-Crate, written into FOLDER.

    For every job whose files are there it names the command, settings, inputs, outputs and
    software, so that others can tell what made which file. Needs the extra `crate`.
    """
    from fasb.study.crate import write_crate

    click.echo(str(write_crate(folder)))


def _one_line(text: str) -> str:
    """Return text that holds what a file says of itself as one line: it may hold anything."""
    from fasb.study.escaping import without_controls

    return without_controls(" ".join(text.split()))


def _fit_lines(file: Path, made_by: dict[str, Any]) -> list[str]:
    """Return the command of a bundle that `fasb fit` wrote, behind the files that it read."""
    from fasb.provenance import content_hash, content_of

    lines = []
    for name, digest in made_by.get("inputs", {}).items():
        same = content_hash(content_of(name)) == digest
        told = "as it was" if same else "is gone, or another than it was fitted to"
        lines.append("#   " + _one_line(f"{name} {told}"))
    command = ["fasb", "fit", "--model", made_by["model"], "--data", made_by["data"]]
    settings = made_by.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    more = ["--settings", json.dumps(settings, sort_keys=True)] if settings else []
    return [*lines, shlex.join([*command, "--out", str(file), *more])]


def _study_lines(file: Path, made_by: dict[str, Any]) -> list[str]:
    from fasb.study.jobs import read_study
    from fasb.study.verify import RESULTS, chain, inputs_of

    if not _is_below_results(file):
        raise ConfigError(
            f"{file}: of no study here, and no bundle of 'fasb fit'; change to where ./study "
            "runs, or see 'fasb show' for a bundle that was saved from Python"
        )
    inputs = inputs_of(RESULTS, made_by)
    lines = ["#   " + _one_line(f"{name} {told or 'as it was'}") for name, told in inputs]
    name = str(_absolute(file).relative_to(Path.cwd()))
    return lines + [one.command for one in chain(read_study(), name)]


def _is_below_results(file: Path) -> bool:
    from fasb.study.verify import RESULTS

    return _absolute(file).is_relative_to(Path.cwd() / RESULTS)


def _absolute(file: Path) -> Path:
    # links stay as they are: results/ may be one to another disk
    return Path(os.path.normpath(file.absolute()))


def _provenance(made_by: dict[str, Any]) -> str:
    """Version, commit, hardware, then what the maker added, in one line."""
    from fasb.provenance import content_hash

    versions = made_by.get("versions", {})
    commit = made_by.get("commit") or "no commit"
    hardware = made_by.get("hardware", {})
    # `+` at a commit's end: files differed from it
    parts = [f"fasb {versions.get('fasb')} ({commit[:12]}{'+' if commit.endswith('+') else ''})"]
    if versions.get("torch"):
        parts.append(f"torch {versions['torch']}")
    parts.append(str(hardware.get("gpu") or f"{hardware.get('cpus')} CPUs"))
    for key in sorted(made_by.keys() - {"versions", "commit", "hardware"}):
        value = made_by[key]
        # settings and inputs are whole mappings: their hash tells whether two files agree in them
        short = content_hash(value)[:8] if isinstance(value, dict) else value
        parts.append(f"{key} {short}")
    return ", ".join(parts)
