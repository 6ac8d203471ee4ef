"""Tables as tidy rows: every number with its interval, its paired difference and p.

In: `metrics.parquet` or `side_effects.parquet` of all cells. Out: one row per comparison, method,
baseline and measure; `printing.py` makes Markdown, LaTeX and captions of these alone. `main` and
`side_effects` compare main methods with the unsteered model, `differences` those that are gated
with every other, `ablation` compares variants and controls with the first gated method, `crossing`
what stands in a crossing with the unsteered model.

    model, dataset, source        worlds of one kind are pooled; source: whose bundles were used
    method, label, colour, place  the method in print; place is its number in the config
    metric                        shares are in percent; tokens, decoded, passes count per answer
    n                             questions that have the measure: MC needs false answers
    value, low, high              95 % interval; over: `worlds` (t) or `questions` (bootstrap)
    baseline, baseline_label, difference, difference_low, difference_high     paired
    p, test, p_holm, claims       of the difference, by `t` or `permutation`; corrected over all
                                  differences that the table prints (`claims` of them)
    published, published_source, published_note     the paper's number in percent, if there is one
    table, questions, worlds, seeds, preset, sigma_of_all
    judge                         a sentence on who judged and how often that judge is wrong
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from fasb.data.published import beside, sources
from fasb.errors import ConfigError, did_you_mean
from fasb.metrics.statistics import (
    Interval,
    Sample,
    Tested,
    compare,
    differences,
    holm,
    intervals,
    resample,
)
from fasb.study.measures import MEASURES, TABLES, columns_of, shown_in
from fasb.study.panels import Comparison, comparisons
from fasb.study.styles import (
    MethodStyle,
    first_gated,
    first_unsteered,
    labels_of,
    names_of,
    with_styles,
)

NO_AVERAGE = ("low", "high", "difference", "difference_low", "difference_high", "p", "p_holm")
"""What an average over datasets has none of."""
AVERAGE = "average"
"""Stands for a dataset where results are averaged over several."""

Pair = tuple[str, str]
"""A method and what it is compared with; the baseline is paired with itself."""


def chosen_methods(name: str, methods: Sequence[MethodStyle]) -> list[Pair]:
    """Return the methods of table `name` in order, each with what it is compared with.

    Raises:
        ConfigError: there is no such table.
    """
    if name not in TABLES:
        raise ConfigError(f"table: no table {name!r}; {did_you_mean(name, TABLES)}")
    main = names_of(methods, "main") or names_of(methods)
    if name == "differences":
        return _differences(methods) or chosen_methods("main", methods)
    shown = main
    baseline = first_unsteered([style for style in methods if style.name in main]) or main[0]
    if name == "crossing":
        shown = [baseline, *(style.name for style in methods if style.crossed)]
    if name == "ablation":
        baseline = first_gated(methods) or main[0]
        others = [style for style in methods if style.crossed is None and style.name != baseline]
        # controls are read as variants are: what is left without the real thing
        shown = [baseline, *names_of(others, "ablation", "control")]
    return [(one, baseline) for one in shown]


def _differences(styles: Sequence[MethodStyle]) -> list[Pair]:
    """Each gated main method minus every other that steers, each two of them once."""
    steering = [style for style in styles if style.role == "main" and style.steers]
    pairs: list[Pair] = []
    for style in steering:
        if style.gated or not any(one.gated for one in steering):
            others = [one.name for one in steering if one.name != style.name]
            # a minus b and b minus a are one claim
            pairs += [(style.name, other) for other in others if (other, style.name) not in pairs]
    return pairs


def table_rows(
    frame: pd.DataFrame,
    name: str,
    methods: Sequence[MethodStyle],
    preset: str,
    n_draws: int = 2000,
) -> pd.DataFrame:
    """Return the tidy rows of table `name`; `frame` holds all cells (`panels.read_cells`)."""
    pairs = chosen_methods(name, methods)
    needed = {one for pair in pairs for one in pair}
    names = [one for one in names_of(methods) if one in needed]
    found = comparisons(frame, names, columns_of(TABLES[name].files[0]))
    # the smallest p there can be must survive the correction for this many claims
    n_claims = len(found) * len(pairs) * sum(has_difference(name, one) for one in MEASURES)
    rows: list[dict[str, Any]] = []
    for comparison in found:
        compared = _Compared.of(comparison, n_draws, max(1999, 100 * n_claims - 1))
        rows += compared.rows(name, pairs)
    table = with_styles(pd.DataFrame(rows), methods)
    p = table["p"].to_numpy(np.float64)
    table = table.assign(
        p_holm=holm(p),
        claims=int(np.isfinite(p).sum()),
        baseline_label=table["baseline"].map(labels_of(methods)),
        preset=preset,
        table=name,
        sigma_of_all=False,
    )
    return _with_published(_with_averages(table) if name == "tasks" else table)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One comparison and what its intervals are made of, shared by all pairs of methods."""

    comparison: Comparison
    sample: Sample
    own: Interval
    n: Int[np.ndarray, "method column"]
    n_permutations: int

    @classmethod
    def of(cls, comparison: Comparison, n_draws: int, n_permutations: int) -> "_Compared":
        sample = resample(comparison.panel, n_draws)
        own = intervals(comparison.panel, sample)
        return cls(comparison, sample, own, comparison.panel.n, n_permutations)

    def rows(self, table: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """Return a row per pair and measure; the first method stands in for an absent baseline."""
        panel = self.comparison.panel
        paired: dict[str, Interval] = {}
        rows: list[dict[str, Any]] = []
        for method, wanted in pairs:
            if method not in panel.methods:
                continue
            # a comparison may lack its baseline's rows: the first method stands in
            baseline = wanted if wanted in panel.methods else panel.methods[0]
            if baseline not in paired:
                paired[baseline] = differences(panel, self.sample, baseline)
            for column in range(len(panel.columns)):
                rows.append(self._row(table, (method, baseline), paired[baseline], column))
        return rows

    def _row(self, table: str, pair: Pair, paired: Interval, column: int) -> dict[str, Any]:
        panel, (method, baseline) = self.comparison.panel, pair
        measure, at = MEASURES[panel.columns[column]], (panel.methods.index(method), column)
        # a t interval may reach beyond what a share can be
        low, high = np.clip([self.own.low[at], self.own.high[at]], *measure.limits)
        tested = Tested(np.nan, "")
        if method != baseline and has_difference(table, measure.name):
            tested = compare(panel, method, baseline, measure.name, self.n_permutations)
        return {
            **self.comparison.about,
            "method": method,
            "baseline": baseline,
            "metric": measure.name,
            "n": int(self.n[at]),
            "value": measure.scale * float(self.own.value[at]),
            "low": measure.scale * float(low),
            "high": measure.scale * float(high),
            "difference": measure.scale * float(paired.value[at]),
            "difference_low": measure.scale * float(paired.low[at]),
            "difference_high": measure.scale * float(paired.high[at]),
            **tested._asdict(),
        }


def has_difference(table: str, metric: str) -> bool:
    """Return whether a table prints, and so tests, a measure's difference to the baseline."""
    shown = [one.name for part in TABLES[table].parts for one in shown_in(part)]
    return table != "tasks" and metric in shown and MEASURES[metric].tested


def _with_averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies averaged over datasets, as a dataset of its own; none where a method lacks one."""
    shown = rows[rows["metric"].isin([measure.name for measure in shown_in("tasks")])]
    made, n_datasets = [], shown.groupby("model")["dataset"].nunique()
    for (model, *_), part in shown.groupby(["model", "method", "metric"], sort=False):
        # an average over fewer datasets than its neighbours' in the table is not comparable
        if part["dataset"].nunique() == n_datasets[model]:
            mean = part["value"].mean(skipna=False)  # NaN of one dataset is NaN of the average
            row = {**part.iloc[0].to_dict(), "dataset": AVERAGE, "value": mean, "test": ""}
            made.append(row | dict.fromkeys(NO_AVERAGE, np.nan))
    return pd.concat([rows, pd.DataFrame(made, columns=rows.columns)], ignore_index=True)


def _with_published(rows: pd.DataFrame) -> pd.DataFrame:
    keys = ["table", "model", "dataset", "method", "metric"]
    told, columns = sources(), []
    for row in rows[keys].itertuples(index=False):
        found = beside(*row)
        if found is None:
            columns.append((np.nan, "", ""))
        else:
            columns.append((found.value, told[found.source], found.note))
    names = ["published", "published_source", "published_note"]
    return pd.concat([rows, pd.DataFrame(columns, columns=names, index=rows.index)], axis=1)
