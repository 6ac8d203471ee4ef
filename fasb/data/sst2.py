"""SST-2: is a sentence from a film review positive or negative (docs/method.md 4).

In: one JSONL file per split, or another copy. Out: questions labelled Positive and Negative: the
first 2,000 of 6,920 training sentences to fit on, the 1,821 test sentences to test on.
"""

from typing import Any, Literal

from pydantic import Field

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size

LABELS = ("Negative", "Positive")

SIZE = Size(fit=2000, test=1821, answers=7642, question=184, answer=8)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where SST-2 is, and which sentences are fitted on."""

    hub: str = "SetFit/sst2"
    fit: Literal["train", "dev"] = Field("train", description="Split to fit on")
    fit_rows: int | None = Field(2000, ge=1, description="The first rows of it only; null: all")


def load(settings: Settings) -> list[Question]:
    """Return the questions: sentences to fit on, then sentences to test on.

    Raises:
        DataError: a file is missing, malformed, or without labels.
    """
    return sources.fit_and_test(settings, "sst2", wanted(settings), _question, settings.fit_rows)


def wanted(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return file patterns of each part."""
    names = {"train": "train", "dev": "validation"}
    return {
        "fit": (f"{settings.fit}.jsonl", *sources.parquet("default", names[settings.fit])),
        "test": ("test.jsonl", *sources.parquet("default", "test")),
    }


def _question(number: int, row: dict[str, Any], role: str, wording: str) -> Question:
    sentence = sources.field(row, "text", "sentence").strip()
    # GLUE's copy holds the labels of its test set back, as -1
    label = sources.label(row, len(LABELS), "label")
    text = fill("wording", wording, sentence=sentence)
    return sources.choice(f"{role}-{number:04d}", text, LABELS, label, (sentence.casefold(), role))
