"""From answers, verdicts and choice scores to one row of metrics per question.

In: `generations.parquet`, `judged.parquet`, `scores.parquet` of one cell. Out: the frame of
`metrics.parquet`, one row per fold, method and question, each value a mean over the question's
phrasings:

    fold, method, question, group
    true, info        share of answers judged true, informative (0 to 1)
    harmed, helped    share of answers that steering spoilt, mended; good means true and informative
    steered           share of answers on which the method fired
    tokens, decoded   tokens of the answer; tokens that were decoded to obtain it
    passes            forward passes of the model to obtain it
    mc1, mc2, mc3     of the choices, at the setting tuned for generation
    steered_mc        share of the choices on which the method fired, at the setting tuned for generation
    exact             share of written answers that open with the best one; only where the dataset asks for it
    mc1_tuned, …      MC1-3 at the setting tuned for MC2

A metric that the dataset has no data for is NaN. Knows no model and no interval.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasb.data.protocol import Question
from fasb.errors import DataError
from fasb.metrics import answers as metrics
from fasb.metrics.statistics import estimate
from fasb.study.panels import METRICS, panel_of

KEYS = ["fold", "method", "question"]


def question_metrics(
    questions: Sequence[Question],
    generations: pd.DataFrame,
    judged: pd.DataFrame,
    scores: pd.DataFrame,
    exact: bool = False,
) -> pd.DataFrame:
    """The frame described above, in the order of the questions within fold and method; `exact` asks for that column.

    Raises:
        DataError: an answer was generated that nobody judged, though the dataset has a judge.
    """
    if exact and len(generations):
        best = generations["question"].map({question.id: question.best for question in questions})
        right = [exact_match(answer, label) for answer, label in zip(generations["answer"], best)]
        generations = generations.assign(exact=np.array(right, dtype=np.float64))
    parts = [
        part
        for part in (generation_metrics(generations, judged), choice_columns(scores))
        if len(part)
    ]
    if not parts:
        raise DataError(
            "metrics: neither generations nor scores hold a row; run 'fasb generate' or 'fasb score' first"
        )
    frame = parts[0] if len(parts) == 1 else parts[0].merge(parts[1], on=KEYS, how="outer")
    for column in METRICS:
        if column not in frame:
            frame[column] = np.nan
    order = {question.id: i for i, question in enumerate(questions)}
    frame["group"] = frame["question"].map({question.id: question.group for question in questions})
    frame["order"] = frame["question"].map(order)
    frame = frame.sort_values(["fold", "method", "order"], kind="stable", ignore_index=True)
    return frame[[*KEYS, "group", *METRICS]]


def generation_metrics(generations: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Means over phrasings of what the answers and their verdicts say; empty where nothing was generated."""
    if generations.empty:
        return pd.DataFrame()
    rows = generations[KEYS].copy()
    rows["steered"] = generations["fired"].to_numpy(np.float64)
    rows["tokens"] = generations["n_tokens"].to_numpy(np.float64)
    rows["decoded"] = generations["decoded"].to_numpy(np.float64)
    rows["passes"] = generations["passes"].to_numpy(np.float64)
    if "exact" in generations:
        rows["exact"] = generations["exact"]
    kinds = [kind for kind in ("true", "info") if kind in judged and judged[kind].notna().any()]
    if kinds:
        after, before = (
            _verdicts(generations, judged, kinds, column) for column in ("answer", "trace_answer")
        )
        for i, kind in enumerate(kinds):
            rows[kind] = after[:, i].astype(np.float64)
        good = before.all(axis=1), after.all(axis=1)
        rows["harmed"], rows["helped"] = (
            f(*good).astype(np.float64) for f in (metrics.harmed, metrics.helped)
        )
    return rows.groupby(KEYS, as_index=False, sort=False).mean()


def exact_match(answer: str, label: str) -> bool:
    """Whether an answer opens with the label's words, but for case and punctuation (docs/method.md 4)."""
    said, wanted = (re.sub(r"[^\w\s]", "", text).casefold().split() for text in (answer, label))
    return bool(wanted) and said[: len(wanted)] == wanted


def choice_columns(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over phrasings of MC1-3, and of MC1-3 tuned for MC2 as `mc1_tuned`, …; empty without scores."""
    if scores.empty:
        return pd.DataFrame()
    names = ["mc1", "mc2", "mc3"]
    scores = scores.assign(steered_mc=scores["fired"].astype(np.float64))
    means = scores.groupby([*KEYS, "tuned_for"], as_index=False, sort=False)[
        [*names, "steered_mc"]
    ].mean()
    plain = means[means["tuned_for"] == "generation"].drop(columns="tuned_for")
    tuned = means[means["tuned_for"] == "mc2"].drop(columns=["tuned_for", "steered_mc"])
    return plain.merge(
        tuned.rename(columns={name: f"{name}_tuned" for name in names}), on=KEYS, how="outer"
    )


def summary(
    frame: pd.DataFrame, methods: Sequence[str], judge: Mapping[str, Any] = {}
) -> dict[str, dict[str, Any]]:
    """Per method: means per fold, then over folds, True*Info as product per fold (docs/method.md Q9), n, the judge."""
    present = [method for method in methods if (frame["method"] == method).any()]
    panel = panel_of(frame.assign(model="", dataset="", seed=0), present)
    values = estimate(panel)
    return {
        method: {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(panel.columns, row, strict=True)
        }
        | {
            "n": int((frame["method"] == method).sum()),
            "judge": judge.get("use"),
            "judge_error": judge.get("error"),
        }
        for method, row in zip(present, values, strict=True)
    }


def _verdicts(
    generations: pd.DataFrame, judged: pd.DataFrame, kinds: list[str], column: str
) -> np.ndarray:
    """[row, kind]: the judge's verdicts on the answers in `column`."""
    asked = generations[["question", column]].rename(columns={column: "answer"})
    found = asked.merge(
        judged.drop_duplicates(["question", "answer"]), on=["question", "answer"], how="left"
    )
    missing = found[kinds].isna().any(axis=1)
    if missing.any():
        row = found[missing].iloc[0]
        raise DataError(
            f"judged.parquet: no verdict on {int(missing.sum())} answers, the first to question {row['question']!r}; "
            "run 'fasb judge' on these generations again"
        )
    return metrics.verdict(found[kinds].to_numpy(np.float64))
