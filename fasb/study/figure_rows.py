"""The numbers that figures show: tidy rows, kept as CSV beside each picture.

In: the cells' Parquet and HDF5 files as frames. Out: one frame per figure; `figures.py` draws them
and `captions.py` says what they show. Worlds of one kind are pooled (`panels.py`). Knows no colour.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import bootstrap

from fasb.artifacts import hdf5_stamp
from fasb.data.published import beside
from fasb.errors import ConfigError, did_you_mean
from fasb.metrics.answers import verdict
from fasb.metrics.calibration import auc, question_weights, reliability
from fasb.metrics.statistics import DEFINED, Interval, intervals, resample
from fasb.study.cells import FIGURES, is_ablation
from fasb.study.panels import KNOBS, Cell, comparisons, files_of, panel_of, pooled, read_cells

POSITIONS = np.linspace(0, 1, 11)
"""Where along an answer p is averaged: 0 is the end of the question, 1 the end of the answer."""
BINS = np.linspace(0, 1, 21)
WINDOW = 5
"""Tokens that are looked at together along an answer."""
MIDDLE = (0.3, 0.5)
"""Where the paper's Figure 1 finds p before the answer."""
ENOUGH = 20
"""Answers that a window needs to be shown."""
EFFICIENT = ("true_info", "mc1", "mc2")
"""Metrics that are drawn against the number of pairs."""


def figure_1_rows(frame: pd.DataFrame, methods: Sequence[str], n_draws: int = 1000) -> pd.DataFrame:
    """How p is distributed before and after the unsteered answer, and its mean along it, by the answer's verdict.

    `frame` holds one method's test answers (`traced`). part: `question_end`, `answer_end` (value:
    share of the verdict's answers in the bin at x), `along` (value: mean p at position x), `auc`
    (x: 0 or 1).
    """
    made: list[dict[str, object]] = []
    for (model, dataset), rows in _by_group(frame):
        about = {"model": model, "dataset": dataset, "method": rows["method"].iloc[0]} | _sizes(
            rows
        )
        for part, state in (("question_end", 0), ("answer_end", -1)):
            at = rows["p"].map(lambda p, state=state: p[state])
            made += [about | row for row in _shares(at, rows["true"], part)]
            auc = at.groupby(_unit_keys(rows)).apply(
                lambda p, rows=rows: area(p, rows.loc[p.index, "true"])
            )
            made.append(
                about | {"part": "auc", "verdict": "all", "x": -float(state)} | mean_interval(auc)
            )
        made += [about | row for row in _along(rows, n_draws)]
    return pd.DataFrame(made)


def traced(generations: pd.DataFrame, judged: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Test answers of the first method that has p (FASB-Probe where there is one), with their verdict `true`."""
    keys = ["model", "dataset", "seed", "question"]
    has_p = generations[generations["p"].map(len) > 0]
    ranked = sorted(set(has_p["method"]), key=lambda m: (m != "fasb-probe", list(methods).index(m)))
    if not ranked or "true" not in judged:
        return pd.DataFrame(columns=[*keys, "method", "fold", "p", "true"])
    rows = has_p[has_p["method"] == ranked[0]]
    found = rows.merge(
        judged.drop_duplicates([*keys, "answer"])[[*keys, "answer", "true"]],
        left_on=[*keys, "trace_answer"],
        right_on=[*keys, "answer"],
        suffixes=("", "_judged"),
    )
    return found.assign(true=verdict(found["true"].to_numpy(np.float64)))


def _shares(p: pd.Series, true: pd.Series, part: str) -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for name, mask in (("true", true), ("false", ~true)):
        count, _ = np.histogram(p[mask], BINS)
        share = count / max(count.sum(), 1)
        centres = (BINS[:-1] + BINS[1:]) / 2
        out += [
            {"part": part, "verdict": name, "x": x, "value": v, "n": int(mask.sum())}
            for x, v in zip(centres, share)
        ]
    return out


def _along(rows: pd.DataFrame, n_draws: int) -> list[dict[str, object]]:
    """Mean p at each position, for answers that are true and those that are false, with interval."""
    at = np.stack(
        [
            np.interp(POSITIONS, np.linspace(0, 1, len(p)), p) if len(p) > 1 else p[[0] * 11]
            for p in rows["p"]
        ]
    )
    names = [f"at{i}" for i in range(len(POSITIONS))]
    wide = pd.DataFrame(at, columns=names, index=rows.index)
    keyed = rows[["model", "dataset", "seed", "fold", "question"]].assign(
        method=np.where(rows["true"], "true", "false"), group=rows["question"]
    )
    values = (
        pd.concat([keyed, wide], axis=1)
        .groupby(list(keyed.columns), as_index=False, sort=False)
        .mean()
    )
    panel = panel_of(
        values, [name for name in ("true", "false") if (values["method"] == name).any()], names
    )
    found = intervals(panel, resample(panel, n_draws))
    return [
        {"part": "along", "verdict": name, "x": POSITIONS[j], "value": found.value[i, j]}
        | {
            "low": found.low[i, j],
            "high": found.high[i, j],
            "n": int((keyed["method"] == name).sum()),
        }
        for i, name in enumerate(panel.methods)
        for j in range(len(names))
    ]


def area(p: pd.Series, true: pd.Series) -> float:
    """Chance that a false answer has the higher p; NaN of one class."""
    return float(auc(p.to_numpy(np.float64), ~true.to_numpy(bool), np.ones((1, len(p))))[0])


def calibration_rows(frame: pd.DataFrame, n_draws: int = 500) -> pd.DataFrame:
    """How often answers end up false where p says so, by position in the unsteered answer.

    `frame` as in `figure_1_rows`. position: `question` (its end), `1-5`, `6-10`, … (tokens),
    `answer` (its end). part: `bin` (x: mean p of a tenth of the states, value: share of false
    answers), `ece`, `auc`, and `middle` (share of states whose p lies in `MIDDLE`). n: answers.
    Intervals: bootstrap over questions.
    """
    made: list[dict[str, object]] = []
    for (model, dataset), rows in _by_group(frame):
        about = {"model": model, "dataset": dataset, "method": rows["method"].iloc[0]} | _sizes(
            rows
        )
        code = rows.groupby(["model", "dataset", "question"], sort=False).ngroup().to_numpy()
        for order, (position, states) in enumerate(
            _positions([np.asarray(p, dtype=np.float64) for p in rows["p"]])
        ):
            at, p = np.array([i for i, _ in states]), np.array([p for _, p in states])
            n = len(set(at.tolist()))
            if n >= ENOUGH or position in ("question", "answer"):
                found = _calibration(
                    p, ~rows["true"].to_numpy(bool)[at], question_weights(code[at], n_draws)
                )
                made += [
                    about | {"position": position, "order": order, "n": n} | row for row in found
                ]
    return pd.DataFrame(made)


def _positions(
    p: Sequence[Float[np.ndarray, " _"]],
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each position with its states: (number of the answer, p)."""
    yield "question", [(i, of[0]) for i, of in enumerate(p)]
    for first in range(1, max(map(len, p)), WINDOW):
        last = first + WINDOW - 1
        yield (
            f"{first}-{last}",
            [(i, value) for i, of in enumerate(p) for value in of[first : last + 1]],
        )
    yield "answer", [(i, of[-1]) for i, of in enumerate(p)]


def _calibration(
    p: Float[np.ndarray, " state"],
    wrong: Bool[np.ndarray, " state"],
    weight: Float[np.ndarray, "draw state"],
) -> list[dict[str, object]]:
    bins = reliability(p, wrong, weight)
    inside = ((p >= MIDDLE[0]) & (p <= MIDDLE[1])).astype(np.float64)
    numbers = {
        "ece": bins.error,
        "auc": auc(p, wrong, weight),
        "middle": weight @ inside / weight.sum(1),
    }
    parts = [("bin", x, draws) for x, draws in zip(bins.p[0], bins.wrong.T, strict=True)]
    parts += [(name, np.nan, draws) for name, draws in numbers.items()]
    return [{"part": name, "x": float(x), **_drawn(draws)} for name, x, draws in parts]


def _drawn(draws: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """The first is the estimate, the others its bootstrap; no interval where many are undefined."""
    known = draws[1:][np.isfinite(draws[1:])]
    low, high = (
        np.quantile(known, [0.025, 0.975])
        if len(known) >= DEFINED * (len(draws) - 1)
        else (np.nan, np.nan)
    )
    return {"value": float(draws[0]), "low": float(low), "high": float(high)}


def figure_4_rows(
    heads: Sequence[tuple[str, str, str, Float[np.ndarray, "layer head"]]],
) -> pd.DataFrame:
    """Head accuracies, each layer's sorted from best to worst, then averaged over folds, seeds and worlds.

    `heads` holds (model, dataset, kind, validation accuracy) of every fold of every cell.
    """
    keys = ["model", "dataset", "kind"]
    rows = [
        {
            "model": pooled(model),
            "dataset": pooled(dataset),
            "kind": kind,
            "layer": layer,
            "rank": rank,
            "value": value,
        }
        for model, dataset, kind, accuracy in heads
        for layer, row in enumerate(-np.sort(-accuracy, axis=1))
        for rank, value in enumerate(row.tolist())
    ]
    frame = pd.DataFrame(rows, columns=[*keys, "layer", "rank", "value"])
    found = frame.groupby([*keys, "layer", "rank"], as_index=False, sort=False)
    return found.agg(value=("value", "mean"), n=("value", "size"))


def sensitivity_rows(
    grid: pd.DataFrame, methods: Sequence[str], metric: str = "true_info"
) -> pd.DataFrame:
    """Validation results along each of k, alpha, beta, s, the others at the value tuned for that fold.

    Columns: model, dataset, method, knob, x, metric, value, low, high (in percent), chosen (share
    of folds and seeds that tuning put at x), and the sizes.
    """
    rows = []
    metric = metric if metric in grid and grid[metric].notna().any() else "mc1"
    for (model, dataset), of_group in _by_group(grid):
        for method in (m for m in methods if (of_group["method"] == m).any()):
            of_method = of_group[of_group["method"] == method]
            for knob in KNOBS[:-1]:
                near = _line(of_method, knob)
                about = {
                    "model": model,
                    "dataset": dataset,
                    "method": method,
                    "knob": knob,
                    "metric": metric,
                }
                for x, there in near.groupby(knob):
                    found = mean_interval(100 * there.groupby(_unit_keys(there))[metric].mean())
                    share = float(there["chosen"].mean())
                    rows.append(about | {"x": x} | found | {"chosen": share} | _sizes(of_method))
    return pd.DataFrame(rows)


def tradeoff_rows(
    grid: pd.DataFrame, metrics: pd.DataFrame, methods: Sequence[str], n_draws: int = 1000
) -> pd.DataFrame:
    """True and Info along alpha on validation questions, and at the tuned setting on test questions.

    Columns: model, dataset, method, part (`validation`, `test`), alpha, and true, info (percent)
    with `_low`, `_high`.
    """
    rows: list[dict[str, object]] = []
    for (model, dataset), of_group in _by_group(grid):
        for method in (m for m in methods if (of_group["method"] == m).any()):
            for alpha, there in _line(of_group[of_group["method"] == method], "alpha").groupby(
                "alpha"
            ):
                row = {
                    "model": model,
                    "dataset": dataset,
                    "method": method,
                    "part": "validation",
                    "alpha": alpha,
                }
                for metric in ("true", "info"):
                    found = mean_interval(100 * there.groupby(_unit_keys(there))[metric].mean())
                    row |= _named(metric, found)
                rows.append(row | _sizes(there))
    for comparison in comparisons(metrics, methods):
        panel = comparison.panel
        found = intervals(panel, resample(panel, n_draws))
        for i, method in enumerate(panel.methods):
            row = {
                "model": comparison.model,
                "dataset": comparison.dataset,
                "method": method,
                "part": "test",
            }
            for metric in ("true", "info"):
                j = panel.columns.index(metric)
                row |= _named(metric, _percent(found, i, j))
            rows.append(row | {"alpha": np.nan} | comparison.sizes)
    return pd.DataFrame(rows)


def data_efficiency_rows(
    cells: Sequence[Cell], files: Sequence[Path], methods: Sequence[str]
) -> pd.DataFrame:
    """Test results against the question-and-answer pairs that were fitted on.

    Columns: model, dataset, method, metric, pairs (mean over folds and seeds), value, low, high
    (percent), published (the paper's unsteered number, where one corresponds), and the sizes.
    """
    pairs = {cell.folder: n for cell, n in _pairs(cells, files)}
    rows = []
    for variant in dict.fromkeys(_variant(cell) for cell in cells):
        held = [cell for cell in cells if _variant(cell) == variant]
        for comparison in comparisons(read_cells(held, files, "metrics.parquet"), methods):
            mean = float(
                np.mean([pairs[cell.folder] for cell in held if cell.group == comparison.group])
            )
            found = intervals(comparison.panel, resample(comparison.panel, 1000))
            about = {"model": comparison.model, "dataset": comparison.dataset}
            for j, metric in (
                (j, m) for j, m in enumerate(comparison.panel.columns) if m in EFFICIENT
            ):
                known = beside("main", *comparison.group, "unsteered", metric)
                for i, method in enumerate(comparison.panel.methods):
                    row = (
                        about
                        | {"method": method, "metric": metric, "pairs": mean}
                        | _percent(found, i, j)
                    )
                    rows.append(
                        row | comparison.sizes | {"published": known.value if known else np.nan}
                    )
    frame = pd.DataFrame(rows)
    return frame[frame["value"].notna()] if rows else frame


def _variant(cell: Cell) -> str:
    """What follows the seed in the name of the cell's folder."""
    return cell.folder.name.removeprefix(f"seed{cell.seed}")


def _pairs(cells: Sequence[Cell], files: Sequence[Path]) -> Iterator[tuple[Cell, float]]:
    """Pairs that each cell's probes were fitted on, averaged over folds."""
    import h5py

    for cell, path in files_of(cells, files, "anchors.h5"):
        with h5py.File(path) as file:
            hdf5_stamp(file, path)
            yield cell, float(np.mean([file[fold].attrs["pairs"] for fold in file]))


def mean_interval(values: pd.Series) -> dict[str, float]:
    """Mean and 95 % interval of values indexed by (unit, …): averaged inside a unit, units resampled.

    Without a second unit there is no interval.
    """
    units = values.groupby(level=0).mean().dropna().to_numpy(np.float64)
    if not len(units):
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    if len(units) < 2:
        return {"value": float(units[0]), "low": np.nan, "high": np.nan}
    found = bootstrap(
        (units,), np.mean, method="percentile", n_resamples=2000, rng=0
    ).confidence_interval
    return {"value": float(units.mean()), "low": float(found.low), "high": float(found.high)}


def _line(rows: pd.DataFrame, knob: str) -> pd.DataFrame:
    """Of every cell and fold, the grid points that differ from the chosen one in `knob` alone."""
    keys = ["model", "dataset", "seed", "fold"]
    others = [other for other in KNOBS if other != knob and other in rows]
    if knob not in rows:
        return rows.iloc[:0]
    chosen = rows[rows["chosen"].astype(bool)][[*keys, *others]]
    return rows[rows[knob].notna()].merge(chosen, on=[*keys, *others])


def _unit_keys(rows: pd.DataFrame) -> list[pd.Series]:
    """Worlds are units where there are several, folds otherwise; then what is averaged inside a unit."""
    world = rows["model"] + "/" + rows["dataset"]
    unit = world if world.nunique() > 1 else "fold" + rows["fold"].astype(str)
    return [unit, world, rows["seed"], rows["fold"]]


def _by_group(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    if rows.empty:
        return []
    return [
        (key, part)
        for key, part in rows.groupby(
            [rows["model"].map(pooled), rows["dataset"].map(pooled)], sort=False
        )
    ]


def _sizes(rows: pd.DataFrame) -> dict[str, int]:
    worlds = rows[["model", "dataset"]].drop_duplicates()
    return {"worlds": len(worlds), "seeds": rows["seed"].nunique()}


def _percent(found: Interval, method: int, metric: int) -> dict[str, float]:
    return {
        key: 100 * float(getattr(found, key)[method, metric]) for key in ("value", "low", "high")
    }


def _named(metric: str, found: dict[str, float]) -> dict[str, float]:
    return {metric: found["value"], f"{metric}_low": found["low"], f"{metric}_high": found["high"]}


def rows_of(
    name: str, cells: Sequence[Cell], files: Sequence[Path], methods: Sequence[str]
) -> pd.DataFrame:
    """The rows of figure `name`, read from the cells' files.

    Raises:
        ConfigError: there is no such figure.
    """
    if name == "figure_1":
        tables = (
            read_cells(cells, files, file) for file in ("generations.parquet", "judged.parquet")
        )
        return figure_1_rows(traced(*tables, methods), methods)
    if name == "calibration":
        tables = (
            read_cells(cells, files, file) for file in ("generations.parquet", "judged.parquet")
        )
        return calibration_rows(traced(*tables, methods))
    if name == "figure_4":
        return figure_4_rows(list(_accuracies(cells, files)))
    if name == "sensitivity":
        grid = read_cells(cells, files, "grid.parquet")
        return sensitivity_rows(grid, [method for method in methods if _gated(grid, method)])
    if name == "tradeoff":
        tables = (read_cells(cells, files, file) for file in ("grid.parquet", "metrics.parquet"))
        return tradeoff_rows(*tables, [method for method in methods if not is_ablation(method)])
    if name == "data_efficiency":
        return data_efficiency_rows(
            cells, files, [method for method in methods if not is_ablation(method)]
        )
    raise ConfigError(f"figure: no figure {name!r}; {did_you_mean(name, FIGURES)}")


def _gated(grid: pd.DataFrame, method: str) -> bool:
    """Whether a method is a full one that was tuned over more than k and alpha, as FASB is and ITI is not."""
    rows = grid[grid["method"] == method]
    return not is_ablation(method) and any(
        rows[knob].nunique() > 1 for knob in ("beta", "s") if knob in rows
    )


def _accuracies(
    cells: Sequence[Cell], files: Sequence[Path]
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Validation accuracy of every head, per cell, fold and kind of probe."""
    import h5py

    for cell, path in files_of(cells, files, "anchors.h5"):
        with h5py.File(path) as file:
            hdf5_stamp(file, path)
            for fold in file:
                for kind in ("logistic", "cosine"):
                    if kind in file[fold]:
                        yield (
                            cell.model,
                            cell.dataset,
                            kind,
                            file[fold][kind]["accuracy"][:].astype(np.float64),
                        )
