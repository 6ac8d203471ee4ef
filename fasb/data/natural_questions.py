"""Natural Questions as ITI's authors prepared it.

Short answers and one false answer each (docs/method.md Q11).

In: their CSV, or its copy on the hub. Out: 3,610 questions as released, or those whose false answer
is false.
"""

from typing import Any, Literal

from pydantic import Field

from fasb.data import sources
from fasb.data.protocol import Question, Size, check_questions

FILES = {"questions": ("natural_questions.csv", *sources.parquet("default", "validation"))}

SIZE = Size(questions=3369, answers=9401, question=48, answer=15)


class Settings(sources.Source):
    """Where the set is, and what is done about false answers that are not."""

    hub: str = "OamPatel/iti_nq_open_val"
    rows: Literal["consistent", "released"] = Field(
        "consistent",
        description="Leave out questions whose false answer is also listed as true, or keep all",
    )


def load(settings: Settings) -> list[Question]:
    """Return the questions in their file's order; the first answer listed is the best.

    Equal texts are one group.

    Raises:
        DataError: the file is missing or lacks a column.
    """
    return read(settings, FILES)


def read(settings: Settings, files: dict[str, tuple[str, ...]]) -> list[Question]:
    """Return the questions of either transfer set."""
    found = sources.files(settings, files)["questions"]
    questions = sources.each(found[0], sources.rows(found), transfer_question)
    if settings.rows == "consistent":
        questions = [question for question in questions if not contradicts(question)]
    check_questions(questions, str(found[0]))
    return questions


def transfer_question(number: int, row: dict[str, Any]) -> Question:
    """Return a row of either transfer set; answers are a list, or a text with ";" between them."""
    text = row["question"].strip()
    answers = sources.field(row, "answer")
    if isinstance(answers, dict):  # TriviaQA keeps the answer with its other names
        answers = [answers["value"], *answers["aliases"]]
    parts = answers.split(";") if isinstance(answers, str) else answers
    true = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    false = sources.field(row, "false_answer").strip()
    return Question(
        f"{number:04d}", text, true, (false,), best=true[0] if true else "", group=text.casefold()
    )


def contradicts(question: Question) -> bool:
    """Return whether a false answer is, but for case, one of the true ones."""
    true = {answer.casefold() for answer in question.true}
    return any(answer.casefold() in true for answer in question.false)
