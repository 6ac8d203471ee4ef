from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp, ttest_rel

from fasb.metrics.statistics import (
    Panel,
    Sample,
    compare,
    differences,
    estimate,
    holm,
    intervals,
    p_value,
    resample,
    t_interval,
    world_means,
)


def panel(units=3, groups=4, per_group=2, seeds=2, rng_seed=0):
    """Two methods and a half-missing metric; two folds in each world, halves of its groups."""
    rng = np.random.default_rng(rng_seed)
    n = units * groups * per_group
    group = np.repeat(np.arange(units * groups), per_group)
    values = rng.integers(0, 2, (2, 3, n, seeds)).astype(np.float64)
    values[:, 2, ::3] = np.nan
    values[0, 2] = np.nan
    late = (group % groups >= groups // 2)[:, None]
    parts = np.concatenate(
        [np.where(late, np.nan, values), np.where(late, values, np.nan)], axis=-1
    )
    return Panel(("base", "new"), ("true", "info", "mc1"), parts, group // groups, group)


def one_world(values):
    """A panel of one metric, [method, question], each question a group."""
    n = values.shape[1]
    names = ("base", "new")[: len(values)]
    return Panel(names, ("true",), values[:, None, :, None], np.zeros(n, int), np.arange(n))


def plain_estimate(panel):
    """The definition as a loop."""
    out = np.zeros((len(panel.methods), len(panel.metrics) + 1))
    for m in range(len(panel.methods)):
        columns = []
        for unit in np.unique(panel.unit):
            parts = []
            for j in range(panel.values.shape[-1]):
                part = [panel.values[m, i, panel.unit == unit, j] for i in range(3)]
                means = [x[~np.isnan(x)].mean() if (~np.isnan(x)).any() else np.nan for x in part]
                parts.append([*means, means[0] * means[1]])
            columns.append(np.mean(parts, axis=0))
        out[m] = np.mean(columns, axis=0)
    return out


def test_estimates_are_means_of_worlds_of_means_of_folds():
    np.testing.assert_allclose(estimate(panel()), plain_estimate(panel()), rtol=1e-12)


def test_true_info_is_last_and_the_product_of_fold_means():
    one = panel(units=1)
    assert one.columns == ("true", "info", "mc1", "true_info")
    assert replace(one, metrics=("true", "mc1", "mc2")).columns == ("true", "mc1", "mc2")


def test_where_a_judge_gives_one_score_it_stands_for_the_product():
    one = panel()
    for absent, given in (("info", 0), ("true", 1)):
        values = one.values.copy()
        values[:, one.metrics.index(absent)] = np.nan
        alone = replace(one, values=values)
        np.testing.assert_array_equal(estimate(alone)[:, -1], estimate(alone)[:, given])
        assert np.isfinite(estimate(alone)[:, -1]).all()
        assert compare(alone, "new", "base", "true_info").p > 0
    values[:, :2] = np.nan
    assert np.isnan(estimate(replace(one, values=values))[:, -1]).all()


def test_over_worlds_interval_and_p_are_those_of_a_t_test_of_the_worlds_means():
    made = panel(units=5)
    sample = resample(made)
    worlds = sample.worlds[:, :, 0]
    own, paired = intervals(made, sample), differences(made, sample, "base")
    textbook = ttest_1samp(worlds[:, 1], 0).confidence_interval()
    assert (own.low[1, 0], own.high[1, 0]) == pytest.approx((textbook.low, textbook.high))
    test = ttest_rel(worlds[:, 1], worlds[:, 0])
    textbook = test.confidence_interval()
    assert (paired.low[1, 0], paired.high[1, 0]) == pytest.approx((textbook.low, textbook.high))
    assert compare(made, "new", "base", "true") == (pytest.approx(test.pvalue), "t")


@pytest.mark.parametrize("units", [1, 2])
def test_one_or_two_worlds_have_intervals_over_their_questions_alone(units):
    """Worlds that differ widely but hold equal questions: nothing varies where they are fixed."""
    made = panel(units=units, groups=20, per_group=1, seeds=1)
    made.values[:, 0] = (made.unit % 2).astype(np.float64)[:, None]
    found = intervals(made, resample(made, 500))
    assert made.over == "questions"
    assert np.isnan([found.low[0, 0], found.high[0, 0]]).all()
    made.values[:, 0] = ((made.unit + made.group) % 2).astype(np.float64)[:, None]
    found = intervals(made, resample(made, 500))
    assert found.high[0, 0] - found.low[0, 0] < 0.5


def test_three_worlds_that_differ_have_a_wide_interval():
    made = panel(units=3, groups=20, per_group=1, seeds=1)
    made.values[:, 0] = (made.unit / 2)[:, None]
    found = intervals(made, resample(made))
    assert made.over == "worlds"
    assert found.high[0, 0] - found.low[0, 0] == pytest.approx(2 * 4.303 * 0.5 / 3**0.5, rel=1e-3)


def test_two_known_worlds_of_many_have_no_interval():
    worlds = np.array([[0.2], [0.5], [np.nan], [np.nan]])
    assert np.isnan(t_interval(worlds)).all()
    assert np.isfinite(t_interval(np.array([[0.2], [0.5], [0.4]]))).all()


def test_the_interval_over_five_worlds_covers_as_it_says():
    """Nominal 95 %; the percentile bootstrap over the worlds, used before, covers about 85 %."""
    rng = np.random.default_rng(0)
    n_trials, n_worlds, n_questions, spread = 1000, 5, 40, 0.08
    base = rng.normal(0.5, spread, (n_trials, n_worlds))
    answers = rng.random((n_trials, n_worlds, n_questions)) < base[..., None].clip(0, 1)
    means = answers.mean(-1)
    held = 0
    for trial in answers:
        values = trial.reshape(1, 1, -1, 1).astype(np.float64)
        unit = np.repeat(np.arange(n_worlds), n_questions)
        made = Panel(("a",), ("true",), values, unit, np.arange(values.size))
        found = intervals(made, resample(made))
        held += bool(found.low[0, 0] <= 0.5 <= found.high[0, 0])
    drawn = means[:, rng.integers(n_worlds, size=(1000, n_worlds))].mean(-1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    bootstrap = ((low <= 0.5) & (high >= 0.5)).mean()
    assert held / n_trials == pytest.approx(0.95, abs=0.015)
    assert bootstrap == pytest.approx(0.85, abs=0.03)


def test_split_seeds_that_say_the_same_narrow_nothing():
    for units in (1, 5):
        one = panel(units=units, seeds=1)
        many = replace(one, values=one.values.repeat(5, -1))
        first, second = (intervals(made, resample(made, 200)) for made in (one, many))
        np.testing.assert_allclose(first.low, second.low, rtol=1e-9)


def test_more_groups_narrow_the_interval_but_more_copies_of_a_question_do_not():
    def width(**size):
        made = panel(units=1, seeds=1, **size)
        made.values[:] = (made.group % 2).astype(np.float64)[:, None]
        found = intervals(made, resample(made, 2000))
        return (found.high - found.low)[0, 0]

    assert width(groups=64, per_group=1) < 0.7 * width(groups=16, per_group=1)
    assert width(groups=16, per_group=4) == pytest.approx(width(groups=16, per_group=1))


def test_interval_of_independent_questions_has_the_textbook_width():
    rng = np.random.default_rng(1)
    n = 400
    values = rng.integers(0, 2, (1, n)).astype(np.float64)
    made = one_world(values)
    found = intervals(made, resample(made, 4000))
    assert (found.high - found.low)[0, 0] == pytest.approx(
        2 * 1.96 * values.std() / np.sqrt(n), rel=0.1
    )


@pytest.mark.parametrize("units", [1, 3])
def test_a_method_never_differs_from_itself(units):
    made = panel(units=units)
    made.values[1] = made.values[0]
    found = differences(made, resample(made, 100), "base")
    assert not np.nan_to_num(found.value).any()
    assert np.isnan([found.low, found.high]).all()
    assert compare(made, "new", "base", "true").p == 1.0


def test_a_paired_difference_is_narrower_than_its_sides():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 200).astype(np.float64)
    new = np.where(rng.random(200) < 0.05, 1.0, base)
    made = one_world(np.stack([base, new]))
    sample = resample(made, 1000)
    side, paired = intervals(made, sample), differences(made, sample, "base")
    assert (paired.high - paired.low)[1, 0] < 0.5 * (side.high - side.low)[1, 0]


@pytest.mark.parametrize("units", [1, 3])
def test_a_missing_metric_stays_missing(units):
    made = panel(units=units)
    sample = resample(made, 50)
    assert np.isnan(intervals(made, sample).low[0, 2])
    assert np.isnan(differences(made, sample, "base").value[1, 2])
    assert np.isnan(compare(made, "new", "base", "mc1").p)


def test_without_draws_there_is_an_estimate_and_no_interval():
    made = panel(units=1)
    found = intervals(made, resample(made, 0))
    assert np.isnan(found.low).all()
    np.testing.assert_allclose(found.value, plain_estimate(made))


def test_the_same_seed_gives_the_same_draws():
    first, again = (resample(panel(units=1), 20, seed=3).draws for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_p_value_of_plain_questions_equals_scipys():
    rng = np.random.default_rng(2)
    base, new = rng.random(8), rng.random(8) + 0.3
    made = one_world(np.stack([base, new]))

    def mean_difference(a, b, axis):
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    exact = permutation_test(
        (new, base), mean_difference, permutation_type="samples", vectorized=True
    )
    assert p_value(made, "new", "base", "true") == pytest.approx(exact.pvalue)
    assert compare(made, "new", "base", "true").test == "permutation"


def test_p_value_of_one_outcome_per_question_is_that_of_the_sign_test():
    """Which McNemar's exact test is: so nothing else is needed for single outcomes."""
    base = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], np.float64)
    new = np.array([0, 1, 1, 1, 1, 1, 1, 1, 0], np.float64)
    made = one_world(np.stack([base, new]))
    assert p_value(made, "new", "base", "true") == pytest.approx(2 * (1 + 6) / 2**6)


def test_p_value_is_small_for_a_gain_and_large_for_none():
    made = panel(units=2, groups=20)
    made.values[0, :2], made.values[1, :2] = 0.0, 1.0
    assert p_value(made, "new", "base", "true_info") < 0.01
    made.values[1] = made.values[0]
    assert p_value(made, "new", "base", "true_info") == 1.0


def test_a_few_undefined_draws_leave_the_interval_and_many_do_not():
    made = panel(units=2)
    sample = resample(made, 200)
    draws = sample.draws.copy()
    draws[:19, 1, 0] = np.nan
    few = intervals(made, Sample(sample.worlds, draws))
    assert [few.low[1, 0], few.high[1, 0]] == pytest.approx(
        np.nanquantile(draws[19:, 1, 0], [0.025, 0.975])
    )
    draws[:21, 1, 0] = np.nan
    many = intervals(made, Sample(sample.worlds, draws))
    assert np.isnan([many.low[1, 0], many.high[1, 0]]).all()
    assert many.low[0, 0] == few.low[0, 0]


def test_holm_equals_the_step_down_procedure():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])
    assert np.isnan(holm(np.array([np.nan]))).all()
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), 1.0)


def first_of(n, k):
    """Ten questions of which the first k are right, in each of n worlds."""
    return np.tile(np.arange(10) < k, n).astype(np.float64)


@pytest.mark.parametrize("worlds", [1, 3])
def test_products_that_are_equal_but_for_rounding_do_not_differ(worlds):
    values = np.array([[first_of(worlds, k) for k in pair] for pair in ((1, 9), (3, 3))])
    unit = np.repeat(np.arange(worlds), 10)
    one = Panel(("base", "new"), ("true", "info"), values[..., None], unit, np.arange(len(unit)))
    base, new = world_means(one)[0, :, 2]
    assert base != new
    assert base == pytest.approx(new)
    assert compare(one, "new", "base", "true_info").p > 0.9
