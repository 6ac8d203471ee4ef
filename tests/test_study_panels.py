"""Panels: what of a comparison's rows is averaged, and what is not."""

import numpy as np
import pandas as pd

from fasb.metrics.statistics import estimate
from fasb.study.panels import comparisons


def rows_of(method, kl):
    """Two texts in each of two folds, with the divergence of each fold."""
    return [
        {"model": "m", "dataset": "d", "source": "", "seed": 0, "fold": fold, "group": f"g{text}"}
        | {"method": method, "question": f"text{text}", "ce": 1.0 + fold, "kl_policy": kl[fold]}
        for fold in (0, 1)
        for text in (0, 1)
    ]


def test_a_mean_over_some_folds_does_not_stand_beside_means_over_all():
    nan = float("nan")
    rows = [
        *rows_of("steers", (0.2, 0.4)),
        *rows_of("steered in one fold, in which nothing is known", (0.0, nan)),
        *rows_of("never known", (nan, nan)),
    ]
    # of one text alone is missing, which has a fold's value all the same
    rows += rows_of("one text", (0.2, 0.4))
    rows[-1]["kl_policy"] = nan
    frame = pd.DataFrame(rows)
    (found,) = comparisons(frame, list(frame["method"].unique()), ["ce", "kl_policy"])
    ce, kl = estimate(found.panel).T
    np.testing.assert_allclose(ce, 1.5)
    np.testing.assert_allclose(kl, [0.3, nan, nan, 0.3])
