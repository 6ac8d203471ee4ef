"""TruthfulQA: 817 questions with true and false reference answers (docs/method.md Q1-Q5, B1).

In: the release's two files, which list the same questions in different orders: CSV (open-ended
references) and JSON (multiple-choice targets), or their copies on the hub. Out: questions in the
JSON's order, which folds are halves of; `prompt` adds the release's instruction and six solved
questions.

References are the JSON's `mc2_targets`, which the probes are trained on (A3) and MC2 is scored on;
`best` is the one true `mc1_targets`. The CSV is read to check them: per question, its answers,
split as Q5 says, must be the JSON's. They are, once two things are said that the CSV leaves open,
in the JSON's way: an answer that is listed twice (three questions) counts once, and one that is
listed as true *and* false ("Unknown.", two questions) is false.
"""

import ast
from typing import Any

from pydantic import Field

from fasb.data import sources
from fasb.data.protocol import Question, Size, check_questions
from fasb.errors import DataError
from fasb.textfiles import read_text

FILES = {
    "choices": ("mc_task.json", *sources.parquet("multiple_choice", "validation")),
    "references": ("TruthfulQA.csv", *sources.parquet("generation", "validation")),
}

PRESETS = "https://raw.githubusercontent.com/sylinrl/TruthfulQA/main/truthfulqa/presets.py"
PRESETS_SHA256 = "9585addd583dd56c8c0e9eb88624783162959da92001ea739580576ee71cae2b"
PRESETS_NAMES = ("truthfulqa/presets.py", "presets.py", "truthfulqa_presets.py")

SIZE = Size(questions=817, answers=6204, question=59, answer=49)


class Settings(sources.Source):
    """Where TruthfulQA is."""

    hub: str = "truthfulqa/truthful_qa"
    revision: str | None = Field(
        "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
        description="Commit of `hub`; later releases hold fewer questions",
    )
    presets: str | None = Field(
        None, description="Folder with the release's presets.py; unset: `path`, or download"
    )
    questions: int | None = Field(
        817, ge=1, description="Refuse another number of questions; null: take any"
    )


def load(settings: Settings) -> list[Question]:
    """Return the questions in the order of the multiple-choice file; each is its own group.

    Raises:
        DataError: a file is missing, holds another release, or the two files do not say the same.
    """
    found = sources.files(settings, FILES)
    choices, references = (sources.rows(found[part]) for part in ("choices", "references"))
    where = str(found["choices"][0])
    by_text = {str(sources.field(row, "Question", "question")).strip(): row for row in references}

    def question(number: int, row: dict[str, Any]) -> Question:
        text = row["question"].strip()
        if text not in by_text:
            raise DataError(
                f"{text!r} is not in {found['references'][0].name}; get both from one release"
            )
        return _question(number, text, row, by_text[text])

    questions = sources.each(found["choices"][0], choices, question)
    if len(by_text) != len(references) or len(references) != len(questions):
        raise DataError(
            f"{where}: not the questions of {found['references'][0].name}; get both from one "
            "release"
        )
    if settings.questions not in (None, len(questions)):
        raise DataError(
            f"{where}: {len(questions)} questions, but settings.questions is {settings.questions}; "
            "get the release with that number, or change it"
        )
    check_questions(questions, where)
    return questions


def prompt(settings: Settings) -> dict[str, str]:
    """Return prompt settings of the set's own.

    They hold instruction and primer, and the formats of Q4 and A3.

    What follows the question is left to the preset: nothing in `paper` and `reference` (Q4), "A:"
    in `default`.

    Raises:
        DataError: presets.py is missing or not the release's.
    """
    path = sources.download(
        PRESETS, PRESETS_SHA256, settings.presets or settings.path, PRESETS_NAMES
    )
    constants = _constants(read_text(path, DataError))
    # the paragraph stands inside the preset "help"; the paper's prompt has it with typographic
    # quotes (Q4)
    instruction = constants["PROF_PRIMER"].partition("instructions: ")[2].partition(" Here are")[0]
    instruction = instruction.replace('"', "\u201c", 1).replace('"', "\u201d", 1)
    return {
        "prefix": f"{instruction}\n\n{constants['QA_PRIMER']}\n\n",
        "question": "Q: {question}",
        "answer": "\nA: {answer}",
        "probe": "Q: {question} A: {answer}",
        "next_question": " Q: {next}",
    }


def references(field: str | list[str]) -> tuple[str, ...]:
    """Return the answers of a CSV field (docs/method.md Q5).

    They are split at ";", stripped, ended by a period, each once.
    """
    parts = (part.strip() for part in (field.split(";") if isinstance(field, str) else field))
    return tuple(
        dict.fromkeys(part if part.endswith(".") else f"{part}." for part in parts if part)
    )


def _question(number: int, text: str, row: dict[str, Any], reference: dict[str, Any]) -> Question:
    labelled = _targets(row["mc2_targets"])
    true = tuple(answer for answer, label in labelled.items() if label)
    false = tuple(answer for answer, label in labelled.items() if not label)
    best = [answer for answer, label in _targets(row["mc1_targets"]).items() if label]
    listed_true = references(sources.field(reference, "Correct Answers", "correct_answers"))
    listed_false = references(sources.field(reference, "Incorrect Answers", "incorrect_answers"))
    listed_best = references(sources.field(reference, "Best Answer", "best_answer"))
    # what the CSV lists on both sides is false in the JSON
    same = set(listed_true) - set(listed_false) == set(true) and set(listed_false) == set(false)
    if not same or best != list(listed_best):
        raise DataError(
            f"{text!r}: the two files list different answers; get both from one release"
        )
    return Question(f"{number:03d}", text, true, false, best=best[0], group=f"{number:03d}")


def _targets(targets: dict[str, Any]) -> dict[str, int]:
    """Answer to label; the hub's copy keeps two lists instead."""
    if "choices" in targets:
        return dict(zip(targets["choices"], targets["labels"], strict=True))
    return targets


def _constants(code: str) -> dict[str, str]:
    """Return the module-level texts of a Python file, read without running it."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = str(node.value.value)
    return found
