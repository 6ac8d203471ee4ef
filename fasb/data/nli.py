"""Natural language inference.

Is a hypothesis true, false or inconclusive, given a premise (docs/method.md 4).

In: XNLI in English (2,490 validation pairs to fit on, 5,010 test pairs), or another set with its
fields, such as SNLI (`hub: stanfordnlp/snli`, `config: plain_text`). Out: questions labelled True,
False, Inconclusive. Pairs of one premise are one group; pairs without an agreed label are left out.
"""

from typing import Any

from pydantic import Field

from fasb.data import sources
from fasb.data.prompts import fill
from fasb.data.protocol import Question, Size

LABELS = ("True", "Inconclusive", "False")
"""In the order of the set's own labels: entailment, neutral, contradiction."""

SIZE = Size(fit=2490, test=5010, answers=22500)

PROMPT = sources.CHOICE_PROMPT


class Settings(sources.ChoiceSource):
    """Where the set is."""

    hub: str = "facebook/xnli"
    config: str = Field("en", description="Configuration of `hub`, or the folder within `path`")


def load(settings: Settings) -> list[Question]:
    """Return the questions: validation pairs to fit on, then test pairs.

    Raises:
        DataError: a file is missing or malformed.
    """
    return sources.fit_and_test(settings, "nli", wanted(settings), _question)


def wanted(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return file patterns of each part."""
    return {
        role: (f"{split}.jsonl", *sources.parquet(settings.config, split))
        for role, split in (("fit", "validation"), ("test", "test"))
    }


def _question(number: int, row: dict[str, Any], role: str, wording: str) -> Question | None:
    # SNLI marks pairs without an agreed label with -1
    label = sources.label(row, 1 + len(LABELS), "label", least=-1) - 1
    if label < 0:
        return None
    premise = row["premise"].strip()
    text = fill("wording", wording, premise=premise, hypothesis=row["hypothesis"].strip())
    return sources.choice(f"{role}-{number:05d}", text, LABELS, label, (premise.casefold(), role))
