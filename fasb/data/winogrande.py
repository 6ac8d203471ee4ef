"""WinoGrande: which of two options a blank stands for (docs/method.md 4).

In: the release's JSONL files or the hub's copy. Out: questions labelled A and B: the first 2,000 of
the 2,558 medium training sentences to fit on, the 1,267 development sentences to test on (test
labels are not public). Sentences come in twins that differ in a word or two; they share options and
beginning, and so their group.
"""

from typing import Any, Literal

from pydantic import Field

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size

BEGINNING = 3
"""Words that twins share for certain enough; no more are compared."""

SIZE = Size(fit=2000, test=1267, answers=6534, answer=1)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where WinoGrande is, and which sentences are fitted on."""

    hub: str = "allenai/winogrande"
    size: Literal["xs", "s", "m", "l", "xl", "debiased"] = Field("m", description="Training set")
    fit_rows: int | None = Field(2000, ge=1, description="The first rows of it only; null: all")


def load(settings: Settings) -> list[Question]:
    """Return the questions: sentences to fit on, then sentences to test on.

    Raises:
        DataError: a file is missing or malformed.
    """
    return sources.fit_and_test(
        settings, "winogrande", wanted(settings), _question, settings.fit_rows
    )


def wanted(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return file patterns of each part."""
    config = f"winogrande_{settings.size}"
    return {
        "fit": (f"train_{settings.size}.jsonl", *sources.parquet(config, "train")),
        "test": ("dev.jsonl", *sources.parquet(config, "validation")),
    }


def _question(number: int, row: dict[str, Any], role: str, wording: str) -> Question:
    sentence, first, second = (row[name].strip() for name in ("sentence", "option1", "option2"))
    text = fill("wording", wording, sentence=sentence, first=first, second=second)
    options = sorted((first.casefold(), second.casefold()))
    group = " / ".join([*options, " ".join(sentence.casefold().split()[:BEGINNING])])
    right = sources.label(row, 2, "answer", least=1)
    return sources.choice(f"{role}-{number:04d}", text, sources.LETTERS[:2], right, (group, role))
