"""From answers, verdicts and choice scores to one row of metrics per question.

In: `generations.parquet`, `judged.parquet`, `scores.parquet` of one cell. Out: the frame of
`metrics.parquet`, one row per fold, method and question, each value a mean over the question's
phrasings:

    fold, method, question, group
    true, info        share of answers judged true, informative (0 to 1)
    harmed, helped    share of answers that are worse, better than the unsteered model's by the
                      prompt of the cell; good means true and informative
    steered           share of answers on which the method fired
    tokens, decoded   tokens of the answer; tokens that were decoded to obtain it
    passes            forward passes of the model to obtain it
    mc1, mc2, mc3     of the choices, at the setting tuned for generation
    steered_mc        share of the choices on which the method fired, at that setting
    exact             share of written answers that open with the best one; where a dataset asks
    mc1_tuned, …      MC1-3 at the setting tuned for MC2

A metric that the dataset has no data for is NaN. Knows no model and no interval.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fasb.data.protocol import Question
from fasb.data.splits import tested_groups
from fasb.errors import DataError
from fasb.metrics import answers as metrics
from fasb.metrics.statistics import estimate
from fasb.study.measures import INFO, MC1, MC2, MC3, TRUE, columns_of
from fasb.study.panels import panel_of

KEYS = ["fold", "method", "question"]
COLUMNS = columns_of("metrics.parquet")
CHOICES = [MC1.name, MC2.name, MC3.name]


def question_metrics(
    questions: Sequence[Question],
    generations: pd.DataFrame,
    judged: pd.DataFrame,
    scores: pd.DataFrame,
    exact: bool = False,
) -> pd.DataFrame:
    """Return the frame described above, in the order of the questions within fold and method.

    `exact` asks for that column.

    Raises:
        DataError: an answer was generated that nobody judged, though the dataset has a judge; or a
            method lacks rows of a question, or has some of one that is not tested.
    """
    _check_rows(generations, questions, ["fold", "method"], "generations")
    choices = [question for question in questions if question.false]
    _check_rows(scores, choices, ["fold", "method", "tuned_for"], "scores")
    if exact and len(generations):
        best = generations["question"].map({question.id: question.best for question in questions})
        right = map(exact_match, generations["answer"], best)
        generations = generations.assign(exact=np.array([*right], dtype=np.float64))
    both = (generation_metrics(generations, judged), choice_columns(scores))
    parts = [part for part in both if len(part)]
    if not parts:
        raise DataError(
            "metrics: neither generations nor scores hold a row; "
            "run the stage 'generate' or 'score' first"
        )
    # outer: a question without false answers has answers but no choices
    frame = parts[0] if len(parts) == 1 else parts[0].merge(parts[1], on=KEYS, how="outer")
    frame = frame.reindex(columns=[*KEYS, *COLUMNS])
    groups = tested_groups(questions)
    order = {question.id: i for i, question in enumerate(questions)}
    frame = frame.assign(
        group=frame["question"].map(groups), order=frame["question"].map(order)
    ).sort_values(["fold", "method", "order"], kind="stable", ignore_index=True)
    return frame[[*KEYS, "group", *COLUMNS]]


def _check_rows(
    frame: pd.DataFrame, questions: Sequence[Question], by: list[str], file: str
) -> None:
    """Refuse rows that are lost or of other questions: a mean over the rest would be another's.

    Every method answers all phrasings of the same questions of a fold, and all folds together those
    of all questions that are not for fitting.
    """
    if frame.empty:
        return
    expected = {q.id: len(q.phrasings) for q in questions if q.role != "fit"}
    if other := set(frame["question"]) ^ set(expected):
        raise DataError(
            f"{file}.parquet: rows of question {min(other)!r} are missing, or it is not tested; "
            "run the stage again"
        )
    of_fold: dict[int, set[str]] = {}
    for cell, rows in frame.groupby(by, sort=False):
        counts = rows.groupby("question").size()
        asked = of_fold.setdefault(cell[0], set(counts.index))
        wrong = asked ^ set(counts.index)
        wrong |= {name for name, n in counts.items() if n != expected[name]}
        if wrong:
            raise DataError(
                f"{file}.parquet: fold {cell[0]}, {cell[1]}: rows of question {min(wrong)!r} are "
                "missing, or there twice; run the stage again"
            )


def generation_metrics(generations: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Return means over phrasings of what the answers and their verdicts say; empty without any."""
    if generations.empty:
        return pd.DataFrame()
    rows = generations[KEYS].copy()
    rows["steered"] = generations["fired"].to_numpy(np.float64)
    rows["tokens"] = generations["n_tokens"].to_numpy(np.float64)
    rows["decoded"] = generations["decoded"].to_numpy(np.float64)
    rows["passes"] = generations["passes"].to_numpy(np.float64)
    if "exact" in generations:
        rows["exact"] = generations["exact"]
    scores = [TRUE.name, INFO.name]
    kinds = [kind for kind in scores if kind in judged and judged[kind].notna().any()]
    if kinds:
        after = _verdicts(generations, judged, kinds, "answer")
        before = _verdicts(generations, judged, kinds, "trace_answer")
        rows[kinds] = after.astype(np.float64)
        good = metrics.good(before), metrics.good(after)
        rows["harmed"] = metrics.harmed(*good).astype(np.float64)
        rows["helped"] = metrics.helped(*good).astype(np.float64)
    return rows.groupby(KEYS, as_index=False, sort=False).mean()


def exact_match(answer: str, label: str) -> bool:
    """Return whether an answer opens with the label's words, but for case and punctuation.

    docs/method.md 4.
    """
    said, wanted = _words(answer), _words(label)
    return bool(wanted) and said[: len(wanted)] == wanted


def _words(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text).casefold()
    # many scripts write vowels with marks, which are no letters to Python
    return re.sub(r"[^\w\s]", lambda one: one[0] if _is_mark(one[0]) else "", text).split()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def choice_columns(scores: pd.DataFrame) -> pd.DataFrame:
    """Return means over phrasings of MC1-3, and of MC1-3 tuned for MC2 as `mc1_tuned`, …."""
    if scores.empty:
        return pd.DataFrame()
    # `fired` of choices is a share: a question has several
    scores = scores.assign(steered_mc=scores["fired"].astype(np.float64))
    by_setting = scores.groupby([*KEYS, "tuned_for"], as_index=False, sort=False)
    means = by_setting[[*CHOICES, "steered_mc"]].mean()
    plain = means[means["tuned_for"] == "generation"].drop(columns="tuned_for")
    tuned = means[means["tuned_for"] == MC2.name].drop(columns=["tuned_for", "steered_mc"])
    tuned = tuned.rename(columns={name: f"{name}_tuned" for name in CHOICES})
    return plain.merge(tuned, on=KEYS, how="outer")


def summary(
    frame: pd.DataFrame, methods: Sequence[str], judge: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return per method its metrics, n, and the judge with its error.

    Means are per fold, then over folds; True*Info is a product per fold (docs/method.md Q9).
    """
    judge = judge or {}
    present = [method for method in methods if (frame["method"] == method).any()]
    # one cell by itself: the same names everywhere make it one world with one seed
    panel = panel_of(frame.assign(model="", dataset="", seed=0), present, COLUMNS)
    values = estimate(panel).astype(object)
    values[np.isnan(values.astype(np.float64))] = None  # JSON has no NaN
    told: dict[str, dict[str, Any]] = {}
    for method, row in zip(present, values, strict=True):
        told[method] = dict(zip(panel.columns, row, strict=True)) | {
            "n": int((frame["method"] == method).sum()),
            "judge": judge.get("use"),
            "judge_error": judge.get("error"),
        }
    return told


def _verdicts(
    generations: pd.DataFrame, judged: pd.DataFrame, kinds: list[str], column: str
) -> np.ndarray:
    """[row, kind]: the judge's verdicts on the answers in `column`."""
    asked = generations[["question", column]].rename(columns={column: "answer"})
    # a judge was asked once for each answer, however often it was given
    said = judged.drop_duplicates(["question", "answer"])
    found = asked.merge(said, on=["question", "answer"], how="left")
    missing = found[kinds].isna().any(axis=1)
    if missing.any():
        first = found[missing].iloc[0]
        raise DataError(
            f"judged.parquet: no verdict on {int(missing.sum())} answers, the first to question "
            f"{first['question']!r}; run the stage 'judge' again"
        )
    return metrics.verdict(found[kinds].to_numpy(np.float64))
