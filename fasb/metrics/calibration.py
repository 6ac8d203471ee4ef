"""Calibration of p: whether answers go wrong as often as the tracker says, and which ones do.

In: p of states and whether their answers were wrong in the end. Out: reliability bins of equal
count, expected calibration error, area under the ROC curve. All take weights per state, so that a
bootstrap over questions is one call; scikit-learn has the first without counts, no error, and the
area for one set of weights at a time.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, slots=True)
class Bins:
    """States sorted by p and cut into bins of equal count; a bin without weight is NaN."""

    p: Float[np.ndarray, "draw bin"]
    wrong: Float[np.ndarray, "draw bin"]
    weight: Float[np.ndarray, "draw bin"]

    @property
    def error(self) -> Float[np.ndarray, " draw"]:
        """Expected calibration error: mean distance of a bin's share of wrong ones from its p."""
        # bins without weight are NaN and count nothing
        distance = np.nan_to_num(np.abs(self.p - self.wrong))
        return (distance * self.weight).sum(1) / self.weight.sum(1)


def reliability(
    p: Float[np.ndarray, " state"],
    wrong: Bool[np.ndarray, " state"],
    weight: Float[np.ndarray, "draw state"],
    n_bins: int = 10,
) -> Bins:
    """Return mean p and share of wrong answers of each bin; bins are cut once, unweighted."""
    # bins hold equal numbers, not equal ranges: p of most trackers is bunched
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), n_bins) if len(part)]
    total = np.stack([weight[:, part].sum(1) for part in parts], 1)

    def mean_of(values: Float[np.ndarray, " state"]) -> Float[np.ndarray, "draw bin"]:
        sums = np.stack([weight[:, part] @ values[part] for part in parts], 1)
        return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)

    return Bins(mean_of(p), mean_of(wrong.astype(np.float64)), total)


def auc(
    p: Float[np.ndarray, " state"],
    wrong: Bool[np.ndarray, " state"],
    weight: Float[np.ndarray, "draw state"],
) -> Float[np.ndarray, " draw"]:
    """Return the chance that a wrong answer has the higher p, ties counting half (area under ROC).

    NaN where one kind is missing.
    """
    order = np.argsort(p, kind="stable")
    # equal p form one step of the curve: half of its pairs count as won
    starts = np.unique(p[order], return_index=True)[1]
    high = np.add.reduceat(weight[:, order] * wrong[order], starts, axis=1)
    low = np.add.reduceat(weight[:, order] * ~wrong[order], starts, axis=1)
    pairs = high.sum(1) * low.sum(1)
    won = (high * (low.cumsum(1) - low / 2)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)


def question_weights(
    question: Int[np.ndarray, " state"], n_draws: int, seed: int = 0
) -> Float[np.ndarray, "draw state"]:
    """Return how often each state counts when questions are drawn with replacement.

    The first row is the data as they are.
    """
    n = int(question.max()) + 1
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return np.concatenate([np.ones((1, n)), times])[:, question]


def fewest_for(touch: float) -> int:
    """Return how many answers a promise of `touch` takes: of fewer, the threshold is infinite."""
    return math.ceil(round(1 / touch - 1, 9))


def conformal_threshold(highest: Float[np.ndarray, " answer"], touch: float) -> float:
    """Return the least threshold that a new answer of the same kind exceeds at most `touch` often.

    Split conformal (docs/method.md X7): of n answers, the ceil((n + 1) (1 - touch))-th lowest.
    Infinite where so few answers promise nothing (`fewest_for`).
    """
    n = len(highest)
    rank = math.ceil(round((n + 1) * (1 - touch), 9))  # 20 * .95 is 19, not a little more
    return float(np.sort(highest)[rank - 1]) if rank <= n else math.inf
