"""How far two judges agree on the same answers: table `judges`, as CSV, Markdown and LaTeX.

In: `generations.parquet` and both judges' verdicts of every cell that has a second judge. Out: tidy
rows, one per comparison, score and method (`all`: every answer of the study), over test answers. No
other table holds the second judge's verdicts.

    score                      truth or info
    answers                    how many, each phrasing and fold of its own
    first, second              percent to which each judge says yes
    only_first, only_second    answers to which only that one does
    agreement, low, high       percent, 95 % interval (bootstrap over groups of questions)
    kappa                      Cohen's; empty where both say the same to all
    judge, second_judge        a sentence on each
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.artifacts import stamp_of
from fasb.errors import DataError
from fasb.metrics.answers import verdict
from fasb.study.cells import Cell
from fasb.study.escaping import DASH
from fasb.study.frames import read_table
from fasb.study.judging import named
from fasb.study.measures import INFO, TRUE
from fasb.study.panels import files_of, judge_note, titled
from fasb.study.styles import MethodStyle, labels_of
from fasb.study.texttables import TextTable

SCORES = {TRUE.name: "truth", INFO.name: "info"}
"""What a score is called here; a CSV column of nothing but "true" is read as booleans."""
HEADINGS = (
    "Score", "Method", "Answers", "First", "Second", "Only first", "Only second", "Agreement",
    "Kappa",
)  # fmt: skip
N_TEXT = 2
"""Columns that hold no number."""
DRAWS = 2000
ALL = "all"


def agreement_rows(
    cells: Sequence[Cell], files: Sequence[Path], methods: Sequence[MethodStyle] = ()
) -> pd.DataFrame:
    """Return the tidy rows; cells without a second judge's file are left out.

    Methods that are not among `methods` are called by their names.

    Raises:
        DataError: an answer that one of the two did not judge, or nothing that both judge.
    """
    two = [cell for cell in cells if cell.folder / "judged_second.parquet" in files]
    first = dict(files_of(two, files, "judged.parquet"))
    second = dict(files_of(two, files, "judged_second.parquet"))
    groups: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for cell, generations in files_of(two, files, "generations.parquet"):
        judged = (first[cell], second[cell])
        notes = [judge_note(named(stamp_of(path)["provenance"])) for path in judged]
        found = _both(generations, judged).assign(dataset=cell.dataset)
        groups.setdefault((*cell.group, *notes), []).append(found)
    rows: list[dict[str, Any]] = []
    for (model, dataset, judge, other), frames in groups.items():
        about = {"model": model, "dataset": dataset, "judge": judge, "second_judge": other}
        for row in _rows(pd.concat(frames, ignore_index=True)):
            rows.append(about | row)
    if not rows:
        raise DataError(
            "judges: no score that both judges give; choose a second judge that gives true or info"
        )
    labels = labels_of(methods) | {ALL: "All answers"}
    frame = pd.DataFrame(rows)
    return frame.assign(label=[labels.get(name, name) for name in frame["method"]])


def agreement_tables(rows: pd.DataFrame) -> list[TextTable]:
    """Return a table of each comparison."""
    tables = []
    for _, part in rows.groupby(["model", "dataset", "judge", "second_judge"], sort=False):
        lines = [_line(row) for row in part.to_dict("records")]
        tables.append(TextTable(_caption(part), HEADINGS, lines, N_TEXT))
    return tables


def _both(generations: Path, judged: Sequence[Path]) -> pd.DataFrame:
    """Test answers with the verdicts of both; what only one judge scores is left out."""
    frame = read_table(generations)[["question", "group", "method", "answer"]]
    first, second = map(read_table, judged)
    shared = [score for score in SCORES if score in first and score in second]
    for which, found in (("first", first), ("second", second)):
        columns = {score: f"{score}_{which}" for score in shared}
        found = found[["question", "answer", *shared]].rename(columns=columns)
        frame = frame.merge(found, on=["question", "answer"], how="left", validate="many_to_one")
    if frame.isna().any(axis=None):
        raise DataError(
            f"{judged[-1]}: not every answer has both verdicts; run the stage 'judge' again"
        )
    return frame


def _rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for score, called in SCORES.items():
        if f"{score}_first" not in frame:
            continue
        for method, part in [(ALL, frame), *frame.groupby("method", sort=False)]:
            # groups are of one dataset
            group = pd.MultiIndex.from_frame(part[["dataset", "group"]]).factorize()[0]
            first = verdict(part[f"{score}_first"].to_numpy(np.float64))
            second = verdict(part[f"{score}_second"].to_numpy(np.float64))
            yield {"score": called, "method": method} | _compared(first, second, group)


def _compared(first: np.ndarray, second: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score

    same, n = np.bincount(group, first == second), np.bincount(group)
    # answers to a group of questions are much alike, so they are drawn together
    chance = np.full(len(same), 1 / len(same))
    drawn = np.random.default_rng(0).multinomial(len(same), chance, DRAWS)
    low, high = np.quantile((drawn @ same) / (drawn @ n), (0.025, 0.975))
    # where both only ever say the same, kappa is 0 / 0
    varied = len({*first.tolist(), *second.tolist()}) > 1
    return {
        "answers": len(first),
        "first": 100 * first.mean(),
        "second": 100 * second.mean(),
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "agreement": 100 * (first == second).mean(),
        "low": 100 * low,
        "high": 100 * high,
        "kappa": float(cohen_kappa_score(first, second)) if varied else np.nan,
    }


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    judges = [first[key].removeprefix("Judge: ") for key in ("judge", "second_judge")]
    return (
        f"{titled(first['model'], first['dataset'])}: how far two judges agree on the same test "
        f"answers. First: {judges[0]} Second: {judges[1]} First, Second: percent to which each "
        "says yes; Only: answers to which only one does; in brackets: 95 % interval, bootstrap "
        "over questions; Kappa: Cohen's."
    )


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["score"].capitalize(),
        row["label"],
        str(row["answers"]),
        f"{row['first']:.1f}",
        f"{row['second']:.1f}",
        f"{row['only_first']:.0f}",
        f"{row['only_second']:.0f}",
        f"{row['agreement']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
        DASH if pd.isna(row["kappa"]) else f"{row['kappa']:.2f}",
    ]
