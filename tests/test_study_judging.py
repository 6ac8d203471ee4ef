import importlib
import sys

import pandas as pd
import pytest
from fits import some_questions

from fasb.artifacts import Store
from fasb.errors import DataError
from fasb.judges.ask import run_judge
from fasb.settings import JudgeSettings
from fasb.study.judging import check_judge, distinct, judge_pairs, provenance

QUESTIONS = some_questions(20)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A module of somebody else's, with a judge that remembers what it was asked."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "judge.py").write_text(
        "import numpy as np\nfrom fasb.settings import Section\nasked = []\nbroken = False\n"
        "class Settings(Section):\n    odd: int = 1\n    model: str | None = None\n"
        "def judge(questions, answers, settings):\n"
        "    asked.extend((q.id, a) for q, a in zip(questions, answers, strict=True))\n"
        "    return {} if broken else "
        "{'true': np.array([len(a) % 2 == settings.odd for a in answers], float)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lab", "lab.judge"):
        sys.modules.pop(name, None)
    return importlib.import_module("lab.judge")


ANSWERS = pd.DataFrame({"question": ["q1", "q0", "q1", "q1"], "answer": ["b", "aa", "b", ""]})


def test_each_distinct_answer_is_judged_once(lab, tmp_path):
    more = pd.DataFrame({"question": ["q0"], "answer": ["aa"], "trace_answer": ["c"]})
    pairs = distinct(QUESTIONS, [ANSWERS, more])
    assert [(question.id, answer) for question, answer in pairs] == [
        ("q0", "aa"),
        ("q0", "c"),
        ("q1", ""),
        ("q1", "b"),
    ]
    found = judge_pairs(JudgeSettings(use="lab.judge"), pairs)
    assert lab.asked == [(question.id, answer) for question, answer in pairs]
    assert found["true"].tolist() == [0, 1, 0, 1]
    assert list(found.columns) == ["question", "answer", "true"]


def test_what_was_judged_is_not_judged_again_unless_the_judge_changes(lab, tmp_path):
    store, judge = Store(tmp_path / "store"), JudgeSettings(use="lab.judge")
    first = judge_pairs(judge, distinct(QUESTIONS, [ANSWERS]), store)
    more = pd.DataFrame({"question": ["q1", "q2"], "answer": ["new", "b"]})
    lab.asked.clear()
    second = judge_pairs(judge, distinct(QUESTIONS, [ANSWERS, more]), store)
    assert lab.asked == [("q1", "new"), ("q2", "b")]
    assert first.merge(second)["true"].tolist() == first["true"].tolist()
    lab.asked.clear()
    other = judge_pairs(
        JudgeSettings(use="lab.judge", settings={"odd": 0}), distinct(QUESTIONS, [ANSWERS]), store
    )
    assert len(lab.asked) == 3
    assert other["true"].tolist() == (1 - first["true"]).tolist()


def test_nothing_to_judge_gives_no_verdicts(lab):
    found = judge_pairs(
        JudgeSettings(use="lab.judge"),
        distinct(QUESTIONS, [pd.DataFrame({"question": [], "answer": []})]),
    )
    assert found.columns.tolist() == ["question", "answer"]


def test_a_judge_that_gives_no_scores_is_refused(lab):
    lab.broken = True
    with pytest.raises(DataError, match="correct the judge"):
        judge_pairs(JudgeSettings(use="lab.judge"), distinct(QUESTIONS, [ANSWERS]))


def test_an_answer_to_an_unknown_question_is_refused():
    with pytest.raises(DataError, match="give the same questions"):
        distinct(QUESTIONS[:1], [ANSWERS])


def test_a_score_that_is_no_number_names_its_answer(lab, monkeypatch):
    monkeypatch.setattr(
        lab, "judge", lambda questions, answers, settings: {"true": [1.0, float("nan")]}
    )
    with pytest.raises(
        DataError, match=r"lab.judge: `true` is not a number for 'b', answer to .*; correct"
    ):
        run_judge(JudgeSettings(use="lab.judge"), QUESTIONS[:2], ["a", "b"])


def test_a_judge_with_other_weights_is_asked_anew(lab, tmp_path, monkeypatch):
    weights, store = tmp_path / "model" / "model.safetensors", Store(tmp_path / "store")
    weights.parent.mkdir()
    monkeypatch.setenv("JUDGES", str(tmp_path))
    judge = JudgeSettings(use="lab.judge", settings={"model": "$JUDGES/model"})
    for content, times in (("a", 3), ("a", 0), ("other", 3)):
        if not weights.exists() or weights.read_text() != content:
            weights.write_text(content)
        lab.asked.clear()
        judge_pairs(judge, distinct(QUESTIONS, [ANSWERS]), store)
        assert len(lab.asked) == times


def test_a_judge_of_another_commit_is_asked_anew(lab, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    for commit, times in (("a", 3), ("a", 0), ("b", 3)):
        monkeypatch.setattr(
            lab, "provenance", lambda settings, commit=commit: {"revision": commit}, raising=False
        )
        lab.asked.clear()
        judge_pairs(JudgeSettings(use="lab.judge"), distinct(QUESTIONS, [ANSWERS]), store)
        assert len(lab.asked) == times


def test_a_judge_whose_error_is_known_says_it(lab, monkeypatch):
    assert "error" not in provenance(JudgeSettings(use="lab.judge"))
    monkeypatch.setattr(lab, "error", lambda settings: {"true": 0.1}, raising=False)
    assert provenance(JudgeSettings(use="lab.judge"))["error"] == {"true": 0.1}
    assert provenance(JudgeSettings(use="fasb.world.judge"))["error"] == {"true": 0.0, "info": 0.0}


def test_a_judge_is_checked_on_reference_answers_and_fails_as_it_would_later(lab):
    assert check_judge(JudgeSettings(use="lab.judge"), QUESTIONS, 3) == {
        "judge": "lab.judge",
        "n": 6,
        "true": 6,
    }
    assert lab.asked == [(f"q{i}", answer) for i in range(3) for answer in ("yes", "no")]
    lab.broken = True
    with pytest.raises(DataError, match="correct the judge"):
        check_judge(JudgeSettings(use="lab.judge"), QUESTIONS)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"true": [70.0, 5.0]}, r"`true` is 70 for 'a', .*scores go from 0 to 1"),
        ({"true": [0.5, -0.2]}, r"`true` is -0\.2 for 'b'"),
        ({"truth": [0.0, 1.0], "info": [1.0, 1.0]}, "unknown 'truth'; did you mean 'true'"),
        ([0.0, 1.0], "not a mapping but list"),
    ],
)
def test_scores_of_another_scale_or_name_are_refused(lab, monkeypatch, scores, message):
    monkeypatch.setattr(lab, "judge", lambda *_: scores)
    with pytest.raises(DataError, match=message):
        run_judge(JudgeSettings(use="lab.judge"), QUESTIONS[:2], ["a", "b"])


def test_a_probability_that_rounding_took_beyond_1_is_1(lab, monkeypatch):
    monkeypatch.setattr(lab, "judge", lambda *_: {"true": [1 + 1e-7, -1e-8]})
    found = run_judge(JudgeSettings(use="lab.judge"), QUESTIONS[:2], ["a", "b"])
    assert found["true"].tolist() == [1, 0]


@pytest.mark.parametrize("error", [{"true": 8}, {"truth": 0.08}, 0.08, {"true": "8 %"}])
def test_an_error_that_is_no_share_is_refused_before_anything_is_swept(lab, monkeypatch, error):
    monkeypatch.setattr(lab, "error", lambda settings: error, raising=False)
    with pytest.raises(DataError, match=r"lab\.judge: error\(\)"):
        check_judge(JudgeSettings(use="lab.judge"), QUESTIONS)
