from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fits import some_questions

from fasb.artifacts import write_json
from fasb.data.protocol import Question
from fasb.data.splits import first, read_splits, split, write_splits
from fasb.errors import ArtifactError, DataError
from fasb.settings import SplitSettings


def released(n, seed, share):
    """The scheme of the released program.

    Folds by array_split, draws from numpy's global generator.
    """
    np.random.seed(seed)
    folds = np.array_split(np.arange(n), 2)
    found = []
    for i in range(2):
        rest = np.concatenate([folds[j] for j in range(2) if j != i])
        train = np.random.choice(rest, size=int(len(rest) * (1 - share)), replace=False)
        found.append((set(train), {x for x in rest if x not in set(train)}, set(folds[i])))
    return found


@pytest.mark.parametrize(("n", "seed"), [(817, 42), (20, 0), (21, 7)])
def test_questions_in_groups_of_their_own_are_split_as_by_the_released_program(n, seed):
    found = split(some_questions(n), SplitSettings(), seed)
    expected = [[{f"q{i}" for i in part} for part in fold] for fold in released(n, seed, 0.2)]
    assert [[set(fold.train), set(fold.validation), set(fold.test)] for fold in found] == expected


def test_the_halves_of_truthfulqa_have_409_and_408_questions():
    folds = split(some_questions(817), SplitSettings(), 42)
    assert [len(fold.test) for fold in folds] == [409, 408]
    assert [len(fold.train) for fold in folds] == [326, 327]


def test_a_group_is_never_divided():
    questions = some_questions(30, per_group=3)
    group = {question.id: question.group for question in questions}
    for fold in split(questions, SplitSettings(folds=3, validation=0.4), 1):
        parts = [{group[i] for i in part} for part in (fold.train, fold.validation, fold.test)]
        assert max(Counter(name for part in parts for name in part).values()) == 1


def test_a_question_written_in_two_ways_is_never_divided():
    questions = some_questions(20)
    twins = [replace(q, id=f"twin-{q.id}", text=f" {q.text.upper()} ?", group=f"t{q.group}")
             for q in questions]  # fmt: skip
    asked = [replace(q, text=f"{q.text}?") for q in questions]
    for seed in range(3):
        for fold in split([*asked, *twins], SplitSettings(), seed):
            for part in (fold.train, fold.validation, fold.test):
                assert {f"twin-{i}" for i in part if "twin" not in i} == {
                    i for i in part if "twin" in i
                }


def test_a_paraphrase_is_never_fitted_on_where_another_asks_it():
    questions = some_questions(20)
    asked = [replace(q, paraphrases=(questions[-1 - i].text,)) for i, q in enumerate(questions)]
    keys = {question.id: question.keys for question in asked}
    for fold in split(asked, SplitSettings(), 0):
        fitted = {key for i in (*fold.train, *fold.validation) for key in keys[i]}
        assert not fitted & {key for i in fold.test for key in keys[i]}


@pytest.mark.parametrize(
    "fold",
    [
        {"train": ["a"], "validation": ["b"], "test": ["a"]},
        {"train": ["a", "a"], "validation": [], "test": []},
        {"train": "ab", "validation": [], "test": []},
        {"train": [1], "validation": [], "test": []},
        {"train": ["a"], "validation": ["b"]},
    ],
)
def test_damaged_folds_are_refused(tmp_path, fold):
    write_json(tmp_path / "s.json", {"folds": [fold]}, {})
    with pytest.raises(ArtifactError, match=r"s\.json: .*; make it"):
        read_splits(tmp_path / "s.json")


def test_every_question_is_tested_once_and_used_in_every_fold():
    questions = some_questions(31, per_group=2)
    folds = split(questions, SplitSettings(folds=4), 1)
    assert sorted(i for fold in folds for i in fold.test) == sorted(
        question.id for question in questions
    )
    for fold in folds:
        assert sorted(fold.train + fold.validation + fold.test) == sorted(
            question.id for question in questions
        )


def test_a_seed_divides_train_and_validation_and_leaves_the_test_questions():
    first, second = (split(some_questions(40), SplitSettings(), seed) for seed in (0, 1))
    assert [fold.test for fold in first] == [fold.test for fold in second]
    assert [fold.train for fold in first] != [fold.train for fold in second]
    assert first == split(some_questions(40), SplitSettings(), 0)


def test_roles_of_a_dataset_are_respected():
    questions = [
        replace(question, role="test" if i % 3 else "fit")
        for i, question in enumerate(some_questions(30))
    ]
    (fold,) = split(questions, SplitSettings(folds=5), 0)
    assert set(fold.test) == {question.id for question in questions if question.role == "test"}
    assert len(fold.train) == 8
    assert len(fold.validation) == 2


@pytest.mark.parametrize(
    ("roles", "groups", "message"),
    [
        (["fit", "any"], ["a", "b"], "give every question one of these two"),
        (["fit", "fit"], ["a", "b"], "no question has role test"),
        (["fit", "test"], ["a", "a"], "questions of both roles; move them to one"),
        (["any", "any"], ["a", "a"], "lower split.folds"),
        (["any", "any"], ["a", "b"], "give more groups or change split.validation"),
    ],
)
def test_questions_that_cannot_be_split_are_refused(roles, groups, message):
    questions = [
        replace(question, role=role, group=group)
        for question, role, group in zip(some_questions(2), roles, groups, strict=True)
    ]
    with pytest.raises(DataError, match=message):
        split(questions, SplitSettings(), 0)


def test_splits_are_read_as_written(tmp_path):
    folds = split(some_questions(20), SplitSettings(), 0)
    write_splits(tmp_path / "splits.json", folds, {})
    assert read_splits(tmp_path / "splits.json") == folds


def test_a_file_without_folds_is_refused(tmp_path):
    write_json(tmp_path / "splits.json", {"other": 1}, {})
    with pytest.raises(ArtifactError, match="make it with 'fasb run splits'"):
        read_splits(tmp_path / "splits.json")


def test_questions_to_fit_on_that_have_one_text_are_never_divided():
    questions = [
        replace(question, role="test" if i % 3 else "fit")
        for i, question in enumerate(some_questions(60))
    ]
    twins = [
        replace(q, id=f"twin{q.id}", text=f" {q.text.upper()}", group=f"twin{q.group}")
        for q in questions
        if q.role == "fit"
    ]
    for seed in range(5):
        (fold,) = split([*questions, *twins], SplitSettings(validation=0.5), seed)
        for part in (fold.train, fold.validation):
            assert {f"twin{name}" for name in part if not name.startswith("twin")} <= {*part}
    # a group of both roles is seen, though its questions to fit on are of another's text
    bridge = replace(twins[0], group=questions[1].group)
    with pytest.raises(DataError, match="has questions of both roles"):
        split([*questions, bridge], SplitSettings(), 0)


def test_the_first_of_each_half_stay_in_the_folds_they_were_in():
    questions = some_questions(21)
    whole, small = (split(found, SplitSettings(), 0) for found in (questions, first(questions, 3)))
    assert [fold.test for fold in small] == [fold.test[:3] for fold in whole]
    assert first(questions, 11) == questions


def test_a_text_that_is_fitted_on_and_tested_is_said(caplog):
    questions = [
        replace(question, role="test" if i % 3 else "fit")
        for i, question in enumerate(some_questions(12))
    ]
    split(questions, SplitSettings(), 0)
    assert not caplog.records
    twin = replace(questions[1], id="twin", text=f" {questions[0].text.upper()}", group="twin")
    split([*questions, twin], SplitSettings(), 0)
    (record,) = caplog.records
    assert "texts of 1 test questions, the first is 'twin', are also among" in record.getMessage()


def test_the_first_of_each_role_keep_their_order():
    roles = ("fit", "test", "test", "fit", "fit", "test")
    questions = [
        replace(question, role=role)
        for question, role in zip(some_questions(6), roles, strict=True)
    ]
    assert [question.id for question in first(questions, 2)] == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize("folds", [2, 3])
def test_a_share_of_the_training_questions_lies_within_a_larger_one_and_moves_nothing_else(folds):
    questions = [Question(f"q{i}", f"{i}?", ("a",), ("b",), "a", f"g{i // 2}") for i in range(60)]
    found = [
        split(questions, SplitSettings(folds=folds, train_share=share), seed=3)
        for share in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    for smaller, larger in pairwise(found):
        for one, other in zip(smaller, larger, strict=True):
            assert set(one.train) < set(other.train)
            assert (one.validation, one.test) == (other.validation, other.test)
    assert found[-1] == split(questions, SplitSettings(folds=folds), seed=3)
    assert [
        len(fold.train) / len(whole.train) for fold, whole in zip(found[0], found[-1])
    ] == pytest.approx([0.2] * folds, abs=0.05)
