"""COPA: the more plausible cause or effect of a premise, of two (docs/method.md 4).

In: Balanced COPA (development items and their mirrored twins; the original test items). Out:
questions labelled A and B. `separate` fits on the development items and tests on the others;
`development` cuts the development items into folds, for who has only their XML file. A twin shares
its alternatives, and so its group.
"""

# the published file is trusted as much as any other dataset here
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size, check_questions
from fasb.errors import DataError

DEVELOPMENT = (
    "balanced-copa-dev-all.xml",
    "train.jsonl",
    "train.csv",
    *sources.parquet("default", "train"),
)
TEST = (
    "test.en.jsonl",
    "data/en/test.en.jsonl",
    "test.jsonl",
    "test.csv",
    *sources.parquet("default", "test"),
)

SIZE = Size(fit=1000, test=500, answers=3000, question=182, answer=1)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where COPA is, and which items are for what."""

    hub: str = "pkavumba/balanced-copa"
    rows: Literal["separate", "development"] = Field(
        "separate",
        description="Fit on development and test on test items, or folds of the development items",
    )


def load(settings: Settings) -> list[Question]:
    """Return the questions: development items, then test items.

    Raises:
        DataError: a file is missing or malformed.
    """
    wording = sources.wording(settings, "copa")
    found = sources.files(settings, wanted(settings))
    role = "fit" if "test" in found else "any"
    questions = _questions(found["development"], "dev", role, wording)
    if "test" in found:
        questions = sources.apart(questions, _questions(found["test"], "test", "test", wording))
    check_questions(questions, str(found["development"][0]))
    return questions


def wanted(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return file patterns of each part."""
    development = {"development": DEVELOPMENT}
    return development if settings.rows == "development" else development | {"test": TEST}


def _questions(paths: list[Path], split: str, role: str, wording: str) -> list[Question]:
    def question(_: int, row: dict[str, Any]) -> Question:
        return _question(row, split, role, wording)

    return sources.each(paths[0], _items(paths), question)


def _items(paths: list[Path]) -> list[dict[str, Any]]:
    """Return rows with the fields of the hub's copy, labels from 0."""
    if paths[0].suffix != ".xml":
        return sources.rows(paths)
    try:
        items = xml.parse(paths[0]).getroot().iter("item")  # noqa: S314
        return [
            {
                "id": item.attrib["id"],
                "question": item.attrib["asks-for"],
                # the XML counts alternatives from 1
                "label": int(item.attrib["most-plausible-alternative"]) - 1,
                **{name: item.findtext(tag, "").strip() for name, tag in FIELDS.items()},
            }
            for item in items
        ]
    except (xml.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{paths[0]}: not COPA's XML ({error}); get the file again") from None


FIELDS = {"premise": "p", "choice1": "a1", "choice2": "a2"}


def _question(row: dict[str, Any], split: str, role: str, wording: str) -> Question:
    first, second = row["choice1"].strip(), row["choice2"].strip()
    text = fill(
        "wording",
        wording,
        premise=row["premise"].strip(),
        asks=row["question"],
        first=first,
        second=second,
    )
    group = " / ".join(sorted((first.casefold(), second.casefold())))
    return sources.choice(
        f"{split}-{sources.field(row, 'id', 'idx')}",
        text,
        sources.LETTERS[:2],
        sources.label(row, 2, "label"),
        (group, role),
    )
