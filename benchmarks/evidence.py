"""The claims of docs/protocol.md, tested as it says, over the worlds of a finished run.

    python benchmarks/evidence.py FOLDER    where snakemake ran config/evidence.yaml

The primary difference is read alone; all rows of S1 to S7 are one family, corrected by Holm.
That was written before any figure of the run was seen; `gates`, what the protocol asks for beside,
after.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fasb.artifacts import read_parquet
from fasb.metrics.answers import verdict
from fasb.metrics.statistics import compare, differences, holm, resample, t_interval
from fasb.study.cells import Cell, whole
from fasb.study.config import BASES, Study, load_files
from fasb.study.panels import Comparison, comparisons, read_cells
from fasb.study.styles import labels_of, names_of, styles_of

ROOT = Path(__file__).parents[1]
CONFIGS = [*(ROOT / base for base in BASES), ROOT / "config" / "evidence.yaml"]
SUBJECT = "fasb-probe"
GATED = (SUBJECT, "fasb-prototype")


class Claim(NamedTuple):
    """A row of the protocol: a method minus another, by a metric."""

    row: str
    method: str
    baseline: str
    metric: str


def claims(study: Study) -> list[Claim]:
    """Return the protocol's rows, the primary one first; S6 has one for each control."""
    controls = names_of(styles_of(study.chosen_methods), "control")
    return [
        Claim("primary", SUBJECT, "iti", "true_info"),
        Claim("S1", "fasb-prototype", "iti", "true_info"),
        Claim("S2", SUBJECT, "without-backtracking", "true_info"),
        Claim("S3", SUBJECT, "after-question", "true_info"),
        Claim("S4", SUBJECT, "all-fixed", "true_info"),
        Claim("S5", SUBJECT, "without-adaptive", "true_info"),
        *(Claim("S6", SUBJECT, control, "true_info") for control in controls),
        Claim("S7", SUBJECT, "iti", "mc1"),
        Claim("S7", SUBJECT, "iti", "mc2"),
    ]


def tested(comparison: Comparison, asked: Sequence[Claim]) -> pd.DataFrame:
    """Return each claim's mean difference over worlds in points, its t interval, p and Holm's p.

    The first claim is not of the family: its p stays as it is.
    """
    panel, sample = comparison.panel, resample(comparison.panel)
    rows = []
    for claim in asked:
        change = differences(panel, sample, claim.baseline)
        at = panel.methods.index(claim.method), panel.columns.index(claim.metric)
        found = [100 * float(part[at]) for part in (change.value, change.low, change.high)]
        p = compare(panel, claim.method, claim.baseline, claim.metric).p
        rows.append([*claim, *found, p])
    table = pd.DataFrame(rows, columns=[*Claim._fields, "difference", "low", "high", "p"])
    p = table["p"].to_numpy(float)
    table["p_holm"] = [p[0], *holm(p[1:])]
    return table


def gate_of(written: pd.DataFrame, judged: pd.DataFrame) -> tuple[float, float]:
    """Return precision and recall of a method's gate: does it fire where the answer is false?

    written: rows of one method in `generations.parquet`, whose `trace_answer` is what stood there
    unsteered. NaN where nothing fired, or nothing was false.
    """
    verdicts = judged.set_index(["question", "answer"])["true"]
    asked = pd.MultiIndex.from_frame(written[["question", "trace_answer"]])
    false, fired = ~verdict(verdicts.loc[asked].to_numpy()), written["fired"].to_numpy(bool)
    both, n_fired, n_false = (int(rows.sum()) for rows in (false & fired, fired, false))
    return both / n_fired if n_fired else np.nan, both / n_false if n_false else np.nan


def gates(cells: Sequence[Cell], methods: Sequence[str]) -> pd.DataFrame:
    """Return precision and recall of each method's gate in percent: means and t over worlds."""
    worlds: list[list[tuple[float, float]]] = []
    for cell in cells:
        written = read_parquet(cell.folder / "generations.parquet")
        judged = read_parquet(cell.folder / "judged.parquet")
        worlds.append([gate_of(written[written["method"] == one], judged) for one in methods])
    values = 100 * np.array(worlds)  # [world, method, measure]
    found = np.stack([np.nanmean(values, axis=0), *t_interval(values)], axis=-1)
    rows = []
    for i, method in enumerate(methods):
        for j, measure in enumerate(("precision", "recall")):
            rows.append([method, measure, *found[i, j]])
    return pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high"])


def main() -> None:
    """Print both tables, and how many worlds they speak for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    study = load_files(CONFIGS)
    cells = [replace(cell, results=folder / cell.results) for cell in whole(study)]
    files = [cell.folder / "metrics.parquet" for cell in cells]
    styles = styles_of(study.chosen_methods)
    (comparison,) = comparisons(read_cells(cells, files, "metrics.parquet"), names_of(styles))
    table = tested(comparison, claims(study))
    quality = gates(cells, GATED)
    labels = labels_of(styles)
    for column in ("method", "baseline"):
        table[column] = table[column].map(labels)
    quality["method"] = quality["method"].map(labels)
    print(f"{comparison.n_worlds} worlds; differences in points, t over worlds")
    digits = ["", "", "", "", ".1f", ".1f", ".1f", ".4f", ".4f"]
    print(table.to_markdown(index=False, floatfmt=digits))
    print("\nDoes the gate fire where the unsteered answer is false? Percent, t over worlds")
    print(quality.to_markdown(index=False, floatfmt=".1f"))


if __name__ == "__main__":
    main()
