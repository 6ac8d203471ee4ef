"""A look at answers: a few test answers token by token, as the report shows them.

In: the generations and verdicts of cells. Out: per answer the tokens with p, where the method
fired, what was dropped, and what was written instead. Answers are taken evenly spaced through the
test questions of each outcome, so nobody picks the pretty ones. Knows no HTML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fasb.metrics.answers import good, harmed, helped, verdict
from fasb.study.measures import INFO, TRUE
from fasb.study.worlds import pooled

OUTCOMES = {
    "helped": "Mended: not true and informative before, both after",
    "harmed": "Spoilt: true and informative before, not after",
    "same": "Steered, and the verdict stayed",
    "left": "Not steered",
}
OF_CELL = ["model", "dataset", "seed"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token's text, p after it if it was tracked, and its fate: `kept`, `dropped` or `new`."""

    text: str
    p: float | None
    fate: str
    fired: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer before and after steering; verdicts are (true, info).

    `after` is empty where the method did not fire.
    """

    model: str
    question: str
    outcome: str
    p_question: float | None
    before: tuple[Token, ...]
    after: tuple[Token, ...]
    verdict_before: tuple[bool, bool]
    verdict_after: tuple[bool, bool]
    strength: float


def pick(
    generations: pd.DataFrame, judged: pd.DataFrame, method: str, each: int = 6
) -> list[Shown]:
    """Return at most `each` answers of every outcome of each comparison, of its first cell."""
    rows = _with_verdicts(generations[generations["method"] == method], judged)
    shown: list[Shown] = []
    groups = [rows["model"].map(pooled), rows["dataset"].map(pooled)]
    for _, of_group in rows.groupby(groups, sort=False):
        cell = of_group[(of_group[OF_CELL] == of_group[OF_CELL].iloc[0]).all(axis=1)]
        for outcome in OUTCOMES:
            found = cell[cell["outcome"] == outcome]
            # evenly spaced: nobody chose them, and the same come again
            spaced = np.linspace(0, len(found) - 1, min(each, len(found)))
            at = np.unique(spaced.astype(int))
            shown += map(_shown, found.iloc[at].to_dict("records"))
    return shown


def _shown(row: Mapping[str, Any]) -> Shown:
    fired, kept, p = bool(row["fired"]), int(row["kept"]), list(row["p"])
    before = []
    for i, piece in enumerate(row["trace_pieces"]):
        # states are one more than tokens: p[0] is the question's
        fate = "dropped" if fired and i >= kept else "kept"
        at = p[i + 1] if i + 1 < len(p) else None
        before.append(Token(piece, at, fate, fired=fired and i + 1 == row["fired_at"]))
    after = []
    for i, piece in enumerate(row["answer_pieces"] if fired else ()):
        after.append(Token(piece, None, "kept" if i < kept else "new"))
    return Shown(
        model=row["model"],
        question=row["text"],
        outcome=row["outcome"],
        p_question=p[0] if p else None,
        before=tuple(before),
        after=tuple(after),
        verdict_before=(bool(row["true_before"]), bool(row["info_before"])),
        verdict_after=(bool(row["true_after"]), bool(row["info_after"])),
        strength=float(row["strength"]),
    )


def _with_verdicts(rows: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Rows with verdicts before and after, and the outcome.

    Without a judge of info every answer is informative.
    """
    if rows.empty or TRUE.name not in judged:
        return rows.iloc[:0].assign(outcome="")
    keys, kinds = [*OF_CELL, "question"], [TRUE.name, INFO.name]
    info = judged[INFO.name].fillna(1.0) if INFO.name in judged else 1.0
    said = judged.assign(**{INFO.name: info})
    said = said.drop_duplicates([*keys, "answer"])[[*keys, "answer", *kinds]]
    said = said.dropna(subset=[TRUE.name])
    found = {}
    for when, column in (("before", "trace_answer"), ("after", "answer")):
        asked = rows[[*keys, column]].rename(columns={column: "answer"})
        found[when] = asked.merge(said, on=[*keys, "answer"], how="left")[kinds]
    # of a dataset without a judge, beside one that has one, nobody said anything
    judged_both = found["before"].notna().all(axis=1) & found["after"].notna().all(axis=1)
    rows, were_good = rows[judged_both.to_numpy()].reset_index(drop=True), []
    for when, scores in found.items():
        verdicts = verdict(scores[judged_both].to_numpy(np.float64))
        rows[[f"true_{when}", f"info_{when}"]] = verdicts
        were_good.append(good(verdicts))
    outcome = pd.Series("same", index=rows.index)
    outcome[helped(*were_good)] = "helped"
    outcome[harmed(*were_good)] = "harmed"
    return rows.assign(outcome=outcome.where(rows["fired"].astype(bool), "left"))
