"""A question: what every dataset gives, and how questions are kept on disk.

In: a dataset's own file or hub id, read by a module of `fasb/data/`. Out: `list[Question]`, in the
dataset's own fixed order. Knows no model and no prompt.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from fasb.artifacts import read_parquet, write_parquet
from fasb.errors import ArtifactError, DataError
from fasb.provenance import content_hash
from fasb.textfiles import check_strings


def plain_text(text: str) -> str:
    """Return what texts share that differ in case, spaces, or how quotes and dashes are typed.

    "What ?" and "what?" are one question, and must not be fitted on and held out. Characters that
    nobody sees, such as a byte order mark or a zero-width space, do not count.
    """
    seen = [character for character in text.translate(TYPED) if not _is_unseen(character)]
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", "".join(seen)).casefold())
    return re.sub(r"\s+(?=[?!.,;:])", "", " ".join(text.split()))


TYPED = str.maketrans(
    dict.fromkeys("`\u00b4\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)


def _is_unseen(character: str) -> bool:
    """Whether it is a mark of format, or one that chooses how another is drawn."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its reference answers.

    id: unique in its dataset. text: first phrasing. paraphrases: further phrasings, prompts of the
    same question. true, false: reference answers. best: the best true answer (MC1), one of `true`.
    group: questions of one group are never split between fit and test. role: `any` where the study
    cuts folds; `fit` or `test` where the dataset itself says which rows may be fitted on.
    """

    id: str
    text: str
    true: tuple[str, ...]
    false: tuple[str, ...]
    best: str
    group: str
    role: str = "any"
    paraphrases: tuple[str, ...] = ()

    @property
    def phrasings(self) -> tuple[str, ...]:
        """All phrasings, `text` first."""
        return (self.text, *self.paraphrases)

    @property
    def references(self) -> tuple[str, ...]:
        """All reference answers, the true ones first."""
        return (*self.true, *self.false)

    @property
    def keys(self) -> frozenset[str]:
        """What a bundle remembers of the question: a hash of each phrasing, however written."""
        return frozenset(content_hash(plain_text(text)) for text in self.phrasings)


@dataclass(frozen=True, slots=True)
class Size:
    """How much a dataset asks for: what a study's cost is reckoned from before the set is at hand.

    A module's `SIZE` is that with its default settings; at most, where rows may be left out.

    questions: where folds are cut; fit, test: where the set gives roles. answers: reference answers
    over all phrasings. question, answer: characters in the mean; 0 where nobody has counted them.
    """

    answers: int
    questions: int = 0
    fit: int = 0
    test: int = 0
    phrasings: float = 1.0
    question: int = 0
    answer: int = 0

    @classmethod
    def of(cls, questions: Sequence[Question]) -> "Size":
        """Return the size of a set that is at hand."""
        roles = Counter(question.role for question in questions)
        texts = [text for question in questions for text in question.phrasings]
        return cls(
            answers=sum(
                len(question.phrasings) * len(question.references) for question in questions
            ),
            questions=roles["any"],
            fit=roles["fit"],
            test=roles["test"],
            phrasings=len(texts) / len(questions),
            question=round(mean(map(len, texts))),
            answer=round(
                mean(len(answer) for question in questions for answer in question.references)
            ),
        )

    def first(self, n: int) -> "Size":
        """Return the first n questions of each half, or of each role (`fasb.data.splits.first`)."""
        kept = {
            "questions": min(self.questions, 2 * n),
            "fit": min(self.fit, n),
            "test": min(self.test, n),
        }
        # answers are not counted by question: the kept ones are taken to have their share
        share = sum(kept.values()) / (self.questions + self.fit + self.test)
        return replace(self, answers=round(self.answers * share), **kept)


@dataclass(frozen=True, slots=True)
class Split:
    """Question ids of one fold: fitted on, tuned on, tested on. Disjoint, also by group."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def with_ids(questions: Sequence[Question], ids: Iterable[str]) -> list[Question]:
    """Return the questions of these ids, in the questions' order."""
    wanted = set(ids)
    return [question for question in questions if question.id in wanted]


def check_questions(questions: Sequence[Question], where: str) -> None:
    """Refuse questions that later stages cannot use.

    Raises:
        DataError: none at all, something else than texts, an id twice, no true answer, an answer
            or phrasing without text, or a best answer that is not a true one.
    """
    if not questions:
        raise DataError(f"{where}: no questions; check the file and its columns")
    seen: set[str] = set()
    for question in questions:
        _check_texts(question, where)
        if question.id in seen:
            raise DataError(
                f"{where}: question id {question.id!r} appears twice; ids must be unique"
            )
        seen.add(question.id)
        if not plain_text(question.text):
            raise DataError(
                f"{where}: question {question.id!r} has no text; remove the row or fill it in"
            )
        if not question.true:
            raise DataError(
                f"{where}: question {question.id!r} has no true answer; give at least one"
            )
        if not all(map(plain_text, (*question.references, *question.paraphrases))):
            raise DataError(
                f"{where}: question {question.id!r} has an answer or paraphrase without text; "
                "remove it"
            )
        if question.best not in question.true:
            raise DataError(
                f"{where}: best answer of {question.id!r} is not among its true ones; add it there"
            )


def check_consistent(questions: Sequence[Question], where: str) -> None:
    """Refuse one's own questions that contradict themselves; published sets have some that do.

    Raises:
        DataError: an answer is a true and a false one of the same question.
    """
    if found := contradiction(questions):
        question, answer = found
        raise DataError(
            f"{where}: {answer!r} is a true and a false answer of {question.id!r}, or of another "
            "question of the same text; remove one of them"
        )


def contradiction(questions: Sequence[Question]) -> tuple[Question, str] | None:
    """Return the first answer that is true and false of one text, and the question that says so.

    Questions of one text are read together, however differently it is written; a full stop makes
    no other answer.
    """
    label: dict[tuple[str, str], bool] = {}
    for question in questions:
        said = [(answer, True) for answer in question.true]
        said += [(answer, False) for answer in question.false]
        for text in question.phrasings:
            for answer, is_true in said:
                key = plain_text(text), plain_text(answer).rstrip(".!")
                if label.setdefault(key, is_true) != is_true:
                    return question, answer
    return None


def _check_texts(question: Question, where: str) -> None:
    """Refuse what is no question, or one of something else than texts."""
    if not isinstance(question, Question):
        raise DataError(f"{where}: {question!r} is no question; give fasb.Question")
    for name in TEXTS:
        given = getattr(question, name)
        if not isinstance(given, str):
            raise DataError(
                f"{where}: {name} of question {question.id!r} is {given!r}; give a text"
            )
    for name in LISTS:
        given = getattr(question, name)
        # what has no order, or is read once only, is no list
        is_list = isinstance(given, tuple | list)
        if not is_list or not all(isinstance(one, str) for one in given):
            raise DataError(
                f"{where}: {name} of question {question.id!r} is {given!r}; give texts in a tuple "
                "or list"
            )
    given = [getattr(question, name) for name in (*TEXTS, *LISTS)]
    check_strings(given, f"{where}: question {question.id!r}", DataError)


def write_questions(path: Path, questions: Sequence[Question], made_by: dict[str, object]) -> None:
    """One row per question; columns are the fields of `Question`, answers as lists of strings."""
    check_questions(questions, str(path))
    rows = [asdict(question) for question in questions]
    for row in rows:
        for key in LISTS:
            row[key] = list(row[key])
    write_parquet(
        path, pd.DataFrame(rows, columns=[field.name for field in fields(Question)]), made_by
    )


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a Parquet file that `write_questions` made.

    Raises:
        ArtifactError: it is damaged, or its columns are not those of questions.
        DataError: a question of it cannot be used (`check_questions`).
    """
    frame = read_parquet(path)
    names = [field.name for field in fields(Question)]
    if sorted(frame.columns) != sorted(names):
        raise ArtifactError(
            f"{path}: not questions, whose columns are {', '.join(names)}; make it again"
        )
    questions = []
    for number, row in enumerate(frame[names].to_dict("records"), start=1):
        for name in LISTS:
            # pandas gives Parquet's lists as arrays
            row[name] = tuple(row[name]) if isinstance(row[name], Iterable) else row[name]
        if not _is_question(row):
            raise ArtifactError(f"{path}: row {number} is no question; make it again")
        questions.append(Question(**row))
    check_questions(questions, str(path))
    return questions


TEXTS = ("id", "text", "best", "group", "role")
LISTS = ("true", "false", "paraphrases")


def _is_question(row: dict[Any, Any]) -> bool:
    """Return whether texts are texts and lists are lists of texts."""
    for name, value in row.items():
        parts = value if name in LISTS else (value,)
        if not isinstance(parts, tuple) or not all(isinstance(part, str) for part in parts):
            return False
    return True
