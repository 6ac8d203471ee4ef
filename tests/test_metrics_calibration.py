import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from fasb.metrics.calibration import (
    auc,
    conformal_threshold,
    fewest_for,
    question_weights,
    reliability,
)
from fasb.study.figures.calibration import answer_rows

RNG = np.random.default_rng(0)
P = RNG.random(400)
WRONG = RNG.random(400) < P
ONE = np.ones((1, 400))


def test_bins_are_those_of_scikit_learn():
    found = reliability(P, WRONG, ONE)
    wrong, p = calibration_curve(WRONG, P, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.p[0], p)
    np.testing.assert_allclose(found.wrong[0], wrong)
    assert found.weight.tolist() == [[40.0] * 10]


def test_error_is_the_mean_distance_of_the_bins():
    p, wrong = np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, True, True, True])
    found = reliability(p, wrong, np.ones((1, 4)), n_bins=2)
    assert found.error[0] == pytest.approx((abs(0.15 - 0.5) + abs(0.8 - 1.0)) / 2)


def test_a_calibrated_p_has_a_small_error_and_a_sure_wrong_one_a_large():
    assert reliability(P, WRONG, ONE).error[0] < 0.08
    assert reliability(P, ~WRONG, ONE).error[0] > 0.4
    assert reliability(np.full(400, 0.9), np.zeros(400, bool), ONE).error[0] == pytest.approx(0.9)


@pytest.mark.parametrize("values", [P, np.round(P, 1)], ids=["distinct", "ties"])
def test_area_is_that_of_scikit_learn_under_any_weights(values):
    weight = RNG.integers(0, 4, (3, 400)).astype(float)
    expected = [roc_auc_score(WRONG, values, sample_weight=w) for w in weight]
    np.testing.assert_allclose(auc(values, WRONG, weight), expected)
    assert np.isnan(auc(values, np.ones(400, bool), ONE)).all()


def test_questions_are_drawn_whole_and_the_first_row_is_the_data():
    question = np.repeat(np.arange(20), 3)
    weight = question_weights(question, 50)
    assert (weight[0] == 1).all()
    assert (weight.reshape(51, 20, 3).std(-1) == 0).all()
    assert (weight.sum(1) == 60).all()


def frame(n=60, length=12):
    """Answers whose p says nothing at first and everything in the end."""
    wrong = RNG.random(n) < 0.4
    end = np.where(wrong, 0.8, 0.2)[:, None] + RNG.normal(0, 0.02, (n, 1))
    p = 0.4 + (end - 0.4) * np.linspace(0, 1, length + 1) + RNG.normal(0, 0.01, (n, length + 1))
    return pd.DataFrame(
        {
            "model": "m",
            "dataset": "d",
            "seed": 0,
            "fold": 0,
            "question": [f"q{i}" for i in range(n)],
            "group": [f"q{i}" for i in range(n)],
            "method": "fasb-probe",
            "p": [row[: length + 1 - i % 3].tolist() for i, row in enumerate(p)],
            "true": ~wrong,
        }
    )


def test_p_is_followed_from_the_question_to_the_answers_end():
    rows = answer_rows(frame(), n_draws=100)
    assert list(dict.fromkeys(rows["position"])) == ["question", "1-5", "6-10", "11-15", "answer"]
    area = rows[rows["part"] == "auc"].set_index("position")["value"]
    assert area["question"] < 0.75 < 0.99 < area["answer"]
    middle = rows[rows["part"] == "middle"].set_index("position")["value"]
    assert (middle["question"], middle["answer"]) == (1.0, 0.0)
    assert (rows["position"] == "1-5").sum() == 10 + 3
    assert rows.set_index("position")["n"].to_dict() == {
        "question": 60,
        "1-5": 60,
        "6-10": 60,
        "11-15": 40,
        "answer": 60,
    }
    known = rows[rows["part"] != "bin"]
    assert (known["low"] <= known["high"]).all()


def test_a_window_that_few_answers_reach_is_left_out():
    short = frame()
    short.loc[19:, "p"] = short.loc[19:, "p"].map(lambda p: p[:6])
    rows = answer_rows(short, n_draws=20)
    assert list(dict.fromkeys(rows["position"])) == ["question", "1-5", "answer"]


@pytest.mark.parametrize(("n", "touch"), [(19, 0.05), (53, 0.05), (20, 0.1), (99, 0.3)])
def test_a_new_answer_exceeds_the_conformal_threshold_as_rarely_as_promised(n, touch):
    rng = np.random.default_rng(0)
    exceeded = [rng.random() > conformal_threshold(rng.random(n), touch) for _ in range(4000)]
    promised = (n - (np.ceil(round((n + 1) * (1 - touch), 9)) - 1)) / (n + 1)
    assert promised <= touch + 1e-9
    assert np.mean(exceeded) == pytest.approx(promised, abs=0.02)


def test_too_few_answers_give_no_threshold():
    assert conformal_threshold(np.ones(18), 0.05) == np.inf
    assert conformal_threshold(np.arange(19.0), 0.05) == 18
    assert conformal_threshold(np.empty(0), 0.5) == np.inf
    for touch in np.arange(1, 100) / 100:
        n = fewest_for(float(touch))
        finite = [np.isfinite(conformal_threshold(np.zeros(k), float(touch))) for k in (n - 1, n)]
        assert finite == [False, True], touch
