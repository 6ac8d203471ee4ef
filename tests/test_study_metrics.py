from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import METHODS, _answers, _questions

from fasb.errors import DataError
from fasb.metrics.answers import true_info
from fasb.study.metrics import exact_match, generation_metrics, question_metrics, summary

QUESTIONS = _questions(3)


@pytest.fixture(scope="module")
def answers():
    return _answers(QUESTIONS, np.random.default_rng(0))


@pytest.fixture(scope="module")
def frame(answers):
    return question_metrics(QUESTIONS, *answers)


def test_there_is_one_row_per_fold_method_and_question(frame):
    assert len(frame) == len(QUESTIONS) * len(METHODS)
    assert not frame.duplicated(["fold", "method", "question"]).any()
    assert frame["group"].tolist() == [question.split("-")[0] for question in frame["question"]]


def test_questions_that_have_a_text_in_common_are_one_group_as_in_folds(answers):
    first, other = QUESTIONS[0], next(q for q in QUESTIONS if q.group != QUESTIONS[0].group)
    asked = [replace(q, text=first.text.upper()) if q is other else q for q in QUESTIONS]
    found = question_metrics(asked, *answers).set_index("question")["group"]
    assert set(found[[first.id, other.id]]) == {first.group}
    assert len(set(found)) == len({question.group for question in QUESTIONS}) - 1


def test_a_value_is_the_mean_over_phrasings(frame, answers):
    generations, judged, scores = answers
    verdict = {(row.question, row.answer): row.true for row in judged.itertuples()}
    rows = generations[(generations["method"] == "iti") & (generations["question"] == "e1-r2")]
    found = frame[(frame["method"] == "iti") & (frame["question"] == "e1-r2")].iloc[0]
    assert found["true"] == np.mean(
        [verdict[row.question, row.answer] for row in rows.itertuples()]
    )
    assert found["tokens"] == rows["n_tokens"].mean()
    same = (scores["method"] == "iti") & (scores["question"] == "e1-r2")
    assert found["steered_mc"] == 0.5
    assert found["mc2_tuned"] == pytest.approx(
        scores[same & (scores["tuned_for"] == "mc2")]["mc2"].mean()
    )


def test_the_unsteered_model_harms_and_helps_nobody(frame):
    rows = frame[frame["method"] == "unsteered"]
    assert not rows[["harmed", "helped", "steered"]].to_numpy().any()


def test_harmed_counts_good_answers_that_steering_spoilt(answers):
    generations, judged, _ = answers
    one = (
        generations[(generations["method"] == "iti") & (generations["question"] == "e0-r0")]
        .iloc[:1]
        .copy()
    )
    one["trace_answer"], one["answer"] = "good", "bad"
    judged = pd.DataFrame(
        {"question": "e0-r0", "answer": ["good", "bad"], "true": [0.9, 0.6], "info": [0.5, 0.4]},
    )
    row = generation_metrics(one, judged).iloc[0]
    assert (row["true"], row["info"], row["harmed"], row["helped"]) == (1.0, 0.0, 1.0, 0.0)


def test_a_judge_of_truth_alone_leaves_info_unknown_and_stands_for_the_product(answers):
    generations, judged, scores = answers
    frame = question_metrics(QUESTIONS, generations, judged.drop(columns="info"), scores)
    assert frame["info"].isna().all()
    assert frame["true"].notna().all()
    found = summary(frame, METHODS)["iti"]
    assert found["true_info"] == found["true"]
    assert found["info"] is None


def test_a_dataset_without_generation_has_choices_only(answers):
    generations, judged, scores = answers
    frame = question_metrics(QUESTIONS, generations.iloc[:0], judged.iloc[:0], scores)
    assert frame["true"].isna().all()
    assert frame["mc1"].notna().all()


def test_true_info_of_the_summary_is_a_product_per_fold(frame):
    folds = [rows for _, rows in frame[frame["method"] == "iti"].groupby("fold")]
    expected = np.mean(
        [true_info(rows["true"].to_numpy(), rows["info"].to_numpy()) for rows in folds]
    )
    found = summary(frame, METHODS)
    assert found["iti"]["true_info"] == pytest.approx(expected)
    assert found["iti"]["n"] == len(QUESTIONS)
    assert list(found) == list(METHODS)


def test_an_answer_without_a_verdict_is_refused(answers):
    generations, judged, scores = answers
    with pytest.raises(DataError, match=r"no verdict on .* run the stage 'judge'"):
        question_metrics(QUESTIONS, generations, judged.iloc[:3], scores)


def test_a_cell_without_any_row_is_refused(answers):
    with pytest.raises(DataError, match="neither generations nor scores"):
        question_metrics(QUESTIONS, *(frame.iloc[:0] for frame in answers))


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        ("A", "A", True),
        ("a. Because", "A", True),
        ("Apple", "A", False),
        ("The answer is A", "A", False),
        ("positive!", "Positive", True),
        ("", "A", False),
        ("...", "A", False),
        ("**A**", "A", True),
        ("U.S.", "us", True),
        ("cafe\u0301", "Caf\u00e9", True),
        ("\u0915\u0932", "\u0915\u093e\u0932", False),
    ],
)
def test_an_exact_match_opens_with_the_label_but_for_case_and_punctuation(answer, label, right):
    assert exact_match(answer, label) is right


def test_exact_match_is_a_column_where_the_dataset_asks_for_it(answers):
    generations, judged, scores = answers
    none = judged.drop(columns=["true", "info"])
    said = generations.assign(
        answer=["Oak, I think." if i % 2 else "clay" for i in range(len(generations))]
    )
    frame = question_metrics(QUESTIONS, said, none, scores, exact=True)
    assert frame["exact"].between(0, 1).all()
    assert frame["exact"].mean() == pytest.approx(0.5, abs=0.1)
    assert question_metrics(QUESTIONS, said, none, scores)["exact"].isna().all()
