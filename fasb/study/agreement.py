"""How far two judges agree on the same answers: table `judges`, as CSV, Markdown and LaTeX.

In: `generations.parquet` and both judges' verdicts of every cell that has a second judge. Out: tidy
rows, one per comparison, score and method (`all`: every answer of the study), over test answers. No
other table holds the second judge's verdicts.

    score                      truth or info
    answers                    how many, each phrasing and fold of its own
    first, second              percent to which each judge says yes
    only_first, only_second    answers to which only that one does
    agreement, low, high       percent, 95 % interval (bootstrap over questions)
    kappa                      Cohen's; empty where both say the same to all
    judge, second_judge        a sentence on each
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.artifacts import read_parquet, stamp_of
from fasb.errors import DataError
from fasb.metrics.answers import verdict
from fasb.study.judging import named
from fasb.study.panels import Cell, files_of, judge_note, label
from fasb.study.tables import DASH, escape, markdown_row

SCORES = {"true": "truth", "info": "info"}
"""What a score is called in the table; a CSV column of nothing but "true" would be read as
booleans."""
TITLES = (
    "Score",
    "Method",
    "Answers",
    "First",
    "Second",
    "Only first",
    "Only second",
    "Agreement",
    "Kappa",
)
DRAWS = 2000


def agreement_rows(cells: Sequence[Cell], files: Sequence[Path]) -> pd.DataFrame:
    """The tidy rows; cells without a second judge's file are left out.

    Raises:
        DataError: an answer that one of the two did not judge, or nothing that both judge.
    """
    two = [cell for cell in cells if cell.folder / "judged_second.parquet" in files]
    names = ("generations.parquet", "judged.parquet", "judged_second.parquet")
    paths = [dict(files_of(two, files, name)) for name in names]
    groups: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for cell in two:
        generations, *judged = (path[cell] for path in paths)
        notes = [judge_note(named(stamp_of(path)["provenance"])) for path in judged]
        groups.setdefault((*cell.group, *notes), []).append(
            _both(generations, judged).assign(dataset=cell.dataset)
        )
    rows = [
        row
        for about, frames in groups.items()
        for row in _rows(about, pd.concat(frames, ignore_index=True))
    ]
    if not rows:
        raise DataError(
            "judges: no score that both judges give; choose a second judge that gives true or info"
        )
    return pd.DataFrame(rows)


def agreement_parts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Of each comparison its caption, column heads and printed rows."""
    return [
        {
            "caption": _caption(part),
            "columns": TITLES,
            "rows": [_printed(row) for row in part.to_dict("records")],
        }
        for _, part in rows.groupby(["model", "dataset", "judge", "second_judge"], sort=False)
    ]


def markdown(rows: pd.DataFrame) -> str:
    """All comparisons as GitHub tables, their captions above."""
    lines = []
    for part in agreement_parts(rows):
        rule = ["---", "---", *["---:"] * (len(TITLES) - 2)]
        lines += [part["caption"], "", *map(markdown_row, (TITLES, rule, *part["rows"])), ""]
    return "\n".join(lines)


def latex(rows: pd.DataFrame) -> str:
    """All comparisons as tables for `booktabs`."""
    lines = ["% needs \\usepackage{booktabs}"]
    for part in agreement_parts(rows):
        lines += [
            "\\begin{table}[t]",
            f"\\caption{{{escape(part['caption'])}}}",
            "\\centering\\small",
        ]
        lines += [
            f"\\begin{{tabular}}{{ll{'r' * (len(TITLES) - 2)}}}",
            "\\toprule",
            f"{' & '.join(TITLES)} \\\\",
        ]
        lines += ["\\midrule", *(f"{' & '.join(map(escape, row))} \\\\" for row in part["rows"])]
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines)


def _both(generations: Path, judged: Sequence[Path]) -> pd.DataFrame:
    """Test answers with the verdicts of both; what only one judge scores is left out."""
    frame = read_parquet(generations, ["question", "method", "answer"])
    verdicts = [read_parquet(path) for path in judged]
    shared = [score for score in SCORES if all(score in found for found in verdicts)]
    for which, found in zip(("first", "second"), verdicts, strict=True):
        columns = {score: f"{score}_{which}" for score in shared}
        found = found[["question", "answer", *shared]].rename(columns=columns)
        frame = frame.merge(found, on=["question", "answer"], how="left", validate="many_to_one")
    if frame.isna().any(axis=None):
        raise DataError(
            f"{judged[-1]}: not every answer has both verdicts; run 'fasb judge' on the generations again"
        )
    return frame


def _rows(about: Sequence[str], frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    head = dict(zip(("model", "dataset", "judge", "second_judge"), about, strict=True))
    for score in (score for score in SCORES if f"{score}_first" in frame):
        for method, part in [("all", frame), *frame.groupby("method", sort=False)]:
            question = pd.MultiIndex.from_frame(part[["dataset", "question"]]).factorize()[0]
            both = (
                verdict(part[f"{score}_{which}"].to_numpy(np.float64))
                for which in ("first", "second")
            )
            yield head | {"score": SCORES[score], "method": method} | _compared(*both, question)


def _compared(first: np.ndarray, second: np.ndarray, question: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import cohen_kappa_score

    same = np.bincount(question, first == second)
    drawn = np.random.default_rng(0).multinomial(
        len(same), np.full(len(same), 1 / len(same)), DRAWS
    )
    low, high = np.quantile((drawn @ same) / (drawn @ np.bincount(question)), (0.025, 0.975))
    varied = len({*first.tolist(), *second.tolist()}) > 1
    return {
        "answers": len(first),
        "first": 100 * first.mean(), "second": 100 * second.mean(),
        "only_first": int((first & ~second).sum()), "only_second": int((second & ~first).sum()),
        "agreement": 100 * (first == second).mean(), "low": 100 * low, "high": 100 * high,
        "kappa": float(cohen_kappa_score(first, second)) if varied else np.nan,
    }  # fmt: skip


def _caption(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    title = (
        first["model"]
        if first["model"] == first["dataset"]
        else f"{first['model']}, {first['dataset']}"
    )
    return (
        f"{title}: how far two judges agree on the same test answers. First: {first['judge'].removeprefix('Judge: ')} "
        f"Second: {first['second_judge'].removeprefix('Judge: ')} First, Second: percent to which each says yes; Only: "
        "answers to which only one does; in brackets: 95 % interval, bootstrap over questions; Kappa: Cohen's."
    )


def _printed(row: dict[str, Any]) -> list[str]:
    method = "All answers" if row["method"] == "all" else label(row["method"])
    counts = [f"{row[key]:.0f}" for key in ("only_first", "only_second")]
    agreement = f"{row['agreement']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    kappa = DASH if pd.isna(row["kappa"]) else f"{row['kappa']:.2f}"
    shares = [f"{row[key]:.1f}" for key in ("first", "second")]
    return [
        row["score"].capitalize(),
        method,
        str(row["answers"]),
        *shares,
        *counts,
        agreement,
        kappa,
    ]
