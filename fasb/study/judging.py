"""Judging: each distinct answer to each question once.

In: answers of a sweep or of test questions, a judge. Out: `sweep_judged.parquet`, `judged.parquet`:
question, answer, and the judge's scores (true, info; 0 to 1). What a judge has said is kept in a
store question by question, so that folds, seeds and later methods never ask again, and a killed run
goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fasb.artifacts import Store
from fasb.data.protocol import Question
from fasb.errors import DataError
from fasb.extensions import code_hash, find, settings_of
from fasb.judges.ask import known_error, run_judge
from fasb.metrics.answers import verdict
from fasb.provenance import contents_of
from fasb.settings import JudgeSettings
from fasb.sourcecode import version_of
from fasb.study.progress import say

BLOCK = 512
"""Answers judged between two visits to the store."""
KINDS = ("true", "info")
Scores = dict[str, float]
"""A judge's scores of one answer, by kind."""


def distinct(
    questions: Sequence[Question], frames: Sequence[pd.DataFrame]
) -> list[tuple[Question, str]]:
    """Return all different pairs in `answer` and `trace_answer`, by question, then answer.

    Raises:
        DataError: an answer to a question that is not among these.
    """
    found: dict[str, set[str]] = {}
    for frame in frames:
        for column in ("answer", "trace_answer"):
            if column in frame:
                for name, answers in frame.groupby("question")[column]:
                    found.setdefault(str(name), set()).update(answers)
    known = {question.id for question in questions}
    if unknown := sorted(set(found) - known):
        raise DataError(
            f"judge: answers to {unknown[0]!r}, which is not among the questions; give the same "
            "questions"
        )
    pairs = []
    for question in questions:
        # the order of a set of texts differs between processes, and a judge's batches with it
        pairs += [(question, answer) for answer in sorted(found.get(question.id, ()))]
    return pairs


def judge_pairs(
    judge: JudgeSettings, pairs: Sequence[tuple[Question, str]], store: Store | None = None
) -> pd.DataFrame:
    """Return the judge's scores of these pairs, in their order.

    Raises:
        DataError: the judge gives another number of scores, or none.
    """
    verdicts = Verdicts(judge, store)
    missing = verdicts.recall(pairs)
    if len(missing) < len(pairs):
        say(f"judge: {len(pairs) - len(missing)} of {len(pairs)} answers taken from the store")
    for start in range(0, len(missing), BLOCK):
        verdicts.ask(missing[start : start + BLOCK])
        say(f"judge: {min(start + BLOCK, len(missing))} of {len(missing)} answers judged")
    rows = []
    for question, answer in pairs:
        scores = verdicts.said[question.id][answer]
        rows.append({"question": question.id, "answer": answer, **scores})
    kinds = [kind for kind in KINDS if rows and kind in rows[0]]
    return pd.DataFrame(rows, columns=["question", "answer", *kinds])


def with_wrong(
    traces: pd.DataFrame, questions: Sequence[Question], judge: JudgeSettings, store: Store
) -> pd.DataFrame:
    """Return unsteered answers with the judge's verdict `wrong`: not true (C8)."""
    asked = traces[["question", "text"]].rename(columns={"text": "answer"})
    said = judge_pairs(judge, distinct(questions, [asked]), store)
    if "true" not in said:
        raise DataError("judge: an oracle asks what is true, which this judge does not say")
    score = asked.merge(said, on=["question", "answer"], how="left")["true"]
    return traces.assign(wrong=~verdict(score.to_numpy(dtype=float)))


class Verdicts:
    """What a judge has said, by question and answer, and the store where it is kept."""

    def __init__(self, judge: JudgeSettings, store: Store | None) -> None:
        self.judge, self.store = judge, store
        self.key = [] if store is None else _key(judge)
        self.said: dict[str, dict[str, Scores]] = {}

    def recall(self, pairs: Sequence[tuple[Question, str]]) -> list[tuple[Question, str]]:
        """Take what the store has; return the pairs that are left to be judged."""
        for question in dict.fromkeys(question for question, _ in pairs):
            self.said[question.id] = {}
            # the whole question is the key, as a judge may read its references too
            frame = None if self.store is None else self.store.load([*self.key, asdict(question)])
            if frame is not None:
                scores = frame.drop(columns="answer").to_dict("records")
                self.said[question.id] = dict(zip(frame["answer"], scores, strict=True))
        return [pair for pair in pairs if pair[1] not in self.said[pair[0].id]]

    def ask(self, block: Sequence[tuple[Question, str]]) -> None:
        """Judge these pairs and keep what was said.

        Another job may keep the same question at the same time; then the later one's answers stay.
        """
        questions = [question for question, _ in block]
        scores = run_judge(self.judge, questions, [answer for _, answer in block])
        for i, (question, answer) in enumerate(block):
            said = {kind: float(values[i]) for kind, values in scores.items()}
            self.said[question.id][answer] = said
        for question in dict.fromkeys(questions):
            if self.store is not None:
                known = self.said[question.id]
                # a file is replaced as a whole, so what was said before is written with it
                rows = [{"answer": answer, **said} for answer, said in known.items()]
                self.store.keep([*self.key, asdict(question)], pd.DataFrame(rows))


def check_judge(judge: JudgeSettings, questions: Sequence[Question], n: int = 8) -> dict[str, Any]:
    """Judge the best and the first false answer of the first n questions: what fails, fails now.

    Returns the number of answers `n` and, where the judge says so, how many are found `true` or not
    as they are listed.
    """
    known_error(judge)
    asked, answers, labels = [], [], []
    for question in questions[:n]:
        for label, listed in ((True, (question.best,)), (False, question.false[:1])):
            for answer in listed:
                asked.append(question)
                answers.append(answer)
                labels.append(label)
    scores = run_judge(judge, asked, answers)
    said: dict[str, Any] = {"judge": judge.use, "n": len(answers)}
    if "true" not in scores:
        return said
    return {**said, "true": int((verdict(scores["true"]) == labels).sum())}


def provenance(judge: JudgeSettings) -> dict[str, Any]:
    """Return what the judge's module says of itself, if it does.

    That is its `provenance`, and its known `error` by score, 0 to 1.

    Raises:
        DataError: its error is no share by score.
    """
    module = find("judges", judge.use)
    settings = settings_of("judges", judge.use, judge.settings, "judge.settings")
    said: dict[str, Any] = module.provenance(settings) if hasattr(module, "provenance") else {}
    error = known_error(judge)
    return said if error is None else {**said, "error": error}


def named(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the judge of a file of verdicts: module, its hash, and what it says of itself."""
    judge = provenance.get("settings", {}).get("judge") or {}
    return {key: judge.get(key) for key in ("use", "code")} | provenance.get("judged_by", {})


def _key(judge: JudgeSettings) -> list[Any]:
    """All that a verdict depends on but the question.

    What the judge says of itself names a hub model's commit.
    """
    entry = {
        "use": judge.use,
        "code": code_hash("judges", judge.use),
        "settings": judge.settings,
    }
    files = contents_of(judge.settings)
    return ["judged", entry, provenance(judge), files, version_of(__name__)]
