"""A study's results as the stages would leave them: no model, every number is drawn, seeded."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from fasb.artifacts import write_json, write_parquet
from fasb.data.protocol import Question, write_questions
from fasb.hdf5files import writing_hdf5
from fasb.steering.fingerprint import Fingerprint
from fasb.study.cells import Cell
from fasb.study.metrics import question_metrics, summary
from fasb.study.styles import MethodStyle

STYLES = (
    MethodStyle("unsteered", "Unsteered", colour="#000000", steers=False),
    MethodStyle("iti", "ITI", colour="#0072B2"),
    MethodStyle("fasb-probe", "FASB-Probe", colour="#D55E00", gated=True),
    MethodStyle("fasb-prototype", "FASB-Prototype", colour="#E69F00", gated=True),
    MethodStyle("without-backtracking", "w/o backtracking", "ablation", gated=True),
)
METHODS = tuple(style.name for style in STYLES)
TRUE = {
    "unsteered": 0.45,
    "iti": 0.8,
    "fasb-probe": 0.85,
    "fasb-prototype": 0.78,
    "without-backtracking": 0.55,
}
INFO = {
    "unsteered": 0.98,
    "iti": 0.8,
    "fasb-probe": 0.93,
    "fasb-prototype": 0.9,
    "without-backtracking": 0.97,
}
GRIDS = {
    "unsteered": {},
    "iti": {"k": [2, 4, 8], "alpha": [1.0, 2.0, 4.0, 8.0, 16.0]},
    "fasb-probe": {
        "k": [2, 4, 8],
        "alpha": [6.0, 9.0, 12.0, 16.0, 24.0],
        "beta": [0.4, 0.5, 0.6],
        "s": [3, 6, 9],
    },
    "fasb-prototype": {
        "k": [2, 4, 8],
        "alpha": [0.5, 1.0, 2.0, 4.0, 8.0],
        "beta": [0.4, 0.5, 0.6],
        "s": [3, 6, 9],
    },
    "without-backtracking": {
        "k": [2, 4, 8],
        "alpha": [6.0, 9.0, 12.0, 16.0, 24.0],
        "beta": [0.4, 0.5],
        "s": [6],
    },
}
MADE_BY = {"stage": "synthetic"}


def styled(*names: str) -> tuple[MethodStyle, ...]:
    """Some of the styles, in this order."""
    known = {style.name: style for style in STYLES}
    return tuple(known[name] for name in names)


@dataclass(frozen=True)
class Results:
    """Where the files lie, and the cells."""

    root: Path
    cells: list[Cell]

    def files(self, *names: str) -> list[Path]:
        return [cell.folder / name for cell in self.cells for name in names]


def results(
    root: Path, worlds=("tradeoff-s2", "tradeoff-s3", "contrast-s2"), seeds=(0, 1), groups=6
) -> Results:
    """Files of every cell, under `root`."""
    cells = []
    for i, world in enumerate(worlds):
        questions = _questions(groups)
        write_questions(root / "questions" / f"{world}.parquet", questions, MADE_BY)
        for seed in seeds:
            cell = Cell(world, world, seed, results=root)
            _cell(cell.folder, questions, np.random.default_rng([i, seed]), world, seed)
            cells.append(cell)
    return Results(root, cells)


def _questions(groups: int) -> list[Question]:
    return [
        Question(
            f"e{g}-r{r}",
            f"what is e{g} made of ?",
            ("oak .", "it is oak ."),
            ("clay .",),
            "oak .",
            f"e{g}",
            paraphrases=(f"which material is e{g} ?",),
        )
        for g in range(groups)
        for r in range(4)
    ]


def _cell(
    folder: Path, questions: list[Question], rng: np.random.Generator, model: str, seed: int
) -> None:
    generations, judged, scores = _answers(questions, rng)
    frame = question_metrics(questions, generations, judged, scores)
    write_parquet(folder / "generations.parquet", generations, MADE_BY)
    write_parquet(folder / "judged.parquet", judged, MADE_BY)
    write_parquet(folder / "scores.parquet", scores, MADE_BY)
    write_parquet(folder / "metrics.parquet", frame, {**MADE_BY, "settings": {"seed": seed}})
    write_json(folder / "metrics.json", summary(frame, METHODS), MADE_BY)
    write_parquet(folder / "side_effects.parquet", _effects(rng), MADE_BY)
    grid = _grid(rng)
    write_parquet(folder / "grid.parquet", grid, MADE_BY)
    write_json(folder / "tuned.json", _tuned(grid), MADE_BY)
    with writing_hdf5(folder / "anchors.h5", MADE_BY) as file:
        _anchors(file, rng)
    figures = {
        "head": {"value": 81.2, "need": "at least 72", "ok": True},
        "loss": {"value": 4.1, "need": "at least 5", "ok": False},
    }
    health = {"accepted": False, "failures": ["loss 4.1, needs at least 5"], "figures": figures}
    write_json(folder.parents[2] / "health" / f"{model}.json", health, MADE_BY)


def _answers(
    questions: list[Question], rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows, verdicts, scores = [], {}, []
    for i, question in enumerate(questions):
        fold = int(i >= len(questions) // 2)
        for phrasing, text in enumerate(question.phrasings):
            before = _answer(rng, "unsteered", i)
            p = _p(rng, len(before["pieces"]), before["true"])
            for method in METHODS:
                rows.append(
                    _row(rng, method, i, before, p)
                    | {"phrasing": phrasing, "text": text, "fold": fold}
                )
                for answer in (before, rows[-1].pop("after")):
                    verdicts[question.id, answer["text"]] = (answer["true"], answer["info"])
                rows[-1] |= {"question": question.id, "group": question.group}
                lift = 0.25 * (method != "unsteered")
                for tuned_for in ("generation", "mc2"):
                    mc = rng.uniform(lift, 0.7 + lift)
                    scores.append(
                        {
                            "fold": fold,
                            "method": method,
                            "tuned_for": tuned_for,
                            "question": question.id,
                            "phrasing": phrasing,
                            "mc1": float(mc > 0.5),
                            "mc2": mc,
                            "mc3": mc / 2,
                            "fired": 0.5,
                        }
                    )
    judged = [
        {"question": q, "answer": a, "true": float(t), "info": float(i)}
        for (q, a), (t, i) in verdicts.items()
    ]
    return pd.DataFrame(rows), pd.DataFrame(judged), pd.DataFrame(scores)


def _answer(rng: np.random.Generator, method: str, number: int) -> dict:
    """The text says what the verdict will be, as an exact judge's would."""
    info = rng.random() < INFO[method]
    true = rng.random() < TRUE[method] or not info
    what = ("oak" if true else "clay") if info else "i have no comment"
    pieces = [
        " the",
        f" e{number}",
        " is",
        " made",
        " of",
        f" {what}",
        " .",
        f" it lies in t{rng.integers(5)}",
        " .",
    ]
    pieces = pieces[: rng.integers(7, 10)] if info else [" i", " have", " no", " comment", " ."]
    return {"true": true, "info": info, "pieces": pieces, "text": "".join(pieces).strip()}


def _p(rng: np.random.Generator, n: int, true: bool) -> list[float]:
    drift = np.linspace(0, -1.4 if true else 1.2, n + 1)
    return (1 / (1 + np.exp(-(drift + rng.normal(-0.3, 0.5, n + 1))))).tolist()


def _row(rng: np.random.Generator, method: str, number: int, before: dict, p: list[float]) -> dict:
    tracked = method not in ("unsteered", "iti")
    fired = method == "iti" or (tracked and max(p) > 0.5)
    n = len(before["pieces"])
    kept = (0 if method == "iti" else int(rng.integers(0, n))) if fired else n
    after = _answer(rng, method, number) if fired else before
    pieces = [*before["pieces"][:kept], *after["pieces"][kept:]] if fired else before["pieces"]
    text = "".join(pieces).strip()
    after = after | {
        "pieces": pieces,
        "text": text,
        "true": "clay" not in text,
        "info": "no comment" not in text,
    }
    at = int(rng.integers(kept, n + 1)) if fired else n
    return {
        "method": method,
        "answer": text,
        "fired_at": at,
        "n_tokens": len(pieces),
        "decoded": n + (len(pieces) - kept if fired else 0),
        "passes": n + 1,
        "ended": 1,
        "fired": fired,
        "kept": kept,
        "strength": 9.0 * max(p) if fired else 0.0,
        "p": p if tracked else [],
        "trace_pieces": before["pieces"],
        "answer_pieces": pieces,
        "trace_answer": before["text"],
        "after": after,
    }


def _grid(rng: np.random.Generator) -> pd.DataFrame:
    """Validation results that rise and fall along alpha."""
    rows = []
    for fold in (0, 1):
        for method in METHODS:
            points = (
                pd.MultiIndex.from_product(GRIDS[method].values()).to_list()
                if GRIDS[method]
                else [()]
            )
            for setting, point in enumerate(points):
                at = dict(zip(GRIDS[method], point, strict=True))
                alphas = GRIDS[method].get("alpha", [1.0])
                x = alphas.index(at["alpha"]) / len(alphas) if at else 0.0
                off = 0.05 * abs(at.get("beta", 0.5) - 0.5) * 10 + 0.01 * abs(at.get("s", 6) - 6)
                true = (
                    min(
                        TRUE["unsteered"] + x * (0.55 if method != "without-backtracking" else 0.1),
                        1.0,
                    )
                    - off
                )
                cost = 0.35 * x**2 * (1.0 if method == "iti" else 0.6)
                info = min(0.99 - cost + rng.normal(0, 0.005), 1.0)
                rows.append(
                    {"fold": fold, "method": method, "setting": setting}
                    | {key: at.get(key, np.nan) for key in ("k", "alpha", "beta", "s")}
                    | {
                        "vector": None
                        if method == "unsteered"
                        else "prototype"
                        if method == "iti"
                        else "probe"
                    }
                    | {
                        "true": true,
                        "info": info,
                        "true_info": true * info,
                        "mc1": 0.3 + 0.2 * x,
                        "mc2": 0.4 + 0.2 * x,
                    }
                    | {
                        "mc3": 0.2 + 0.1 * x,
                        "steered": min(x, 0.9),
                        "steered_mc": min(x, 0.8),
                        "tokens": 12.0,
                        "n": 24,
                    }
                )
    grid = pd.DataFrame(rows)
    best = grid.groupby(["fold", "method"])
    grid["chosen"] = grid.index.isin(best["true_info"].idxmax())
    grid["chosen_mc2"] = grid.index.isin(best["mc2"].idxmax())
    return grid


def _tuned(grid: pd.DataFrame) -> dict:
    def setting(row):
        return {
            key: row[key] for key in ("k", "alpha", "beta", "s", "vector") if pd.notna(row[key])
        }

    tuned: dict = {}
    for row in grid[grid["chosen"]].to_dict("records"):
        mc = grid[
            grid["chosen_mc2"] & (grid["fold"] == row["fold"]) & (grid["method"] == row["method"])
        ]
        tuned.setdefault(f"fold{row['fold']}", {})[row["method"]] = {
            "setting": setting(row),
            "for_mc2": setting(mc.iloc[0].to_dict()),
            "validation": {key: row[key] for key in ("true", "info", "true_info")},
            "steers": {"generation": True, "mc2": True},
            "edge": ["alpha"] if row["method"] == "fasb-prototype" else [],
            "edge_mc2": ["k"] if row["method"] == "fasb-prototype" else [],
            "tried": 18,
            "different": 12 if row["method"] == "iti" else 18,
        }
    return tuned


def _effects(rng: np.random.Generator) -> pd.DataFrame:
    """Texts that steering makes less likely, and unrelated questions of which it spoils a few."""
    rows = []
    texts = rng.normal(2.5, 0.3, 20)
    for fold in (0, 1):
        for method in METHODS:
            cost = 0.0 if method == "unsteered" else rng.uniform(0.3, 0.5)
            gate = cost if method == "iti" else cost / 10
            share = 0.0 if method == "unsteered" else 1.0 if method == "iti" else 0.12
            for i, ce in enumerate(texts):
                rows.append(
                    {
                        "question": f"text{i}",
                        "ce": ce + cost,
                        "kl": 1.2 * cost,
                        "ce_policy": ce + gate,
                        "kl_policy": 1.2 * gate,
                        "steered_policy": share,
                    }
                )
            rows += [
                {"question": f"q{i}", "unrelated": float(i % 2 and rng.random() > share / 4)}
                for i in range(20)
            ]
            for row in rows[-40:]:
                row |= {"fold": fold, "method": method, "group": row["question"]}
    return pd.DataFrame(rows)


def _anchors(file: h5py.File, rng: np.random.Generator) -> None:
    model = Fingerprint("synthetic", 4, 8, 16, "vocabulary")
    file.attrs["fingerprint"] = json.dumps(asdict(model))
    for fold in (0, 1):
        file[f"fold{fold}/train"], file[f"fold{fold}/validation"] = ["e0-r0"], ["e0-r1"]
        for kind in ("logistic", "cosine"):
            group = file.create_group(f"fold{fold}/{kind}")
            file[f"fold{fold}"].attrs["pairs"] = 72
            good = rng.random((4, 8)) * np.array([0.2, 0.5, 0.8, 1.0])[:, None]
            group["accuracy"] = 0.5 + 0.35 * good**2 + rng.normal(0, 0.02, (4, 8))
            group["accuracy_test"] = group["accuracy"][:] - 0.02
