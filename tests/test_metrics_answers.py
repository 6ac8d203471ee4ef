import numpy as np
import pytest

from fasb.metrics.answers import choice_metrics, degenerate, harmed, helped, true_info, verdict


def plain(true, false, best):
    """The definition, in probabilities."""
    true, false = np.exp(true), np.exp(false)
    mc1 = float(all(true[best] > f for f in false))
    mc3 = np.mean([all(t > f for f in false) for t in true])
    return mc1, true.sum() / (true.sum() + false.sum()), mc3


def test_equals_the_definition_in_probabilities():
    rng = np.random.default_rng(0)
    for _ in range(100):
        true, false = (
            -rng.exponential(5, rng.integers(1, 6)),
            -rng.exponential(5, rng.integers(1, 6)),
        )
        best = int(rng.integers(len(true)))
        np.testing.assert_allclose(
            choice_metrics(true, false, best), plain(true, false, best), rtol=1e-12
        )


def test_a_questions_scores_under_many_bundles_are_each_as_alone():
    rng = np.random.default_rng(1)
    logprob = -rng.exponential(5, (6, 5))
    logprob[2], logprob[3, 0] = -np.inf, -np.inf  # no answer is possible; one is not
    true, false = logprob[:, :3], logprob[:, 3:]
    together = np.stack(choice_metrics(true, false, 1), axis=1)
    for i, row in enumerate(together):
        np.testing.assert_array_equal(row, choice_metrics(true[i], false[i], 1))
    assert np.isnan(together[:, 1]).nonzero()[0].tolist() == [2]


@pytest.mark.parametrize(
    ("true", "false", "best", "mc1", "mc3"),
    [
        pytest.param([-1.0, -5.0], [-1.0], 0, 0.0, 0.0, id="a tie counts for the false answer"),
        pytest.param(
            [-1.0, -5.0],
            [-2.0, -9.0],
            0,
            1.0,
            0.5,
            id="the likeliest false answer is the one to beat",
        ),
        pytest.param([-1.0, -5.0], [-2.0], 1, 0.0, 0.5, id="MC1 looks at the best answer alone"),
        pytest.param([-np.inf], [-np.inf], 0, 0.0, 0.0, id="impossible answers tie"),
    ],
)
def test_answers_are_compared_strictly(true, false, best, mc1, mc3):
    found = choice_metrics(np.array(true), np.array(false), best)
    assert (found.mc1, found.mc3) == (mc1, mc3)


def test_mc2_survives_where_every_probability_underflows():
    true, false = np.array([-2000.0]), np.array([-2000.0 + np.log(3), -9000.0])
    assert choice_metrics(true, false, 0).mc2 == pytest.approx(0.25)


def test_single_precision_scores_are_accepted():
    found = choice_metrics(
        np.array([-1.0], dtype=np.float32), np.array([-1.0], dtype=np.float32), 0
    )
    assert found.mc2 == pytest.approx(0.5)


def test_a_question_without_false_answers_is_skipped():
    assert np.isnan(choice_metrics(np.array([-1.0]), np.array([]), 0)).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_score_that_is_no_log_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="not to be trusted"):
        choice_metrics(np.array([-1.0, wrong]), np.array([-1.0]), 0)
    with pytest.raises(ValueError, match="at least one true answer"):
        choice_metrics(np.array([]), np.array([-1.0]), 0)


def test_true_info_is_the_product_of_the_means():
    true, info = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])
    assert true_info(true, info) == 0.5 * 0.75
    assert true_info(true, info) != (true * info).mean()


def test_harmed_and_helped_never_overlap():
    before = np.array([True, True, False, False])
    after = np.array([True, False, True, False])
    assert harmed(before, after).tolist() == [False, True, False, False]
    assert helped(before, after).tolist() == [False, False, True, False]


def test_a_judge_at_one_half_says_yes():
    assert verdict(np.array([0.49, 0.5, 1.0])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("", True),
        (" .!? ", True),
        ("No.", False),
        ("42", False),
        ("1000000000", False),
        ("ItItItItItItItItItItItIt", True),
        ("The sky is blue. The sky is blue. The sky is blue. The sky is blue.", True),
        ("The sky is blue. The sky is blue.", False),
        ("空は青いです。" * 5, True),
        ("one, two, three, four, five, six, seven, eight, nine, ten", False),
        ("The watermelon seeds pass through your digestive system, and nothing happens.", False),
    ],
)
def test_an_answer_without_content_or_that_repeats_is_degenerate(text, bad):
    assert degenerate(text) == bad
