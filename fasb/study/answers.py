"""A look at answers: a few test answers token by token, as the report shows them.

In: the generations, verdicts and tuned settings of cells. Out: per answer the tokens with p, where
the method fired, what was dropped, and what was written instead. Answers are taken evenly spaced
through the test questions of each outcome, so nobody picks the pretty ones. Knows no HTML.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fasb.metrics.answers import verdict
from fasb.study.panels import pooled

OUTCOMES = {
    "helped": "Mended: not true and informative before, both after",
    "harmed": "Spoilt: true and informative before, not after",
    "same": "Steered, and the verdict stayed",
    "left": "Not steered",
}


@dataclass(frozen=True, slots=True)
class Token:
    """One token's text, p after it if it was tracked, and its fate: `kept`, `dropped` or `new`."""

    text: str
    p: float | None
    fate: str
    fired: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer before and after; `after` is empty where the method did not fire. Verdicts are (true, info)."""

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
    generations: pd.DataFrame,
    judged: pd.DataFrame,
    method: str,
    tuned: Mapping[Any, Any],
    each: int = 6,
) -> list[Shown]:
    """At most `each` answers of every outcome from every comparison, of its first cell.

    `tuned` holds the payload of each cell's `tuned.json` under (model, dataset, seed).
    """
    rows = _with_verdicts(generations[generations["method"] == method], judged)
    shown = []
    for _, of_group in rows.groupby(
        [rows["model"].map(pooled), rows["dataset"].map(pooled)], sort=False
    ):
        first = of_group.iloc[0]
        cell = of_group[
            (of_group[["model", "dataset", "seed"]] == first[["model", "dataset", "seed"]]).all(
                axis=1
            )
        ]
        settings = tuned.get((first["model"], first["dataset"], first["seed"]), {})
        for outcome in OUTCOMES:
            found = cell[cell["outcome"] == outcome]
            chosen = (
                np.unique(np.linspace(0, len(found) - 1, min(each, len(found))).astype(int))
                if len(found)
                else []
            )
            for row in found.iloc[list(chosen)].to_dict("records"):
                setting = settings.get(f"fold{row['fold']}", {}).get(method, {}).get("setting", {})
                shown.append(_shown(row, setting))
    return shown


def fired_at(
    p: Sequence[float], kept: int, strength: float, setting: Mapping[str, Any]
) -> int | None:
    """The token after which the method fired, 1 for the first; None where the tuned setting does not tell.

    Where some tokens stayed it is s tokens later; where none did, the first check whose p gives the
    strength.
    """
    s, alpha, last = setting.get("s"), setting.get("alpha"), len(p) - 1
    if s is None or alpha is None:
        return None
    if 0 < kept <= last - s:
        return kept + int(s)
    due = (n for n in range(1, last + 1) if n >= s or n == last)
    return next((n for n in due if np.isclose(alpha * p[n], strength, rtol=1e-4)), None)


def _shown(row: Mapping[str, Any], setting: Mapping[str, Any]) -> Shown:
    fired, kept, p = bool(row["fired"]), int(row["kept"]), list(row["p"])
    at = fired_at(p, kept, float(row["strength"]), setting) if fired else None
    before = tuple(
        Token(
            text=piece,
            p=p[i + 1] if i + 1 < len(p) else None,
            fate="dropped" if fired and i >= kept else "kept",
            fired=i + 1 == at,
        )
        for i, piece in enumerate(row["trace_pieces"])
    )
    after = tuple(
        Token(piece, None, "kept" if i < kept else "new")
        for i, piece in enumerate(row["answer_pieces"])
    )
    verdicts = [
        (bool(row[f"true_{when}"]), bool(row[f"info_{when}"])) for when in ("before", "after")
    ]
    return Shown(
        row["model"], row["text"], row["outcome"], p[0] if p else None, before, after if fired else (), *verdicts,
        strength=float(row["strength"]),
    )  # fmt: skip


def _with_verdicts(rows: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """Rows with verdicts before and after, and the outcome; without a judge of info every answer is informative."""
    if rows.empty or "true" not in judged:
        return rows.iloc[:0].assign(outcome="")
    keys = ["model", "dataset", "seed", "question"]
    said = judged.assign(info=judged.get("info", 1.0)).drop_duplicates([*keys, "answer"])
    rows = rows.copy()
    for when, column in (("before", "trace_answer"), ("after", "answer")):
        asked = rows[[*keys, column]].rename(columns={column: "answer"})
        found = asked.merge(
            said[[*keys, "answer", "true", "info"]], on=[*keys, "answer"], how="left"
        )
        for kind in ("true", "info"):
            rows[f"{kind}_{when}"] = verdict(found[kind].to_numpy(np.float64))
    good = [rows[f"true_{when}"] & rows[f"info_{when}"] for when in ("before", "after")]
    changed = np.select([~good[0] & good[1], good[0] & ~good[1]], ["helped", "harmed"], "same")
    return rows.assign(outcome=np.where(rows["fired"].astype(bool), changed, "left"))
