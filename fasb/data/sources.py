"""Where a published set's files come from, and what it takes to turn their rows into questions.

In: a folder, or a repository of the hub, and file patterns. Out: rows as mappings, and `Question`s
of choices. A downloaded repository is a folder too, so both ways read the same files with the same
code. The revision that was resolved and the files' checksums are recorded by `origin`. Knows no
set; each set's module says what it needs.
"""

import hashlib
import os
import re
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from fasb.data.protocol import Question, check_questions
from fasb.data.table import parquet_rows
from fasb.errors import ConfigError, DataError
from fasb.provenance import content_hash, contents_of
from fasb.settings import Section
from fasb.textfiles import csv_table, json_lines, parse_json, read_text
from fasb.wholefiles import writing

PARQUET_COPY = "refs/convert/parquet"
"""Where the hub keeps a Parquet copy of a repository whose own files are made by a script."""

LETTERS = "ABCD"

CHOICE_PROMPT = {
    "question": "{question}",
    "open": "",
    "answer": " {answer}",
    "probe": "{question} {answer}",
    "next_question": "\n\n{next}",
}
"""Prompt settings of the choice tasks: a question's text is the whole prompt, up to where the label
word follows."""


class Source(Section):
    """Where the files of a published set are."""

    path: str | None = Field(
        None, description="Folder with the files ($VARIABLES are filled in); unset: `hub`"
    )
    hub: str = Field(description="Dataset repository on the hub")
    revision: str | None = Field(
        None, description="Commit of `hub`; unset: the newest, which is then recorded"
    )


class ChoiceSource(Source):
    """A set whose questions are choices between labels."""

    wording: str | None = Field(
        None, description="A file with other wording, same places; unset: this library's"
    )


def parquet(config: str, split: str) -> tuple[str, ...]:
    """Return patterns of one split's Parquet files, as repositories of the hub name them."""
    own = () if config != "default" else (f"data/{split}-*.parquet", f"{split}-*.parquet")
    return (*own, f"{config}/{split}-*.parquet", f"{config}/{split}/*.parquet")


def files(source: Source, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """Return the files of each wanted part.

    They match the first of its patterns that any file matches.

    Raises:
        DataError: the folder or a part is missing, or the hub cannot give it.
    """
    return {part: found for part, (_, found) in _located(source, wanted).items()}


def origin(module: Any, source: Any) -> dict[str, Any]:
    """Return what a set was read from, for provenance.

    That is a folder or repository, the resolved commit, and the SHA-256 of each file.

    Its module says which files, by `wanted(settings)` or in `FILES`; without either nothing is
    known.
    """
    wanted = module.wanted(source) if hasattr(module, "wanted") else getattr(module, "FILES", None)
    if wanted is None or not isinstance(source, Source):
        return {}
    located = _located(source, wanted)
    folder = next(iter(located.values()))[0]
    sums = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for _, found in located.values()
        for path in found
    }
    if source.path is not None:
        return {"path": str(folder), "files": sums}
    return {"hub": source.hub, "revision": folder.name, "files": sums}


def digests(module: Any, settings: Any) -> dict[str, str]:
    """Return a hash of each local file that a module reads, by its path.

    Its module says which, by `local_files(settings)`; of a published set they are those of `path`,
    and what other settings name, as `wording` does.
    Empty where they are the hub's, whose commit the settings name, and where one is missing: who
    reads it says so.
    """
    try:
        if hasattr(module, "local_files"):
            found = {path.as_posix(): _sha256(path) for path in module.local_files(settings)}
        elif getattr(settings, "path", None) is not None:
            found = origin(module, settings).get("files", {})
        else:
            found = {}
    except (DataError, OSError):
        return {}
    for key, value in settings.model_dump().items():
        content = contents_of(value) if key != "path" and isinstance(value, str) else []
        if content:
            found.setdefault(value, content_hash(content))
    return found


def _sha256(path: Path) -> str:
    about = path.stat()
    return _read_sha256(path, about.st_size, about.st_mtime_ns)


@cache
def _read_sha256(path: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file as it was then; a job asks for it more than once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _located(
    source: Source, wanted: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Path, list[Path]]]:
    """Return folder and files of each part."""
    patterns = [pattern for group in wanted.values() for pattern in group]
    if source.path is not None:
        folders = [_folder(source.path)]
    else:
        folders = [_snapshot(source.hub, source.revision, patterns)]
        # only where no commit is named: the copy has commits of its own
        if source.revision is None and not all(
            _matching(folders[0], group) for group in wanted.values()
        ):
            folders.append(_snapshot(source.hub, PARQUET_COPY, patterns))
    # all parts from one folder, so that two revisions never mix
    for folder in folders:
        found = {part: (folder, _matching(folder, group)) for part, group in wanted.items()}
        if all(paths for _, paths in found.values()):
            return found
    missing = next(group for part, group in wanted.items() if not found[part][1])
    remedy = "correct the path" if source.path is not None else "set `path` to a folder that has it"
    raise DataError(f"{source.path or source.hub}: no file {' or '.join(missing)}; {remedy}")


def _folder(path: str) -> Path:
    filled = os.path.expandvars(path)
    # `expandvars` leaves a variable that is not set as it stands
    unset = re.search(r"\$\{?(\w+)", filled)
    if unset:
        raise DataError(
            f"{path}: the environment variable {unset[1]} is not set; set it, or write the folder "
            "out"
        )
    if not filled.strip():
        raise DataError(
            f"path: {path!r} is empty once its variables are filled in; set them, or write the "
            "folder out"
        )
    folder = Path(filled).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path, or leave it out to download")
    return folder


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return next((paths for pattern in patterns if (paths := sorted(folder.glob(pattern)))), [])


def _snapshot(hub: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the folder, in which the hub's library keeps files.

    Its name is the commit; it holds the files that match.
    """
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
            )
        )
    except Exception as error:  # network, gating, names and disk all have kinds of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{hub}: cannot be downloaded ({reason[:200]}); connect to the network, or set `path` "
            "to a folder with it"
        ) from error


def download(address: str, sha256: str, path: str | None = None, names: Sequence[str] = ()) -> Path:
    """Return a published file whose content is pinned.

    It is taken from the folder `path` under one of `names`, else from its address.

    Downloads are kept in `$XDG_CACHE_HOME/fasb` (`~/.cache/fasb`).

    Raises:
        DataError: it is in neither place, or its content is not the pinned one.
    """
    if path is not None:
        folder = _folder(path)
        local = _matching(folder, names)
        if not local:
            raise DataError(f"{folder}: no file {' or '.join(names)}; get it from {address}")
        return _pinned(local[0], sha256, f"get it from {address}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fasb"
    kept = cache / sha256[:12] / address.rpartition("/")[2]
    if not kept.is_file():
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - our own
                content = answer.read()
        except OSError as error:
            raise DataError(
                f"{address}: cannot be downloaded ({error}); connect to the network, or set `path` "
                "to a folder with it"
            ) from error
        with writing(kept) as part:
            part.write_bytes(content)
    # compared each time: a file in a cache may have changed since it was fetched
    return _pinned(
        kept,
        sha256,
        "delete it; if that does not help, its address holds another version: set `path`",
    )


def _pinned(path: Path, sha256: str, remedy: str) -> Path:
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise DataError(f"{path}: not the published file (its SHA-256 differs); {remedy}")
    return path


def rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the rows of Parquet, CSV, TSV, JSON or JSONL files, one after the other.

    CSV fields stay text.

    Raises:
        DataError: naming the file that cannot be read.
    """
    read: list[dict[str, Any]] = []
    for path in paths:
        read += _rows(path)
    return read


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet_rows(path)
    if path.suffix == ".jsonl":
        return [row for _, row in json_lines(path, DataError)]
    if path.suffix == ".json":
        listed = parse_json(read_text(path, DataError), str(path), DataError)
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            raise DataError(f"{path}: not a list of mappings; get the file again")
        return listed
    return list(csv_table(path, DataError, tabs=path.suffix == ".tsv")[1])


def field(row: dict[str, Any], *names: str) -> Any:
    """Return the first of these fields that the row has; versions of a set name them differently.

    Raises:
        DataError: it has none of them.
    """
    for name in names:
        if name in row:
            return row[name]
    raise DataError(
        f"{names[0]}: no such field, the rows have {', '.join(map(str, row))}; get another version"
    )


def wording(settings: ChoiceSource, task: str) -> str:
    """Return the task's prompt with places for a row's fields.

    The line break at its end is left out.
    """
    if settings.wording is None:
        return (
            resources.files("fasb.data")
            .joinpath("templates", f"{task}.txt")
            .read_text(encoding="utf-8")
            .rstrip()
        )
    return read_text(Path(settings.wording), ConfigError).rstrip()


def label(row: dict[str, Any], n: int, *names: str, least: int = 0) -> int:
    """Return which of `n` labels a row has, from 0 on; the file counts them from `least` on.

    Raises:
        DataError: it has none of them, as in test files whose labels are not public.
    """
    value = field(row, *names)
    known = [str(number) for number in range(least, least + n)]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with a gap is of floats
    if str(value).strip() not in known:
        raise DataError(
            f"{names[0]}: {value!r} is none of {', '.join(known)}; use a copy with labels"
        )
    return int(value) - least


def each(
    where: Path,
    found: Iterable[dict[str, Any]],
    question: Callable[[int, dict[str, Any]], Question | None],
) -> list[Question]:
    """Return the question of each row, given with its number; where it is None, there is none.

    Raises:
        DataError: naming file and row that lacks a field, or where something else stands in it.
    """
    questions = []
    for number, row in enumerate(found):
        try:
            made = question(number, row)
        except DataError as error:
            raise DataError(f"{where}: row {number + 1}: {error}") from None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{where}: row {number + 1} is none of this set ({reason}); get the file again"
            ) from None
        if made is not None:
            questions.append(made)
    return questions


def choice(
    name: str, prompt: str, labels: Sequence[str], right: int, about: tuple[str, str]
) -> Question:
    """Return a question whose answers are label words; `about` is its group and its role."""
    group, role = about
    wrong = tuple(label for i, label in enumerate(labels) if i != right)
    return Question(
        name, prompt, (labels[right],), wrong, best=labels[right], group=group, role=role
    )


def fit_and_test(
    source: ChoiceSource,
    task: str,
    wanted: Mapping[str, Sequence[str]],
    question: Callable[..., Question | None],
    fit_rows: int | None = None,
) -> list[Question]:
    """Return the questions of a task with files to fit on and to test on, in this order.

    Where `question` gives None, the row is left out.

    `question` is given a row's number in its file, the row, `fit` or `test`, and the wording.

    Raises:
        DataError: a file is missing or malformed.
    """
    template, found = wording(source, task), files(source, wanted)
    made: dict[str, list[Question]] = {}
    for role, n in (("fit", fit_rows), ("test", None)):
        made[role] = each(
            found[role][0], rows(found[role])[:n], partial(question, role=role, wording=template)
        )
    questions = apart(made["fit"], made["test"])
    check_questions(questions, str(found["fit"][0]))
    return questions


def apart(fit: Sequence[Question], test: Sequence[Question]) -> list[Question]:
    """Both, without the rows to fit on whose group is also tested.

    Vectors never see a test question.
    """
    tested = {question.group for question in test}
    return [*(question for question in fit if question.group not in tested), *test]
