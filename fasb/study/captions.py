"""Captions of the figures, made of the rows they show: what is seen first, then n, seeds and intervals.

Knows no picture; the same rows stand in the CSV beside it.
"""

from collections.abc import Callable

import pandas as pd

from fasb.study.panels import label

INTERVAL = (
    "Bars and bands: 95 % intervals, bootstrap over worlds, or folds where there is one world."
)


def figure_1_caption(rows: pd.DataFrame) -> str:
    """How well p tells false from true answers before and after they are written."""
    if rows.empty:
        return "No tracked answers in this study."
    auc = rows[rows["part"] == "auc"].pivot_table(
        index="model", columns="x", values="value", sort=False
    )
    auc = auc.reindex(columns=[0.0, 1.0])
    both = auc.dropna()
    told = "; ".join(
        f"{model}: AUC {row[0.0]:.2f} and {row[1.0]:.2f}" for model, row in both.iterrows()
    )
    told = told or "no AUC: answers of one verdict only"
    clear = len(auc) and (auc[1.0] > 0.75).all() and (auc[0.0] < 0.65).all()
    opening = (
        "Whether an answer will be false shows while it is written, hardly before"
        if clear
        else "What the tracker knows at the end of the question and at the end of the answer"
    )
    tracker = label(str(rows["method"].iloc[0]))
    return (
        f"{opening} ({told}). p of {tracker}'s tracker over unsteered test answers that the judge finds true (blue, "
        f"solid) and false (red, dashed); middle: mean along the answer. {sizes(rows)} {INTERVAL}"
    )


def calibration_caption(rows: pd.DataFrame) -> str:
    """How far p is from how often answers go wrong, and what it tells before and after they are written."""
    if rows.empty:
        return "No tracked answers in this study."
    ends = rows[rows["position"].isin(["question", "answer"]) & (rows["part"] != "bin")]
    table = ends.pivot_table(
        index="model", columns=["part", "position"], values="value", sort=False, dropna=False
    )
    told = "; ".join(
        f"{model}: ECE {row['ece', 'question']:.2f} and {row['ece', 'answer']:.2f}, p between .3 and .5 for "
        f"{row['middle', 'question']:.0%} and {row['middle', 'answer']:.0%}"
        for model, row in table.iterrows()
    )
    tracker = label(str(rows["method"].iloc[0]))
    return (
        f"What p of {tracker}'s tracker is worth as a probability, at the question's and the answer's end ({told}). "
        "Left: share of unsteered test answers that the judge finds false, in ten bins of equal count; the diagonal is "
        f"calibrated. Right: AUC (solid) and ECE (dashed) by position. {sizes(rows)} Bars and bands: 95 % intervals, "
        "bootstrap over questions; ECE is never negative, so it and its interval lie too high where bins are small."
    )


def figure_4_caption(rows: pd.DataFrame) -> str:
    """How good the best head is, and how many know next to nothing."""
    if rows.empty:
        return "No heads in this study."
    best = rows.loc[rows["value"].idxmax()]
    weak = (rows["value"] < 0.6).mean()
    return (
        f"The best head of a layer reaches {best['value']:.2f} ({best['model']}, layer {best['layer']}), and "
        f"{weak:.0%} of all heads stay below 0.60. Validation accuracy, heads sorted within each layer, averaged "
        f"over {rows['n'].iloc[0]} folds, seeds and worlds."
    )


def sensitivity_caption(rows: pd.DataFrame) -> str:
    """Which setting moves the result most."""
    if rows.empty:
        return "No method with a grid in this study."
    span = (
        rows.groupby(["model", "method", "knob"])["value"]
        .agg(lambda v: v.max() - v.min())
        .groupby("knob")
        .mean()
    )
    ranked = span.sort_values(ascending=False)
    told = ", ".join(f"{knob} {points:.0f}" for knob, points in ranked.items())
    return (
        f"{ranked.index[0]} matters most: points between the best and the worst value, {told}. Validation results "
        f"along each setting, the others as tuned for that fold. {sizes(rows)} {INTERVAL}"
    )


def tradeoff_caption(rows: pd.DataFrame) -> str:
    """Where the tuned methods end."""
    if rows.empty:
        return "No generated answers in this study."
    test = rows[(rows["part"] == "test") & rows["true"].notna()]
    told = "; ".join(
        f"{model}: "
        + ", ".join(
            f"{label(r['method'])} {r['true']:.0f} / {r['info']:.0f}"
            for r in part.to_dict("records")
        )
        for model, part in test.groupby("model", sort=False)
    )
    return (
        f"True / Info on test questions: {told}. Small markers: "
        "along alpha on validation questions, the other settings as tuned; large markers: tuned, on test questions. "
        f"Grey: equal True*Info. {sizes(rows[rows['part'] == 'test'])} {INTERVAL}"
    )


def data_efficiency_caption(rows: pd.DataFrame) -> str:
    """How the first gated method fares on the fewest pairs and on all of them."""
    if rows.empty:
        return "No cell in this study was fitted on a share of its training questions."
    rows = rows.sort_values("pairs")
    gated = [method for method in rows["method"].unique() if method.startswith("fasb")] or list(
        rows["method"].unique()
    )
    part = rows[(rows["method"] == gated[0]) & (rows["metric"] == rows["metric"].iloc[0])]
    few, full = part.iloc[0], part.iloc[-1]
    told = (
        " Dotted: the paper's unsteered number, from another protocol."
        if rows["published"].notna().any()
        else ""
    )
    return (
        f"{label(gated[0])} on {few['pairs']:.0f} training pairs: {few['metric']} {few['value']:.1f}, on"
        f" {full['pairs']:.0f}: {full['value']:.1f}. Test questions; smaller sets lie within larger ones.{told}"
        f" {sizes(rows)} {INTERVAL}"
    )


def sizes(rows: pd.DataFrame) -> str:
    """Worlds and split seeds of each comparison, and its n where the rows have it."""
    told = []
    for model, part in rows.groupby("model", sort=False):
        first = part.iloc[0]
        n = ""
        if "verdict" in part:
            counts = part[part["part"] == "along"].drop_duplicates("verdict")["n"]
            n = f"{int(counts.sum())} answers, "
        elif "position" in part:
            n = f"{int(first['n'])} answers, "
        elif "n" in part and pd.notna(first["n"]):
            n = f"{int(first['n'])} questions, "
        told.append(
            f"{model}: {n}{_count(int(first['worlds']), 'world')}, {_count(int(first['seeds']), 'split seed')}"
        )
    return "; ".join(told) + "." if told else ""


def _count(n: int, name: str) -> str:
    return f"{n} {name}" if n == 1 else f"{n} {name}s"


CAPTION: dict[str, Callable[[pd.DataFrame], str]] = {
    "figure_1": figure_1_caption,
    "calibration": calibration_caption,
    "figure_4": figure_4_caption,
    "sensitivity": sensitivity_caption,
    "tradeoff": tradeoff_caption,
    "data_efficiency": data_efficiency_caption,
}
"""Captions by the name of the figure's file."""
