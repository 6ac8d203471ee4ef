"""Judging: each distinct answer to each question once.

In: answers of a sweep or of test questions, a judge. Out: `sweep_judged.parquet`, `judged.parquet`:
question, answer, and the judge's scores (true, info; 0 to 1). What a judge has said is kept in a
store question by question, so that folds, seeds and later methods never ask again, and a killed run
goes on.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field

from fasb.artifacts import Store, weights_of
from fasb.data.protocol import Question
from fasb.errors import DataError
from fasb.extensions import find, settings_of
from fasb.metrics.answers import verdict
from fasb.settings import Section
from fasb.study.progress import say

BLOCK = 512
"""Answers judged between two visits to the store."""


class Judge(Section):
    """Who says whether an answer is true and informative."""

    use: str = Field(description="A file of fasb/judges/, or a dotted path")
    code: str = Field("", description="Hash of that file; an edited judge is asked anew")
    settings: dict[str, Any] = Field({}, description="The module's own settings")


def distinct(
    questions: Sequence[Question], frames: Sequence[pd.DataFrame]
) -> list[tuple[Question, str]]:
    """All different (question, answer) pairs in `answer` and `trace_answer`, by question, then answer.

    Raises:
        DataError: an answer to a question that is not among these.
    """
    found: dict[str, set[str]] = {}
    for frame in frames:
        for column in ("answer", "trace_answer"):
            if column in frame:
                for question, answers in frame.groupby("question")[column]:
                    found.setdefault(str(question), set()).update(answers)
    known = {question.id for question in questions}
    if unknown := sorted(set(found) - known):
        raise DataError(
            f"judge: answers to {unknown[0]!r}, which is not among the questions; give the same questions"
        )
    return [
        (question, answer)
        for question in questions
        for answer in sorted(found.get(question.id, ()))
    ]


def judged(
    judge: Judge, pairs: Sequence[tuple[Question, str]], store: Store | None = None
) -> pd.DataFrame:
    """The judge's scores of these pairs, in their order.

    Raises:
        DataError: the judge gives another number of scores, or none.
    """
    key = [] if store is None else _key(judge)
    said = {} if store is None else _stored(key, pairs, store)
    missing = [pair for pair in pairs if (pair[0].id, pair[1]) not in said]
    if store is not None and len(missing) < len(pairs):
        say(f"judge: {len(pairs) - len(missing)} of {len(pairs)} answers taken from the store")
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        scores = asked(judge.use, judge.settings, *zip(*block))
        for i, (question, answer) in enumerate(block):
            said[question.id, answer] = {kind: float(values[i]) for kind, values in scores.items()}
        if store is not None:
            _keep(key, [question for question, _ in block], said, store)
        say(f"judge: {start + len(block)} of {len(missing)} answers judged")
    rows = [
        {"question": question.id, "answer": answer, **said[question.id, answer]}
        for question, answer in pairs
    ]
    kinds = [kind for kind in ("true", "info") if rows and kind in rows[0]]
    return pd.DataFrame(rows, columns=["question", "answer", *kinds])


def asked(
    use: str, settings: dict[str, Any], questions: Sequence[Question], answers: Sequence[str]
) -> dict[str, Float[np.ndarray, " answer"]]:
    """The scores of the judge `use` with these settings; answers[i] belongs to questions[i].

    Raises:
        ConfigError: there is no such judge, or a setting is wrong.
        DataError: the judge gives another number of scores, or none, or one that is not a number.
    """
    found = find("judges", use).judge(
        list(questions), list(answers), settings_of("judges", use, settings, "judge.settings")
    )
    scores = {
        kind: np.asarray(found[kind], dtype=np.float64)
        for kind in ("true", "info")
        if kind in found
    }
    wrong = [kind for kind, values in scores.items() if values.shape != (len(answers),)]
    if not scores or wrong:
        raise DataError(
            f"{use}: needs one score per answer, for true, info or both, but gave "
            f"{ {kind: values.shape for kind, values in scores.items()} } for {len(answers)}; correct the judge"
        )
    for kind, values in scores.items():
        if not np.isfinite(values).all():
            i = int(np.argmin(np.isfinite(values)))
            raise DataError(
                f"{use}: `{kind}` is not a number for {answers[i]!r}, answer to {questions[i].text!r}; "
                "correct the judge (a language model that overflows float16: dtype bfloat16)"
            )
    return scores


def provenance(judge: Judge) -> dict[str, Any]:
    """What the judge's module says of itself, if it does: `provenance`, and its known `error` by score, 0 to 1."""
    module = find("judges", judge.use)
    settings = settings_of("judges", judge.use, judge.settings, "judge.settings")
    said: dict[str, Any] = module.provenance(settings) if hasattr(module, "provenance") else {}
    return {**said, "error": module.error(settings)} if hasattr(module, "error") else said


def rehearse(judge: Judge, questions: Sequence[Question], n: int = 8) -> dict[str, Any]:
    """The judge on the best and the first false answer of the first n questions: whatever fails, fails now.

    `n`: answers; `true`, where it gives that score: how many of them are found true or not as they
    are listed.
    """
    first = questions[:n]
    pairs = [
        (q, answer, label)
        for q in first
        for label, side in ((1, (q.best,)), (0, q.false[:1]))
        for answer in side
    ]
    scores = asked(
        judge.use, judge.settings, [q for q, _, _ in pairs], [answer for _, answer, _ in pairs]
    )
    right = (
        {"true": int((verdict(scores["true"]) == [label for *_, label in pairs]).sum())}
        if "true" in scores
        else {}
    )
    return {"judge": judge.use, "n": len(pairs), **right}


def named(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The judge of a file of verdicts, by its provenance: module, its hash, and what it says of itself."""
    judge = provenance.get("settings", {}).get("judge") or {}
    return {key: judge.get(key) for key in ("use", "code")} | provenance.get("judged_by", {})


def _stored(
    key: list[Any], pairs: Sequence[tuple[Question, str]], store: Store
) -> dict[tuple[str, str], dict[str, float]]:
    said: dict[tuple[str, str], dict[str, float]] = {}
    for question in dict.fromkeys(question for question, _ in pairs):
        frame = store.load([*key, asdict(question)])
        if frame is not None:
            scores = frame.drop(columns="answer").to_dict("records")
            said |= {
                (question.id, answer): score
                for answer, score in zip(frame["answer"], scores, strict=True)
            }
    return said


def _keep(
    key: list[Any],
    questions: Sequence[Question],
    said: dict[tuple[str, str], dict[str, float]],
    store: Store,
) -> None:
    """Another job may keep the same question at the same time; then the later one's answers stay."""
    of_question: dict[str, list[dict[str, Any]]] = {}
    for (question, answer), scores in said.items():
        of_question.setdefault(question, []).append({"answer": answer, **scores})
    for question in dict.fromkeys(questions):
        store.keep([*key, asdict(question)], pd.DataFrame(of_question[question.id]))


def _key(judge: Judge) -> list[Any]:
    """All that a verdict depends on but the question; what the judge says of itself names a hub model's commit."""
    weights = [weights_of(text) for text in _texts(judge.settings)]
    return [
        "judged",
        judge.model_dump(mode="json"),
        provenance(judge),
        weights,
        metadata.version("fasb"),
    ]


def _texts(settings: Any) -> list[str]:
    """All texts among the settings: some are files or folders, and a judge is another once those change."""
    if isinstance(settings, dict):
        return [text for key in sorted(settings) for text in _texts(settings[key])]
    return [os.path.expandvars(settings)] if isinstance(settings, str) else []
