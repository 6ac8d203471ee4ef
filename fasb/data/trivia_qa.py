"""TriviaQA as ITI's authors prepared it.

An answer under all its names, one false answer (docs/method.md Q11).

In: their CSV, or its copy on the hub. Out: 3,610 questions as released, or those whose false answer
is false: in more than a third the answer that was generated as false is one of the true names.
"""

from fasb.data import natural_questions, sources
from fasb.data.protocol import Question, Size

FILES = {"questions": ("trivia_qa.csv", *sources.parquet("default", "validation"))}

SIZE = Size(questions=2280, answers=37563, question=77, answer=15)


class Settings(natural_questions.Settings):
    """Where the set is, and what is done about false answers that are not."""

    hub: str = "OamPatel/iti_trivia_qa_val"


def load(settings: Settings) -> list[Question]:
    """Return the questions in their file's order; the first name listed is the best.

    Equal texts are one group.

    Raises:
        DataError: the file is missing or lacks a column.
    """
    return natural_questions.read(settings, FILES)
