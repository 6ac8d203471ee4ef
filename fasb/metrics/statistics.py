"""Intervals and paired comparisons of methods that answered the same questions.

In: a `Panel` of per-question values. Out: estimates with bootstrap intervals, paired differences
against a baseline, p-values. Knows no file and no model.

Two levels are resampled: first the outer units (world seeds; folds where there is one world or
dataset only), then, inside every unit drawn, the groups of questions that belong together. Split
seeds share their test questions, so they are averaged, never resampled. True*Info is a product of
means and is formed anew in every draw. All methods see the same draws, which makes differences
paired. `scipy.stats.bootstrap` knows no nested units, so the draws are made here; the percentile
interval is used, which is too narrow for few units.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest, permutation_test

PRODUCTS = {"true_info": ("true", "info")}
"""Metrics that are products of two means of one fold (docs/method.md Q9)."""
DEFINED = 0.9
"""Share of bootstrap draws that must have a value, or there is no interval."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Values of several methods on the same questions.

    values: NaN where a question was not tested in that part, or the metric does not exist for it. A
    part is one fold under one split seed: means are taken inside a part, then averaged over parts.
    unit: what is resampled first, 0, 1, … group: what is resampled inside a unit; groups are
    numbered through.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Float[np.ndarray, "method metric question part"]
    unit: Int[np.ndarray, " question"]
    group: Int[np.ndarray, " question"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Metrics of every result: the panel's own, then the products that can be formed of them."""
        return self.metrics + tuple(
            name for name, of in PRODUCTS.items() if set(of) <= set(self.metrics)
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """Estimates of every method and metric (order: `Panel.columns`) with a percentile interval."""

    value: Float[np.ndarray, "method metric"]
    low: Float[np.ndarray, "method metric"]
    high: Float[np.ndarray, "method metric"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums and counts of the values of each group of one unit."""

    total: Float[np.ndarray, "group method metric part"]
    count: Float[np.ndarray, "group method metric part"]


def estimate(panel: Panel) -> Float[np.ndarray, "method metric"]:
    """Mean over units of the mean over parts; products are formed inside a part."""
    return _mean(
        np.stack([_means(panel, sums.total.sum(0), sums.count.sum(0)) for sums in _units(panel)]), 0
    )


def resample(
    panel: Panel, n_draws: int = 2000, seed: int = 0
) -> Float[np.ndarray, "draw method metric"]:
    """The estimate in each of `n_draws` bootstrap draws, the same draws for every method."""
    rng = np.random.default_rng(seed)
    units = _units(panel)
    picked = rng.integers(len(units), size=(n_draws, len(units)))
    drawn = np.full((*picked.shape, len(panel.methods), len(panel.columns)), np.nan)
    for unit, sums in enumerate(units):
        here = picked == unit
        n_groups = len(sums.total)
        times = rng.multinomial(
            n_groups, np.full(n_groups, 1 / n_groups), size=int(here.sum())
        ).astype(np.float64)
        drawn[here] = _means(
            panel, np.tensordot(times, sums.total, 1), np.tensordot(times, sums.count, 1)
        )
    return _mean(drawn, 1)


def intervals(
    panel: Panel, draws: Float[np.ndarray, "draw method metric"], level: float = 0.95
) -> Interval:
    """Each method's estimate and interval, from the draws of `resample`."""
    return _interval(estimate(panel), draws, level)


def differences(
    panel: Panel, draws: Float[np.ndarray, "draw method metric"], baseline: str, level: float = 0.95
) -> Interval:
    """Each method minus the baseline, draw by draw."""
    base = panel.methods.index(baseline)
    value = estimate(panel)
    return _interval(value - value[base], draws - draws[:, base, None], level)


class Tested(NamedTuple):
    """A two-sided p-value, NaN where nothing can be compared, and the test that gave it."""

    p: float
    test: str


def compare(panel: Panel, method: str, baseline: str, metric: str) -> Tested:
    """McNemar's test where every question is its own group and has one outcome, 0 or 1; else the permutation test."""
    pair = _outcomes(panel, method, baseline, metric)
    if pair is None:
        return Tested(p_value(panel, method, baseline, metric), "permutation")
    return Tested(mcnemar(*pair), "mcnemar")


def mcnemar(before: Bool[np.ndarray, " question"], after: Bool[np.ndarray, " question"]) -> float:
    """Exact two-sided p: of the questions that changed, as many should be gained as lost."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P-values corrected for their number (Holm 1979); NaN stays NaN and does not count."""
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(
        np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0
    )
    return corrected


def _outcomes(
    panel: Panel, method: str, baseline: str, metric: str
) -> tuple[Bool[np.ndarray, " question"], Bool[np.ndarray, " question"]] | None:
    """The baseline's and the method's outcome on questions that both have; None if McNemar's test is not for them."""
    if metric not in panel.metrics or len(np.unique(panel.group)) < len(panel.group):
        return None
    values = panel.values[
        [panel.methods.index(baseline), panel.methods.index(method)], panel.metrics.index(metric)
    ]
    both = np.isfinite(values).all(axis=0)
    if not both.any() or both.sum(axis=1).max() > 1 or not np.isin(values[:, both], (0, 1)).all():
        return None
    before, after = values[:, both] == 1
    return before, after


def p_value(panel: Panel, method: str, baseline: str, metric: str, n_draws: int = 1999) -> float:
    """Two-sided permutation p-value of the difference: method and baseline are swapped group by group.

    The null hypothesis is that the two differ in name only. Units are held fixed, so it speaks
    about these worlds and folds. NaN where one of the two lacks the metric, or there is but one
    group.
    """
    pair = [panel.methods.index(method), panel.methods.index(baseline)]
    column = panel.columns.index(metric)
    units = [Sums(sums.total[:, pair], sums.count[:, pair]) for sums in _units(panel)]
    n_groups = [len(sums.total) for sums in units]
    n = sum(n_groups)

    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        """Difference where `first` holds, per group, whose answers bear the method's name: < n its own."""
        swapped = np.moveaxis(first >= n, axis, -1).reshape(-1, n)
        by_unit = np.split(swapped, np.cumsum(n_groups)[:-1], axis=1)
        each = np.stack(
            [_swapped_means(panel, sums, swap) for sums, swap in zip(units, by_unit, strict=True)]
        )
        found = _mean(each, 0)[..., column]
        return (found[:, 0] - found[:, 1]).reshape(np.moveaxis(first, axis, -1).shape[:-1])

    if n < 2 or not np.isfinite(difference(np.arange(n), np.arange(n))):
        return np.nan
    samples = (np.arange(n), np.arange(n, 2 * n))
    test = permutation_test(
        samples,
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_draws,
        batch=500,
        rng=0,
    )
    return float(test.pvalue)


def _swapped_means(
    panel: Panel, sums: Sums, swapped: Bool[np.ndarray, "draw group"]
) -> Float[np.ndarray, "draw method metric"]:
    """Means of one unit's two methods after some groups have changed sides."""
    swap = swapped.astype(np.float64)
    totals, counts = ((kept.sum(0), kept[:, ::-1] - kept) for kept in (sums.total, sums.count))
    return _means(
        panel, *(plain + np.tensordot(swap, change, 1) for plain, change in (totals, counts))
    )


def _units(panel: Panel) -> list[Sums]:
    return [_sums(panel, np.flatnonzero(panel.unit == unit)) for unit in np.unique(panel.unit)]


def _sums(panel: Panel, of: Int[np.ndarray, " question"]) -> Sums:
    """Sums over the questions of each group."""
    _, group = np.unique(panel.group[of], return_inverse=True)
    member = (group == np.arange(group.max() + 1)[:, None]).astype(np.float64)
    values = np.moveaxis(panel.values[:, :, of], 2, 0)
    known = np.isfinite(values)
    return Sums(
        np.tensordot(member, np.where(known, values, 0.0), 1),
        np.tensordot(member, known.astype(np.float64), 1),
    )


def _means(
    panel: Panel,
    total: Float[np.ndarray, "*draw method metric part"],
    count: Float[np.ndarray, "*draw method metric part"],
) -> Float[np.ndarray, "*draw method column"]:
    """Mean per part, products per part, then the mean over parts."""
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    made = [PRODUCTS[name] for name in panel.columns[len(panel.metrics) :]]
    columns = [
        mean[..., panel.metrics.index(a), :] * mean[..., panel.metrics.index(b), :] for a, b in made
    ]
    return _mean(np.concatenate([mean, *(column[..., None, :] for column in columns)], axis=-2), -1)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    return np.divide(
        np.where(known, values, 0.0).sum(axis),
        count,
        out=np.full(count.shape, np.nan),
        where=count > 0,
    )


def _interval(value: np.ndarray, draws: np.ndarray, level: float) -> Interval:
    if not len(draws):
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    tails = [(1 - level) / 2, (1 + level) / 2]
    known = np.isfinite(draws).mean(0) >= DEFINED
    low, high = np.nanquantile(np.where(known, draws, 0.0), tails, axis=0)
    return Interval(value, np.where(known, low, np.nan), np.where(known, high, np.nan))
