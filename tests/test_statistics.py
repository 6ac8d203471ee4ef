from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import permutation_test

from fasb.metrics.statistics import (
    Panel,
    compare,
    differences,
    estimate,
    holm,
    intervals,
    mcnemar,
    p_value,
    resample,
)


def panel(units=3, groups=4, per_group=2, seeds=2, rng_seed=0):
    """Two methods and a half-missing metric; two folds in each unit, halves of its groups."""
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


def test_estimates_are_means_of_units_of_means_of_folds():
    np.testing.assert_allclose(estimate(panel()), plain_estimate(panel()), rtol=1e-12)


def test_true_info_is_last_and_the_product_of_fold_means():
    one = panel(units=1)
    assert one.columns == ("true", "info", "mc1", "true_info")
    assert replace(one, metrics=("true", "mc1", "mc2")).columns == ("true", "mc1", "mc2")


def test_split_seeds_that_say_the_same_narrow_nothing():
    one = panel(seeds=1)
    many = replace(one, values=one.values.repeat(5, -1))
    np.testing.assert_allclose(resample(one, 200), resample(many, 200), rtol=1e-12)


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
    values = rng.integers(0, 2, (1, 1, n, 1)).astype(np.float64)
    made = Panel(("a",), ("true",), values, np.zeros(n, int), np.arange(n))
    found = intervals(made, resample(made, 4000))
    assert (found.high - found.low)[0, 0] == pytest.approx(
        2 * 1.96 * values.std() / np.sqrt(n), rel=0.1
    )


def test_units_that_differ_widen_the_interval():
    made = panel(units=4, groups=20, per_group=1, seeds=1)
    made.values[:, 0] = (made.unit % 2).astype(np.float64)[:, None]
    found = intervals(made, resample(made, 2000))
    assert (found.low[0, 0], found.high[0, 0]) == (0.0, 1.0)


def test_a_method_never_differs_from_itself():
    made = panel()
    made.values[1] = made.values[0]
    found = differences(made, resample(made, 100), "base")
    known = np.isfinite(found.value)
    assert not found.low[known].any()
    assert not found.high[known].any()


def test_a_paired_difference_is_narrower_than_its_sides():
    rng = np.random.default_rng(0)
    n = 200
    base = rng.integers(0, 2, n).astype(np.float64)
    new = np.where(rng.random(n) < 0.05, 1.0, base)
    values = np.stack([base, new])[:, None, :, None]
    made = Panel(("base", "new"), ("true",), values, np.zeros(n, int), np.arange(n))
    draws = resample(made, 1000)
    side, paired = intervals(made, draws), differences(made, draws, "base")
    assert (paired.high - paired.low)[1, 0] < 0.5 * (side.high - side.low)[1, 0]


def test_a_missing_metric_stays_missing():
    made = panel()
    draws = resample(made, 50)
    assert np.isnan(intervals(made, draws).low[0, 2])
    assert np.isnan(differences(made, draws, "base").value[1, 2])
    assert np.isnan(p_value(made, "new", "base", "mc1"))


def test_without_draws_there_is_an_estimate_and_no_interval():
    found = intervals(panel(), resample(panel(), 0))
    assert np.isnan(found.low).all()
    np.testing.assert_allclose(found.value, plain_estimate(panel()))


def test_the_same_seed_gives_the_same_draws():
    np.testing.assert_array_equal(resample(panel(), 20, seed=3), resample(panel(), 20, seed=3))


def test_p_value_of_plain_questions_equals_scipys():
    rng = np.random.default_rng(2)
    n = 8
    base, new = rng.random(n), rng.random(n) + 0.3
    made = Panel(
        ("base", "new"),
        ("true",),
        np.stack([base, new])[:, None, :, None],
        np.zeros(n, int),
        np.arange(n),
    )

    def mean_difference(a, b, axis):
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    exact = permutation_test(
        (new, base), mean_difference, permutation_type="samples", vectorized=True
    )
    assert p_value(made, "new", "base", "true") == pytest.approx(exact.pvalue)


def test_p_value_is_small_for_a_gain_and_large_for_none():
    made = panel(units=2, groups=20)
    made.values[0, :2], made.values[1, :2] = 0.0, 1.0
    assert p_value(made, "new", "base", "true_info") < 0.01
    made.values[1] = made.values[0]
    assert p_value(made, "new", "base", "true_info") == 1.0


def test_a_few_undefined_draws_leave_the_interval_and_many_do_not():
    made = panel()
    draws = resample(made, 200)
    known = intervals(made, draws)
    draws[:19, 1, 0] = np.nan
    few = intervals(made, draws)
    assert [few.low[1, 0], few.high[1, 0]] == pytest.approx(
        np.nanquantile(draws[19:, 1, 0], [0.025, 0.975])
    )
    draws[:21, 1, 0] = np.nan
    many = intervals(made, draws)
    assert np.isnan([many.low[1, 0], many.high[1, 0]]).all()
    others = np.arange(many.low.size).reshape(many.low.shape) != many.low.shape[1]
    np.testing.assert_array_equal(many.low[others], known.low[others])


def one_outcome_each(base, new):
    values = np.stack([base, new]).astype(np.float64)[:, None, :, None]
    return Panel(("base", "new"), ("true",), values, np.zeros(len(base), int), np.arange(len(base)))


def test_mcnemar_is_the_sign_test_of_the_questions_that_changed():
    base = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    new = np.array([0, 1, 1, 1, 1, 1, 1, 1, 0], bool)
    assert mcnemar(base, new) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(base, new) == mcnemar(new, base)
    assert mcnemar(base, base) == 1.0


def test_mcnemar_is_what_the_permutation_test_gives_for_one_outcome_per_question():
    rng = np.random.default_rng(0)
    made = one_outcome_each(rng.random(12) < 0.4, rng.random(12) < 0.8)
    found = compare(made, "new", "base", "true")
    assert found.test == "mcnemar"
    assert found.p == pytest.approx(p_value(made, "new", "base", "true", n_draws=2**13))


@pytest.mark.parametrize(
    "change",
    [
        lambda made: replace(made, group=made.group // 2),
        lambda made: replace(made, values=np.where(made.values == 1, 0.5, made.values)),
        lambda made: replace(made, values=made.values.repeat(2, -1)),
    ],
    ids=["questions that belong together", "means over phrasings", "several split seeds"],
)
def test_what_is_not_one_outcome_per_question_is_permuted(change):
    made = one_outcome_each(np.arange(8) % 2, np.ones(8))
    assert compare(made, "new", "base", "true").test == "mcnemar"
    assert compare(change(made), "new", "base", "true").test == "permutation"


def test_holm_equals_the_step_down_procedure():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])
    assert np.isnan(holm(np.array([np.nan]))).all()
    np.testing.assert_allclose(holm(np.array([0.7, 0.6])), 1.0)
