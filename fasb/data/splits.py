"""Splits: which questions a fold fits on, tunes on and tests on.

In: questions with their groups, `SplitSettings`, a seed. Out: one `Split` per fold, disjoint also
by group. Test questions depend on the questions' order alone; the seed only divides the rest into
train and validation.
"""

import logging
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from fasb.artifacts import read_json, write_json
from fasb.data.protocol import Question, Split, plain_text
from fasb.errors import ArtifactError, DataError
from fasb.settings import SplitSettings


def split(questions: Sequence[Question], settings: SplitSettings, seed: int) -> list[Split]:
    """Return the folds (docs/method.md Q2, Q3).

    A dataset that gives roles has one, tested on its own test questions.

    Groups, in order of first appearance, are cut into contiguous folds of equal size. The training
    groups of each fold are then drawn from one stream, fold 0 first, with the generator of the
    released program: where every question is a group of its own, its folds and draws are
    reproduced. A smaller `train_share` keeps the groups that were drawn first, so that its
    questions are among those of a larger one; validation and test stay the same.

    Raises:
        DataError: too few groups for these folds, or roles that are missing or divide a group.
    """
    has_roles = any(question.role != "any" for question in questions)
    if has_roles:
        _check_roles(questions)
    # a test question that is also fitted on is its set's, and has been told of
    together = iter(same_text_together([q for q in questions if q.role != "test"]))
    questions = [q if q.role == "test" else next(together) for q in questions]
    if has_roles:
        folds = [(_groups(questions, "fit"), _groups(questions, "test"))]
    else:
        folds = _contiguous(_groups(questions, "any"), settings.folds)
    # numpy's legacy generator is the released program's (Q3); the newer ones draw otherwise
    stream = np.random.RandomState(seed)
    splits = []
    for rest, test in folds:
        n_train = int(len(rest) * (1 - settings.validation))  # rounded down (Q3)
        if not 0 < n_train < len(rest):
            raise DataError(
                f"split: {len(rest)} groups of questions cannot be divided with validation "
                f"{settings.validation}; give more groups or change split.validation"
            )
        drawn = [rest[i] for i in stream.choice(len(rest), size=n_train, replace=False)]
        fitted = drawn[: max(1, round(len(drawn) * settings.train_share))]
        # validation is what was never drawn: it does not grow where `train_share` shrinks
        parts = set(fitted), set(rest) - set(drawn), set(test)
        splits.append(Split(*(_of_groups(questions, part) for part in parts)))
    return splits


def _of_groups(questions: Sequence[Question], groups: Container[str]) -> tuple[str, ...]:
    """Return the ids of the questions in these groups."""
    return tuple(question.id for question in questions if question.group in groups)


def same_text_together(questions: Sequence[Question]) -> list[Question]:
    """Return the questions with one group for all that have a text in common.

    Paraphrases count; case, spaces and quotes do not matter.
    """
    group: dict[str, str] = {}  # of each text
    leader: dict[str, str] = {}  # of each group that was joined to another
    for question in questions:
        for text in question.phrasings:
            first_group = _followed(group.setdefault(plain_text(text), question.group), leader)
            own = _followed(question.group, leader)
            if own != first_group:
                leader[own] = first_group
    return [replace(question, group=_followed(question.group, leader)) for question in questions]


def tested_groups(questions: Sequence[Question]) -> dict[str, str]:
    """Return the group of each question that is not for fitting, by id.

    Those that have a text in common are of one, as in folds: an interval draws them together.
    """
    tested = [question for question in questions if question.role != "fit"]
    return {question.id: question.group for question in same_text_together(tested)}


def _followed(group: str, leader: dict[str, str]) -> str:
    while group in leader:
        group = leader[group]
    return group


def first(questions: Sequence[Question], n: int) -> list[Question]:
    """Return the first n questions of each half, as two folds cut them.

    Where there are roles, the first n of each role.
    """
    halves = [question.role for question in questions]
    if set(halves) <= {"any"}:
        # the first half has the odd one, as `np.array_split` cuts folds
        halves = ["first"] * -(-len(questions) // 2) + ["second"] * (len(questions) // 2)
    seen: Counter[str] = Counter()
    kept = []
    for question, half in zip(questions, halves, strict=True):
        seen[half] += 1
        if seen[half] <= n:
            kept.append(question)
    return kept


def all_tested(questions: Sequence[Question], n_folds: int) -> list[Split]:
    """Return folds that fit nothing and test every question that is not for fitting (transfer)."""
    return [
        Split((), (), tuple(question.id for question in questions if question.role != "fit"))
    ] * n_folds


def write_splits(path: Path, splits: Iterable[Split], made_by: dict[str, object]) -> None:
    """`{"folds": [{"train": [ids], "validation": [ids], "test": [ids]}]}`."""
    write_json(path, {"folds": [asdict(fold) for fold in splits]}, made_by)


def read_splits(path: Path) -> list[Split]:
    """Return the folds of a file that `write_splits` made.

    Raises:
        ArtifactError: the file is missing, damaged, or holds something else.
    """
    payload = read_json(path)
    try:
        splits = [
            Split(_ids(fold["train"]), _ids(fold["validation"]), _ids(fold["test"]))
            for fold in payload["folds"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{path}: holds no folds; make it with 'fasb run splits'") from None
    for number, fold in enumerate(splits):
        every = [*fold.train, *fold.validation, *fold.test]
        if len(set(every)) < len(every):
            twice = next(name for name in every if every.count(name) > 1)
            raise ArtifactError(
                f"{path}: fold {number} has question {twice!r} twice, in one part or in two; "
                "make it again with 'fasb run splits'"
            )
    return splits


def _ids(value: object) -> tuple[str, ...]:
    """Return question ids of a list of them, else a TypeError."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return tuple(value)


def _contiguous(groups: list[str], n_folds: int) -> list[tuple[list[str], list[str]]]:
    """Return, for each fold, the groups outside it and those within."""
    if len(groups) < n_folds:
        raise DataError(
            f"split: {len(groups)} groups of questions, but {n_folds} folds; lower split.folds"
        )
    found = []
    for part in np.array_split(np.arange(len(groups)), n_folds):
        start, end = part[0], part[-1] + 1
        found.append((groups[:start] + groups[end:], groups[start:end]))
    return found


def _groups(questions: Sequence[Question], role: str) -> list[str]:
    return list(dict.fromkeys(question.group for question in questions if question.role == role))


def _check_roles(questions: Sequence[Question]) -> None:
    """Refuse roles that no fold can be made of.

    Raises:
        DataError: a role that is unknown or missing, or a group of both.
    """
    for question in questions:
        if question.role not in ("fit", "test"):
            raise DataError(
                f"split: question {question.id!r} has role {question.role!r} beside others with "
                "fit or test; give every question one of these two"
            )
    fit, test = (_groups(questions, role) for role in ("fit", "test"))
    for role, found in (("fit", fit), ("test", test)):
        if not found:
            raise DataError(
                f"split: no question has role {role}; a dataset that gives roles needs both"
            )
    if both := set(fit) & set(test):
        raise DataError(f"split: group {min(both)!r} has questions of both roles; move them to one")
    _tell_of_leaks(questions)


def _tell_of_leaks(questions: Sequence[Question]) -> None:
    """Say in one line that test questions may be fitted on, in other groups.

    It is no error: a released set has them (`mmlu`, `rows: released`).
    """
    keys = {key for question in questions if question.role == "fit" for key in question.keys}
    leaks = [question for question in questions if question.role == "test" and question.keys & keys]
    if leaks:
        logging.getLogger(__name__).warning(
            "split: the texts of %d test questions, the first is %r, are also among those to fit "
            "on, so that results are not of unseen questions; leave them out of one role",
            *(len(leaks), leaks[0].id),
        )
