"""Intervals and paired comparisons of methods that answered the same questions.

In: a `Panel` of per-question values. Out: estimates and paired differences with intervals and
p-values. Knows no file and no model.

What varies decides what an interval is about. From three worlds on (models with their datasets,
each fitted and tuned by itself) it is a t interval over the worlds' means and speaks of further
worlds of this kind: it holds what questions, fitting and tuning add. One or two worlds say nothing
of others; there, groups of questions that belong together are drawn anew inside each (percentile
bootstrap), and the interval speaks of these worlds with their fits held fixed. A p-value answers
the same question as its interval. Split seeds share their test questions, so they are averaged,
never resampled. Where nothing varied there is no interval. True*Info is a product of means and is
formed inside each fold, in every draw. All methods see the same draws, which makes differences
paired.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import permutation_test
from scipy.stats import t as student

PRODUCTS = {"true_info": ("true", "info")}
"""Metrics that are products of two means of one fold (docs/method.md Q9).

Where nothing has the one of the two, as of a judge that gives one score, the other stands alone.
"""
DEFINED = 0.9
"""Share of bootstrap draws that must have a value, or there is no interval."""
ROUNDING = 12
"""Digits in which differences count: products that are equal may differ in their last."""
LEVEL = 0.95
"""Of every interval."""
ENOUGH_WORLDS = 3
"""From so many worlds on, intervals are over worlds; of two, t has one degree of freedom."""

Over = Literal["worlds", "questions"]
"""What an interval or a p-value is about: further worlds, or further questions in these."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Values of several methods on the same questions.

    values: NaN where a question was not tested in that part, or the metric does not exist for it. A
    part is one fold under one split seed: means are taken inside a part, then averaged over parts.
    unit: the world, 0, 1, … group: what is drawn together inside a world; groups are numbered
    through.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Float[np.ndarray, "method metric question part"]
    unit: Int[np.ndarray, " question"]
    group: Int[np.ndarray, " question"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Metrics of every result: the panel's own, then the products that they allow."""
        made = [name for name, of in PRODUCTS.items() if set(of) <= set(self.metrics)]
        return (*self.metrics, *made)

    @property
    def n(self) -> Int[np.ndarray, "method column"]:
        """How many questions have each of `columns`; a product is of what has the rarer factor."""
        own = np.isfinite(self.values).any(-1).sum(-1)
        of = {name: own[:, i] for i, name in enumerate(self.metrics)}
        for name in self.columns[len(self.metrics) :]:
            of[name] = np.min([of[factor] for factor in PRODUCTS[name]], 0)
        return np.stack([of[name] for name in self.columns], 1)

    @property
    def over(self) -> Over:
        """What intervals are about."""
        return "worlds" if len(np.unique(self.unit)) >= ENOUGH_WORLDS else "questions"


@dataclass(frozen=True, slots=True)
class Interval:
    """Estimates of every method and metric (order: `Panel.columns`) with a 95 % interval."""

    value: Float[np.ndarray, "method metric"]
    low: Float[np.ndarray, "method metric"]
    high: Float[np.ndarray, "method metric"]


@dataclass(frozen=True, slots=True)
class Sample:
    """How estimates vary: over worlds, and where these are few, over questions drawn anew."""

    worlds: Float[np.ndarray, "world method metric"]
    draws: Float[np.ndarray, "draw method metric"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums and counts of the values of each group of one world."""

    total: Float[np.ndarray, "group method metric part"]
    count: Float[np.ndarray, "group method metric part"]


def world_means(panel: Panel) -> Float[np.ndarray, "world method metric"]:
    """Return each world's mean over its parts; products are formed inside a part."""
    found = [_means(panel, sums.total.sum(0), sums.count.sum(0)) for sums in _units(panel)]
    return np.stack(found)


def estimate(panel: Panel) -> Float[np.ndarray, "method metric"]:
    """Return the mean over worlds of the mean over parts."""
    return mean_of_known(world_means(panel), 0)


def resample(panel: Panel, n_draws: int = 2000, seed: int = 0) -> Sample:
    """Return what intervals are made of; questions are drawn only where worlds are too few."""
    worlds = world_means(panel)
    if panel.over == "worlds" or not n_draws:
        return Sample(worlds, np.empty((0, *worlds.shape[1:])))
    rng = np.random.default_rng(seed)
    drawn = []
    for sums in _units(panel):
        n_groups = len(sums.total)
        # one draw of groups for all methods: that pairs their differences
        times = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
        totals = np.tensordot(times.astype(np.float64), sums.total, 1)
        counts = np.tensordot(times.astype(np.float64), sums.count, 1)
        drawn.append(_means(panel, totals, counts))
    return Sample(worlds, mean_of_known(np.stack(drawn), 0))


def intervals(panel: Panel, sample: Sample) -> Interval:
    """Return each method's estimate and interval, from what `resample` gave."""
    value = mean_of_known(sample.worlds, 0)
    if panel.over == "worlds":
        low, high = t_interval(sample.worlds)
    elif len(sample.draws):
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        known = np.isfinite(sample.draws).mean(0) >= DEFINED
        # what is left out is filled first, as numpy warns of columns of nothing but NaN
        drawn = np.nanquantile(np.where(known, sample.draws, 0.0), tails, axis=0)
        low, high = np.where(known, drawn, np.nan)
    else:
        low = high = np.full_like(value, np.nan)
    # 0 of 160 is no proof of 0: where nothing varied, neither method has anything to say
    varied = high - low > 10.0**-ROUNDING
    return Interval(value, np.where(varied, low, np.nan), np.where(varied, high, np.nan))


def differences(panel: Panel, sample: Sample, baseline: str) -> Interval:
    """Return each method minus the baseline, paired world by world or draw by draw."""
    base = panel.methods.index(baseline)
    worlds = sample.worlds - sample.worlds[:, base, None]
    return intervals(panel, Sample(worlds, sample.draws - sample.draws[:, base, None]))


def t_interval(values: Float[np.ndarray, "world ..."]) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of the mean over worlds by t; NaN where fewer than three have a value."""
    mean, error, n = _standard_error(values)
    half = student.ppf((1 + LEVEL) / 2, np.maximum(n - 1, 1)) * error
    half = np.where(n >= ENOUGH_WORLDS, half, np.nan)
    return mean - half, mean + half


class Tested(NamedTuple):
    """A two-sided p-value, NaN where nothing can be compared, and the test that gave it."""

    p: float
    test: str


def compare(
    panel: Panel, method: str, baseline: str, metric: str, n_permutations: int = 1999
) -> Tested:
    """Return p of a difference by the test that asks what its interval asks.

    Over three or more worlds that is the paired t test of the worlds' differences; in one or two it
    is the permutation of groups of questions.
    """
    if panel.over == "questions":
        p = p_value(panel, method, baseline, metric, n_permutations)
        return Tested(p, "permutation")
    worlds, column = world_means(panel), panel.columns.index(metric)
    change = worlds[:, panel.methods.index(method)] - worlds[:, panel.methods.index(baseline)]
    return Tested(_t_p_value(change[:, column]), "t")


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Return p-values corrected for their number (Holm 1979); NaN stays NaN and does not count."""
    # NaN sorts last and is cut off: what was not tested is no claim
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    stepped = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def p_value(panel: Panel, method: str, baseline: str, metric: str, n_draws: int = 1999) -> float:
    """Return the two-sided p-value of swapping method and baseline group by group.

    The null hypothesis is that the two differ in name only. Worlds and folds are held fixed. NaN
    where one of the two lacks the metric, or there is but one group.
    """
    pair = [panel.methods.index(method), panel.methods.index(baseline)]
    column = panel.columns.index(metric)
    units = [Sums(sums.total[:, pair], sums.count[:, pair]) for sums in _units(panel)]
    n_groups = [len(sums.total) for sums in units]
    n = sum(n_groups)

    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        """Difference where `first` says whose answers bear the method's name: < n its own."""
        swapped = np.moveaxis(first >= n, axis, -1).reshape(-1, n)
        by_unit = np.split(swapped, np.cumsum(n_groups)[:-1], axis=1)
        each = np.stack(
            [_swapped_means(panel, sums, swap) for sums, swap in zip(units, by_unit, strict=True)]
        )
        found = mean_of_known(each, 0)[..., column]
        change = np.round(found[:, 0] - found[:, 1], ROUNDING)
        return change.reshape(np.moveaxis(first, axis, -1).shape[:-1])

    # nobody swapped: the difference as it is
    if n < 2 or not np.isfinite(difference(np.arange(n), np.arange(n))):
        return np.nan
    # groups by number, the baseline's from n on; scipy changes sides of pairs
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
    # `change`: what a group that swaps adds to each method's sums
    totals, counts = ((kept.sum(0), kept[:, ::-1] - kept) for kept in (sums.total, sums.count))
    return _means(
        panel, *(plain + np.tensordot(swap, change, 1) for plain, change in (totals, counts))
    )


def _units(panel: Panel) -> list[Sums]:
    return [_sums(panel, np.flatnonzero(panel.unit == unit)) for unit in np.unique(panel.unit)]


def _sums(panel: Panel, of: Int[np.ndarray, " question"]) -> Sums:
    """Return sums over the questions of each group."""
    _, group = np.unique(panel.group[of], return_inverse=True)
    # one matrix product sums each group for all methods and parts
    member = (group == np.arange(group.max() + 1)[:, None]).astype(np.float64)
    # member: [group, question]; values: [question, method, metric, part]
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
    # a product of a fold's means, which is not the mean of products
    columns = []
    for name in panel.columns[len(panel.metrics) :]:
        numbers = [panel.metrics.index(factor) for factor in PRODUCTS[name]]
        known = [i for i in numbers if np.isfinite(panel.values[:, i]).any()]
        # without any it is as undefined as its factors
        columns.append(mean[..., known or numbers, :].prod(axis=-2, keepdims=True))
    return mean_of_known(np.concatenate([mean, *columns], axis=-2), -1)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    return np.divide(
        np.where(known, values, 0.0).sum(axis),
        count,
        out=np.full(count.shape, np.nan),
        where=count > 0,
    )


def _standard_error(
    values: Float[np.ndarray, "world ..."],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over worlds, its standard error, and how many worlds have a value."""
    n = np.isfinite(values).sum(0)
    mean = mean_of_known(values, 0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    return mean, np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1)), n


def _t_p_value(change: Float[np.ndarray, " world"]) -> float:
    # worlds are independent, so their differences are a plain sample
    rounded = np.round(change, ROUNDING)
    mean, error, n = (part.item() for part in _standard_error(rounded[:, None]))
    if n < ENOUGH_WORLDS:
        return np.nan
    if not error:  # the same difference in every world
        return 0.0 if mean else 1.0
    return float(2 * student.sf(abs(mean / error), n - 1))
