"""MMLU: four options on school and professional subjects (docs/method.md 4).

In: one CSV per subject and split, as the release or with a header, or the hub's copy. Out:
questions labelled A-D: development and validation rows to fit on, test rows to test on. With `rows:
released` the first 501 test rows of a subject are fitted on *and* tested on, as in the program that
the paper's numbers probably come from: a leak, kept only to measure what it is worth.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size, check_questions
from fasb.errors import DataError, did_you_mean
from fasb.textfiles import csv_rows

FILES = {
    split: (f"*_{split}.csv", f"{split}/*_{split}.csv", *sources.parquet("all", name))
    for split, name in (("dev", "dev"), ("val", "validation"), ("test", "test"))
}

RELEASED = 501
"""Rows of each subject in the released variant."""

SIZE = Size(fit=1816, test=14042, answers=63432, answer=1)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where MMLU is, and which rows are for what."""

    hub: str = "cais/mmlu"
    subjects: tuple[str, ...] = Field((), description="Only these, such as astronomy; empty: all")
    fit: tuple[Literal["dev", "val"], ...] = Field(
        ("dev", "val"), min_length=1, description="Splits to fit on"
    )
    rows: Literal["separate", "released"] = Field(
        "separate",
        description="Fit on `fit` and test on test rows, or both on the same rows (a leak)",
    )


def load(settings: Settings) -> list[Question]:
    """Return the questions: rows to fit on, then rows to test on, in the files' order.

    Raises:
        DataError: a file is missing or malformed, or a subject does not exist.
    """
    found = sources.files(settings, wanted(settings))
    wording, where = sources.wording(settings, "mmlu"), found["test"][0]
    rows = {
        split: _chosen(_rows(paths, split), settings.subjects, str(paths[0]))
        for split, paths in found.items()
    }
    if settings.rows == "released":
        same = [row for row in rows["test"] if row["number"] < RELEASED]
        # another group for the copies to fit on, else the leak would be refused
        questions = [
            question
            for role in ("fit", "test")
            for question in _questions(where, same, role, f"{role}: ", wording)
        ]
    else:
        fit = [row for split in settings.fit for row in rows[split]]
        questions = sources.apart(
            _questions(found[settings.fit[0]][0], fit, "fit", "", wording),
            _questions(where, rows["test"], "test", "", wording),
        )
    check_questions(questions, str(where))
    return questions


def wanted(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return file patterns of each part."""
    fit = settings.fit if settings.rows == "separate" else ()
    return {split: FILES[split] for split in (*fit, "test")}


def _chosen(
    rows: list[dict[str, Any]], subjects: tuple[str, ...], where: str
) -> list[dict[str, Any]]:
    """Return the rows of some subjects, all if none is named."""
    known = {row["subject"] for row in rows}
    for subject in subjects:
        if subject not in known:
            raise DataError(
                f"{where}: subjects: no subject {subject!r}; {did_you_mean(subject, known)}"
            )
    return [row for row in rows if not subjects or row["subject"] in subjects]


def _rows(paths: list[Path], split: str) -> list[dict[str, Any]]:
    """Return rows with the fields of the hub's copy.

    Also with their split, and their number within subject and split.
    """
    rows = []
    count: dict[str, int] = defaultdict(int)
    for path in paths:
        for row in _csv_rows(path) if path.suffix == ".csv" else sources.rows([path]):
            subject = sources.field(row, "subject")
            rows.append(row | {"split": split, "number": count[subject]})
            count[subject] += 1
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a subject's file.

    They hold a question, four options, and the right one as a letter or an index. A header may be
    there.
    """
    table = [row.fields for row in csv_rows(path, DataError)]
    table = table[1:] if table and table[0][0] == "question" else table
    known = {letter: i for i, letter in enumerate(sources.LETTERS)} | {str(i): i for i in range(4)}
    for number, row in enumerate(table, start=1):
        if len(row) != 6 or row[5] not in known:
            raise DataError(
                f"{path}: row {number} is not a question, four options and an answer; correct the "
                "row"
            )
    # the last part is the split; subjects have underscores of their own
    subject = path.stem.rpartition("_")[0]
    return [
        {"subject": subject, "question": row[0], "choices": row[1:5], "answer": known[row[5]]}
        for row in table
    ]


def _questions(
    where: Path, rows: list[dict[str, Any]], role: str, mark: str, wording: str
) -> list[Question]:
    def question(_: int, row: dict[str, Any]) -> Question:
        return _question(row, role, mark, wording)

    return sources.each(where, rows, question)


def _question(row: dict[str, Any], role: str, mark: str, wording: str) -> Question:
    options = [option.strip() for option in row["choices"]]
    places = dict(zip("abcd", options, strict=True))
    text = fill("wording", wording, question=row["question"].strip(), **places)
    name = f"{role}-{row['subject']}-{row['split']}-{row['number']:04d}"
    return sources.choice(
        name,
        text,
        sources.LETTERS,
        sources.label(row, len(sources.LETTERS), "answer"),
        (mark + text.casefold(), role),
    )
