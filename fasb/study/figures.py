"""Figures at print size: one `draw_<name>(rows) -> Figure` each, from the rows that `figure_rows.py` makes.

A picture has no title: its caption (`captions.py`) opens with what it shows. One mapping gives
every method its colour, marker and dash in all figures; lines are labelled at their ends. Knows no
file but the style sheet.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from fasb.study.panels import label

STYLE = Path(__file__).with_name("paper.mplstyle")
EN_DASH = "\N{EN DASH}"
WIDTH = 5.5
"""Inches: the text width of the conference's page."""

COLOURS = {
    "unsteered": "#000000", "fasb-probe": "#D55E00", "fasb-prototype": "#E69F00", "iti": "#0072B2", "caa": "#56B4E9",
    "true": "#0072B2", "false": "#D55E00",
}  # fmt: skip
"""Of methods and verdicts (Okabe-Ito); every other method is grey."""
INKS = {"fasb-probe": "#A84A00", "fasb-prototype": "#805800", "caa": "#1B6490", "false": "#A84A00"}
"""Darker shades of the same hue, where a colour would be too pale as text on white."""
MARKERS = {"unsteered": "o", "iti": "s", "fasb-probe": "^", "fasb-prototype": "D", "caa": "v"}
DASHES = {"iti": (4, 1.5), "fasb-prototype": (1.5, 1.2), "false": (4, 1.5)}


def colour(name: str) -> str:
    """The colour of a method's lines."""
    return COLOURS.get(name, "#999999")


def ink(name: str) -> str:
    """The colour of a method's name, readable on white."""
    return INKS.get(name, COLOURS.get(name, "#595959"))


def save(figure: Figure, out: Path) -> None:
    """Write `out`.pdf, then `out`.png, each once: equal rows give equal bytes."""
    from fasb.artifacts import writing

    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with writing(out.with_name(f"{out.name}.{kind}")) as part, mpl.rc_context(fname=STYLE):
            figure.savefig(part, format=kind, metadata=metadata)


def draw_figure_1(rows: pd.DataFrame) -> Figure:
    """P at the question's end, its mean along the answer, and p at the answer's end, by the answer's verdict."""
    groups = _groups(rows)
    if not groups:
        return _empty("no tracked answers")
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(0.35 + 1.45 * len(groups), len(groups), 3, width_ratios=(1, 1.25, 1))
        top = 1.12 * rows[rows["part"].isin(["question_end", "answer_end"])]["value"].max()
        for (title, part), axes in zip(groups, grid):
            for panel, axis in (("question_end", axes[0]), ("answer_end", axes[2])):
                _shares(axis, part, panel, top)
            _along(axes[1], part)
            axes[0].set_ylabel(f"{title}share of answers")
        for axis, text in zip(
            grid[-1],
            ("$p$ at the question's end", "position in the answer", "$p$ at the answer's end"),
        ):
            axis.set_xlabel(text)
    return figure


def _shares(axis: Axes, rows: pd.DataFrame, panel: str, top: float) -> None:
    """Two outlined histograms on one axis, the area under the curve written in the corner."""
    for verdict in ("true", "false"):
        part = rows[(rows["part"] == panel) & (rows["verdict"] == verdict)]
        edges = np.linspace(0, 1, len(part) + 1)
        axis.stairs(part["value"], edges, fill=True, color=colour(verdict), alpha=0.18)
        axis.stairs(
            part["value"], edges, color=colour(verdict), linestyle=_dash(verdict), linewidth=1.0
        )
    auc = rows[(rows["part"] == "auc") & (rows["x"] == (0 if panel == "question_end" else 1))].iloc[
        0
    ]
    axis.text(
        0.5,
        0.97,
        _auc_text(auc),
        transform=axis.transAxes,
        ha="center",
        va="top",
        fontsize=7.5,
        color="#333333",
    )
    axis.set(xlim=(0, 1), ylim=(0, top * 1.12), xticks=[0, 0.5, 1])


def _auc_text(auc: pd.Series) -> str:
    if np.isnan(auc["value"]):
        return ""
    text = f"AUC {auc['value']:.2f}"
    return text if np.isnan(auc["low"]) else f"{text} [{auc['low']:.2f}, {auc['high']:.2f}]"


def _along(axis: Axes, rows: pd.DataFrame) -> None:
    ends = {}
    for verdict in ("true", "false"):
        part = rows[(rows["part"] == "along") & (rows["verdict"] == verdict)]
        if part.empty:
            continue
        axis.fill_between(
            part["x"], part["low"], part["high"], color=colour(verdict), alpha=0.2, linewidth=0
        )
        axis.plot(part["x"], part["value"], color=colour(verdict), linestyle=_dash(verdict))
        ends[verdict] = part["value"].iloc[-1]
    axis.axhline(0.5, color="#999999", linewidth=0.5, zorder=0)
    axis.set(
        xlim=(0, 1), ylim=(-0.16, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1]
    )  # room for a name below 0
    axis.set_ylabel("mean $p$", labelpad=1)
    for verdict, y in ends.items():
        above = y == max(ends.values())
        axis.annotate(
            verdict, (1, y), (-1, 5 if above else -5), textcoords="offset points", color=ink(verdict), fontsize=8,
            ha="right", va="bottom" if above else "top",
        )  # fmt: skip


def draw_calibration(rows: pd.DataFrame) -> Figure:
    """Share of false answers against p before, early in and after the answer; AUC and ECE along it."""
    groups = _groups(rows)
    if not groups:
        return _empty("no tracked answers")
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(0.4 + 1.9 * len(groups), len(groups), 2, width_ratios=(1, 1.6))
        for (title, part), axes in zip(groups, grid):
            _reliability(axes[0], part)
            _by_position(axes[1], part)
            axes[0].set_ylabel(f"{title}share of false answers")
        grid[-1][0].set_xlabel("$p$")
        grid[-1][1].set_xlabel("tokens of the answer")
    return figure


def _reliability(axis: Axes, rows: pd.DataFrame) -> None:
    """Three positions, from light to dark as the answer grows; a calibrated tracker lies on the diagonal."""
    axis.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.6, zorder=0)
    bins = rows[rows["part"] == "bin"]
    shown = {"question": ("question", "#9ECAE1", "o"), "1-5": (f"tokens 1{EN_DASH}5", "#4A98C9", "s"),
             "answer": ("answer's end", "#08306B", "^")}  # fmt: skip
    for position, (name, shade, marker) in shown.items():
        part = bins[bins["position"] == position].sort_values("x")
        axis.vlines(part["x"], part["low"], part["high"], color=shade, linewidth=0.5)
        axis.plot(
            part["x"],
            part["value"],
            color=shade,
            marker=marker,
            markersize=3,
            linewidth=1.0,
            label=name,
        )
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.legend(fontsize=7, frameon=False, loc="lower right", handlelength=1.2, borderaxespad=0.1)


def _by_position(axis: Axes, rows: pd.DataFrame) -> None:
    positions = rows.drop_duplicates("order").sort_values("order")
    place = {order: i for i, order in enumerate(positions["order"])}
    for name, shade, marker in (("auc", "#0072B2", "o"), ("ece", "#D55E00", "s")):
        part = rows[rows["part"] == name].sort_values("order")
        x = part["order"].map(place)
        axis.fill_between(x, part["low"], part["high"], color=shade, alpha=0.18, linewidth=0)
        axis.plot(
            x,
            part["value"],
            color=shade,
            marker=marker,
            linestyle="-" if name == "auc" else (0, (4, 1.5)),
        )
        known = part[part["value"].notna()]
        for last in known.tail(1).to_dict("records"):
            axis.annotate(
                name.upper(), (place[last["order"]], last["value"]), (5, 0), textcoords="offset points", fontsize=8,
                color=shade if name == "auc" else "#A84A00", va="center", annotation_clip=False,
            )  # fmt: skip
    axis.axhline(0.5, color="#999999", linewidth=0.5, zorder=0)
    axis.set(ylim=(0, 1.02), yticks=[0, 0.5, 1], xlim=(-0.3, len(place) - 0.7))
    axis.set_xticks(
        range(len(place)),
        [name.replace("-", EN_DASH) for name in positions["position"]],
        fontsize=7,
        rotation=30 if len(place) > 6 else 0,
    )


def draw_figure_4(rows: pd.DataFrame) -> Figure:
    """Accuracy of every head: layers by heads sorted within their layer, diverging about chance."""
    groups = _groups(rows)
    if not groups:
        return _empty("no heads")
    kinds = list(dict.fromkeys(rows["kind"]))
    height = 0.45 + len(groups) * (0.55 + min(0.14 * (1 + rows["layer"].max()), 2.6))
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(
            height, len(groups), len(kinds), WIDTH if len(kinds) > 1 else 3.6, sharex="col"
        )
        span = max(abs(rows["value"] - 0.5).max(), 0.05)
        norm = TwoSlopeNorm(0.5, 0.5 - span, 0.5 + span)
        for (title, part), axes in zip(groups, grid):
            for kind, axis in zip(kinds, axes):
                image = _heads(axis, part[part["kind"] == kind], norm)
            axes[0].set_ylabel(f"{title}layer")
        names = {"logistic": "logistic probe", "cosine": "prototypes"}
        for kind, axis in zip(kinds, grid[-1]):
            axis.set_xlabel(f"heads, best first ({names.get(kind, kind)})")
        bar = figure.colorbar(image, ax=grid, shrink=0.85, aspect=25 * len(groups), pad=0.02)
        bar.set_label("validation accuracy")
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    return figure


def _heads(axis: Axes, rows: pd.DataFrame, norm: TwoSlopeNorm) -> Any:
    table = rows.pivot_table(index="layer", columns="rank", values="value").to_numpy()
    image = axis.imshow(
        table, cmap="RdBu", norm=norm, aspect="auto", origin="lower", interpolation="nearest"
    )
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    axis.yaxis.set_major_locator(_whole(len(table)))
    axis.xaxis.set_major_locator(_whole(table.shape[1]))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x + 1:.0f}")
    return image


def _whole(n: int) -> FixedLocator:
    """Ticks at whole numbers from 0: all of a few, else every second, or every fourth, and so on."""
    step = 1
    while n / step > 8:
        step *= 2
    return FixedLocator(list(range(0, n, step)))


def draw_sensitivity(rows: pd.DataFrame) -> Figure:
    """Validation True*Info along each of k, alpha, beta, s, the others as tuned."""
    groups = _groups(rows)
    names = {
        "k": "anchors $k$",
        "alpha": r"strength $\alpha$",
        "beta": r"threshold $\beta$",
        "s": "step back $s$",
    }
    knobs = [knob for knob in names if len(rows) and rows[rows["knob"] == knob]["x"].nunique() > 1]
    if not knobs:
        return _empty("no grid")
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(0.4 + 1.45 * len(groups), len(groups), len(knobs), sharey="row")
        for (title, part), axes in zip(groups, grid):
            for knob, axis in zip(knobs, axes):
                _knob(axis, part[part["knob"] == knob], knob)
            metric = {"true_info": "True*Info", "mc1": "MC1"}.get(
                part["metric"].iloc[0], part["metric"].iloc[0]
            )
            axes[0].set_ylabel(f"{title}{metric} (%)")
            for axis in axes:
                axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            last = part[part["knob"] == knobs[-1]]
            ends = {
                m: of.sort_values("x").iloc[-1]["value"]
                for m, of in last.groupby("method", sort=False)
            }
            _end_labels(axes[-1], ends, height=1.05)
        for knob, axis in zip(knobs, grid[-1]):
            axis.set_xlabel(names[knob])
    return figure


def _knob(axis: Axes, rows: pd.DataFrame, knob: str) -> None:
    for method, part in rows.groupby("method", sort=False):
        part = part.sort_values("x")
        _interval_line(axis, part["x"], part, str(method))
    if knob in ("k", "alpha") and len(rows):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if len(rows):
        ticks = sorted(set(rows["x"]))
        if knob == "alpha":
            ticks = [
                2.0**i for i in range(-12, 13) if 0.9 * ticks[0] <= 2.0**i <= 1.1 * ticks[-1]
            ] or ticks
        axis.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 5)]))
    axis.margins(x=0.12)


def _interval_line(axis: Axes, x: pd.Series, part: pd.DataFrame, method: str) -> None:
    axis.plot(
        x, part["value"], color=colour(method), linestyle=_dash(method), marker=MARKERS.get(method, "x"), clip_on=False,
        markerfacecolor="white" if method in DASHES else colour(method),
    )  # fmt: skip
    known = part["low"].notna()
    if known.any():
        axis.vlines(
            x[known], part["low"][known], part["high"][known], color=colour(method), linewidth=0.6
        )


def draw_tradeoff(rows: pd.DataFrame) -> Figure:
    """True against Info along alpha on validation questions, and where the tuned methods end on test questions."""
    groups = _groups(rows)
    if not groups:
        return _empty("no answers")
    n, lines = len(groups), -(-len(groups) // 2)
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(
            2.5 * lines, lines, min(n, 2), WIDTH if n > 1 else 3.6, sharex=True, sharey=True
        )
        flat = list(grid.ravel())
        for (title, part), axis in zip(groups, flat):
            _plane(axis, part, _limits(rows))
            axis.text(0.02, 1.02, title.strip(), transform=axis.transAxes, fontsize=8.5)
        _key(flat[0], list(dict.fromkeys(rows[rows["part"] == "test"]["method"])))
        for axis in flat[len(groups) :]:
            axis.set_axis_off()
        for line in grid:
            line[0].set_ylabel("Info (%)")
        for axis in flat[: len(groups)]:
            axis.set_xlabel("True (%)")
    return figure


def _limits(rows: pd.DataFrame) -> list[tuple[float, float]]:
    """Limits of True and Info that hold every point and interval, the same for all panels."""
    spans = []
    for key in ("true", "info"):
        held = rows[[key, f"{key}_low", f"{key}_high"]]
        spans.append((max(np.nanmin(held) - 5, 0.0), min(np.nanmax(held) + 4, 101.5)))
    return spans


def _plane(axis: Axes, rows: pd.DataFrame, limits: list[tuple[float, float]]) -> None:
    axis.set(xlim=limits[0], ylim=limits[1])
    _products(axis)
    rows = rows[rows["true"].notna() & rows["info"].notna()]
    for method in dict.fromkeys(rows["method"]):
        line = rows[(rows["method"] == method) & (rows["part"] == "validation")].sort_values(
            "alpha"
        )
        axis.plot(
            line["true"], line["info"], color=colour(method), linestyle=_dash(method), marker=MARKERS.get(method, "x"),
            alpha=0.5, markersize=2.5, linewidth=1.0,
        )  # fmt: skip
        for test in rows[(rows["method"] == method) & (rows["part"] == "test")].to_dict("records"):
            _cross(axis, test, method)


def _cross(axis: Axes, at: dict[str, Any], method: str) -> None:
    """A tuned method's test result with its intervals in both directions."""
    for key, draw, other in (("true", axis.hlines, "info"), ("info", axis.vlines, "true")):
        if not np.isnan(at[f"{key}_low"]):
            draw(
                at[other], at[f"{key}_low"], at[f"{key}_high"], color=colour(method), linewidth=0.9
            )
    axis.plot(
        at["true"],
        at["info"],
        MARKERS.get(method, "X"),
        color=colour(method),
        markersize=6,
        markeredgecolor="white",
        zorder=5,
    )


def _products(axis: Axes) -> None:
    """Lines of equal True*Info, every ten points, named where they leave the plane below."""
    (left, right), (bottom, _) = axis.get_xlim(), axis.get_ylim()
    true = np.linspace(max(left, 1), right, 200)
    for product in range(10, 100, 10):
        axis.plot(
            true,
            100 * product / true,
            color="#DDDDDD",
            linewidth=0.6,
            zorder=0,
            scalex=False,
            scaley=False,
        )
        exit_at = 100 * product / bottom if bottom else np.inf
        if left + 2 < exit_at < right - 2:
            axis.annotate(str(product), (exit_at, bottom), (-1, 2), textcoords="offset points", fontsize=6.5,
                          color="#767676", ha="right")  # fmt: skip


def _key(axis: Axes, methods: Sequence[str]) -> None:
    """Markers and names in the lower left, which is empty; the points lie too close together to be named there."""
    for i, method in enumerate(reversed(methods)):
        y = 8 + 10.5 * i
        to_points = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axis.annotate(
            label(method), (0, 0), (16, y), color=ink(method), fontsize=8, va="center", **to_points
        )
        offset = ScaledTranslation(9 / 72, y / 72, axis.figure.dpi_scale_trans)
        axis.plot(0, 0, MARKERS.get(method, "X"), color=colour(method), markersize=5, markeredgecolor="white",
                  transform=axis.transAxes + offset, scalex=False, scaley=False)  # fmt: skip


def _end_labels(axis: Axes, ends: dict[str, float], height: float) -> None:
    """Names right of the lines' ends, moved apart so that none overlaps; `height` is the axis' in inches."""
    low, high = axis.get_ylim()
    gap = (high - low) * 9.5 / (72 * height)
    y = -np.inf
    for method, value in sorted(ends.items(), key=lambda item: item[1]):
        if np.isnan(value):
            continue
        y = max(value, y + gap)
        axis.annotate(label(method), (1.02, y), xycoords=("axes fraction", "data"), fontsize=8, color=ink(method),
                      va="center", annotation_clip=False)  # fmt: skip


def _groups(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each comparison's rows; where there are several, with its name and a line break."""
    if rows.empty:
        return []
    named = list(rows.groupby(["model", "dataset"], sort=False))
    if len(named) == 1:
        return [("", rows)]
    return [
        (f"{model}\n" if model == dataset else f"{model},\n{dataset}\n", part)
        for (model, dataset), part in named
    ]


def _panels(
    height: float, n_rows: int, n_columns: int, width: float = WIDTH, **keywords: Any
) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes [row, column]."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **keywords)


def _dash(name: str) -> Any:
    return (0, DASHES[name]) if name in DASHES else "-"


def _empty(text: str) -> Figure:
    """A figure whose study has nothing to show in it, and says so."""
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(WIDTH, 1.5))
        figure.text(0.5, 0.5, f"({text} in this study)", ha="center", va="center")
    return figure


METRICS = {"true_info": "True*Info (%)", "mc1": "MC1 (%)", "mc2": "MC2 (%)"}


def draw_data_efficiency(rows: pd.DataFrame) -> Figure:
    """Each metric against the number of training pairs, the published unsteered number as a dotted line."""
    groups = _groups(rows)
    if not groups:
        return _empty("no cells with a share of the training questions")
    metrics = [metric for metric in METRICS if (rows["metric"] == metric).any()]
    with mpl.rc_context(fname=STYLE):
        figure, grid = _panels(0.5 + 1.8 * len(groups), len(groups), len(metrics), sharex="row")
        for (title, part), axes in zip(groups, grid):
            for metric, axis in zip(metrics, axes):
                _against_pairs(axis, part[part["metric"] == metric])
                axis.set_ylabel(METRICS[metric], labelpad=1)
            axes[0].text(0, 1.03, title.strip(), transform=axes[0].transAxes, fontsize=8.5)
        for axis in grid[-1]:
            axis.set_xlabel("training pairs")
        grid[0][-1].legend(fontsize=6.5, frameon=False)
    return figure


def _against_pairs(axis: Axes, rows: pd.DataFrame) -> None:
    for method in rows["method"].unique():
        part = rows[rows["method"] == method].sort_values("pairs")
        look = {"color": colour(method), "marker": MARKERS.get(method, "."), "markersize": 3}
        axis.fill_between(
            part["pairs"], part["low"], part["high"], color=colour(method), alpha=0.12, linewidth=0
        )
        axis.plot(
            part["pairs"], part["value"], label=label(method), linestyle=_dash(method), **look
        )
    if rows["published"].notna().any():
        axis.axhline(
            rows["published"].iloc[0],
            color="#595959",
            linewidth=0.8,
            linestyle=":",
            label="Unsteered, published",
        )


DRAW: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "figure_1": draw_figure_1,
    "calibration": draw_calibration,
    "figure_4": draw_figure_4,
    "sensitivity": draw_sensitivity,
    "tradeoff": draw_tradeoff,
    "data_efficiency": draw_data_efficiency,
}
"""All figures, by the name of their file."""
