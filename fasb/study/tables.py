"""Tables: every number with its interval and its paired difference, as CSV, Markdown and LaTeX.

In: `metrics.parquet` or `side_effects.parquet` of all cells. Out: tidy rows, one per comparison,
method and metric, and what they look like in print. `main` and `side_effects` compare methods with
the unsteered model, `ablation` compares variants of FASB with the full method. The tidy rows are
the CSV; Markdown and LaTeX are made of them alone.

    model, dataset                worlds of one kind are pooled under its name
    method, metric                shares are in percent; tokens, decoded, passes are counts per answer
    value, low, high              95 % interval (bootstrap over worlds or folds, then groups of questions)
    difference, difference_low, difference_high     to `baseline`, paired over questions
    p, test, p_holm               of the difference, by `mcnemar` or `permutation`; corrected over the methods
    published, published_source, published_note     the paper's number, in percent, where one corresponds
    table, source (the cell whose bundles were used), questions, worlds, seeds, preset, sigma_of_all
    judge                         a sentence on who judged and how often that judge is wrong
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fasb.data.published import beside, sources
from fasb.errors import ConfigError, did_you_mean
from fasb.metrics.statistics import Tested, compare, differences, holm, intervals, resample
from fasb.study.cells import TABLES, is_ablation
from fasb.study.panels import EFFECTS, METRICS, Comparison, comparisons, label

MINUS, DASH, DAGGER = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{DAGGER}"
LEVEL = 0.05
"""Differences with a smaller corrected p are marked."""
COUNTS = ("tokens", "decoded", "passes", *EFFECTS[:4])
"""Metrics that are no shares."""
NATS = EFFECTS[:4]
"""Metrics that are printed with three digits."""
TESTED = ("true", "info", "true_info", "mc1", "mc2", "mc2_tuned", "ce", "ce_gated", "unrelated")
"""Metrics whose difference is tested."""
UNITS = {
    "answers": "Percent, but for Tokens: decoded per answer.",
    "effects": "CE (cross-entropy) and KL (from the unsteered model) in nats per token, with the edit at all positions "
    "by alpha, and by the method's own gate, which decides at each position; the others in percent.",
}
EMPTY = ("low", "high", "difference", "difference_low", "difference_high", "p", "p_holm")
"""What an average over datasets has none of."""
SIGMA_OF_ALL = (
    "Sigma is taken from all questions, without their labels, as the released program does."
)
TOGETHER = {"models": ["dataset"], "tasks": ["model"]}
"""What a printed table has in common, where it holds several comparisons; elsewhere it holds
one."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a printed table: a metric's value, or its difference to the baseline."""

    metric: str
    title: str
    difference: bool = False
    dataset: str = ""
    """Where datasets stand side by side."""


@dataclass(frozen=True, slots=True)
class Line:
    """A printed line: what was measured of a method, or what was published of it (never both)."""

    method: str
    title: str
    cells: list[tuple[str, str, float | None]]
    """Number, interval, and p of a difference."""
    published: bool = False


PRINTED = {
    "answers": (
        Column("true", "True"), Column("info", "Info"), Column("true_info", "True*Info"),
        Column("true_info", "Δ True*Info", difference=True), Column("harmed", "Harmed"), Column("helped", "Helped"),
        Column("steered", "Steered"), Column("decoded", "Tokens"),
    ),
    "choices": (
        Column("mc1", "MC1"), Column("mc1", "Δ MC1", difference=True), Column("mc2", "MC2"),
        Column("mc2", "Δ MC2", difference=True), Column("steered_mc", "Steered"),
        Column("exact", "Exact"),
        Column("mc2_tuned", "MC2 (tuned for it)"), Column("mc2_tuned", "Δ MC2 (tuned for it)", difference=True),
    ),
    "texts": (
        Column("ce", "CE everywhere"), Column("ce", "Δ CE everywhere", difference=True), Column("kl", "KL everywhere"),
        Column("ce_gated", "CE by gate"), Column("ce_gated", "Δ CE by gate", difference=True),
        Column("kl_gated", "KL by gate"), Column("steered_gated", "Steered by gate"),
    ),
    "unrelated": (Column("unrelated", "Accuracy"), Column("unrelated", "Δ Accuracy", difference=True)),
}  # fmt: skip
"""Two parts side by side would not fit a page; a part without any value is left out."""


def chosen_methods(name: str, methods: Sequence[str]) -> tuple[list[str], str]:
    """The methods of table `name` in order, and the one they are compared with.

    Raises:
        ConfigError: there is no such table.
    """
    if name not in TABLES:
        raise ConfigError(f"table: no table {name!r}; {did_you_mean(name, TABLES)}")
    plain = [method for method in methods if not is_ablation(method)] or list(methods)
    if name != "ablation":
        return plain, "unsteered" if "unsteered" in plain else plain[0]
    full = next((method for method in plain if method.startswith("fasb")), plain[0])
    return [full, *(method for method in methods if is_ablation(method) and method != full)], full


def table_rows(
    frame: pd.DataFrame, name: str, methods: Sequence[str], preset: str, n_draws: int = 2000
) -> pd.DataFrame:
    """The tidy rows of table `name`; `frame` holds all cells (`panels.read_cells`)."""
    chosen, baseline = chosen_methods(name, methods)
    rows = [
        row
        for comparison in comparisons(frame, chosen, EFFECTS if name == "side_effects" else METRICS)
        for row in _comparison_rows(comparison, baseline, n_draws)
    ]  # fmt: skip
    found = pd.DataFrame(rows)
    corrected = found.groupby(["model", "dataset", "source", "metric"])["p"].transform(
        lambda p: holm(p.to_numpy(np.float64))
    )
    found = found.assign(p_holm=corrected, preset=preset, table=name, sigma_of_all=False)
    return _with_published(_with_averages(found) if name == "tasks" else found)


def _with_averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies averaged over the datasets, as a dataset of its own; empty where a method lacks one."""
    shown = rows[rows["metric"].isin(["mc1", "exact"])]
    made = []
    for _, part in shown.groupby(["model", "method", "metric"], sort=False):
        if part["dataset"].nunique() == shown["dataset"].nunique():
            row = part.iloc[0].to_dict() | {
                "dataset": "average",
                "value": part["value"].mean(skipna=False),
                "test": "",
            }
            made.append(row | dict.fromkeys(EMPTY, np.nan))
    return pd.concat([rows, pd.DataFrame(made, columns=rows.columns)], ignore_index=True)


def _with_published(rows: pd.DataFrame) -> pd.DataFrame:
    keys = ["table", "model", "dataset", "method", "metric"]
    found = [beside(*row) for row in rows[keys].itertuples(index=False)]
    told = sources()
    return rows.assign(
        published=[np.nan if one is None else one.value for one in found],
        published_source=["" if one is None else told[one.source] for one in found],
        published_note=["" if one is None else one.note for one in found],
    )


def _comparison_rows(
    comparison: Comparison, baseline: str, n_draws: int
) -> list[dict[str, object]]:
    panel = comparison.panel
    baseline = baseline if baseline in panel.methods else panel.methods[0]
    draws = resample(panel, n_draws)
    own, paired = intervals(panel, draws), differences(panel, draws, baseline)
    about = {
        "baseline": baseline, "questions": comparison.n_questions,
        "worlds": comparison.n_cells, "seeds": comparison.n_seeds,
    }  # fmt: skip
    rows = []
    for i, method in enumerate(panel.methods):
        for j, metric in enumerate(panel.columns):
            scale = 1.0 if metric in COUNTS else 100.0
            tested = metric in TESTED and method != baseline
            numbers = {
                "value": own.value, "low": own.low, "high": own.high,
                "difference": paired.value, "difference_low": paired.low, "difference_high": paired.high,
            }  # fmt: skip
            rows.append(
                {
                    "model": comparison.model,
                    "dataset": comparison.dataset,
                    "source": comparison.source,
                }
                | {"method": method, "metric": metric}
                | {key: float(array[i, j]) * scale for key, array in numbers.items()}
                | (
                    compare(panel, method, baseline, metric) if tested else Tested(np.nan, "")
                )._asdict()
                | about
            )
    return rows


def caption(rows: pd.DataFrame) -> str:
    """What one comparison's rows say, then n, seeds and how the intervals were made."""
    first = rows.iloc[0]
    effects = "ce" in known_metrics(rows)
    over = (
        f"{first['worlds']} worlds, then "
        if first["worlds"] > 1
        else ""
        if effects
        else "folds, then "
    )
    worlds = f"{first['worlds']} worlds, " if first["worlds"] > 1 else ""
    seeds = "split seeds" if first["seeds"] > 1 else "split seed"
    parts = [
        f"{title_of(rows)}: {message(rows)}",
        f"{first['questions']} texts and questions," if effects else f"{_questions(rows)},",
        f"{worlds}{first['seeds']} {seeds}.",
        f"In brackets: 95 % interval, bootstrap over {over}{'texts' if effects else 'groups of questions'}.",
        f"Δ: paired difference to {label(first['baseline'])}.",
        _tests(rows),
        UNITS["effects" if effects else "answers"],
        SIGMA_OF_ALL if rows["sigma_of_all"].any() else "",
        judge
        if "true" in known_metrics(rows) and isinstance(judge := first.get("judge"), str)
        else "",
        _published(rows),
    ]
    return " ".join(part for part in parts if part)


def _questions(rows: pd.DataFrame) -> str:
    sizes = (
        rows[rows["dataset"] != "average"]
        .drop_duplicates("dataset")
        .set_index("dataset")["questions"]
    )
    if len(sizes) == 1:
        return f"{sizes.iloc[0]} test questions"
    return "Test questions: " + ", ".join(f"{dataset} {n}" for dataset, n in sizes.items())


def _published(rows: pd.DataFrame) -> str:
    """Where published numbers come from, and what is known of how they differ."""
    used = rows[rows["published"].notna()]
    if used.empty:
        return ""
    notes = [
        f"{', '.join(label(method) for method in part['method'].unique())}: {note}"
        for note, part in used.groupby("published_note", sort=False)
        if note  # an empty one is none in a CSV
    ]
    told = "; ".join([*used["published_source"].unique(), *notes])
    return f"Lines marked “published” were not measured here and have other conditions: {told}."


def _tests(rows: pd.DataFrame) -> str:
    """Which test the mark at a difference stands for, with the printed columns it was used for."""
    titles = {
        column.metric: column.title
        for part in PRINTED.values()
        for column in part
        if not column.difference
    }
    used = (
        rows[rows["p"].notna() & rows["metric"].isin(titles)]
        .drop_duplicates("metric")
        .groupby("test")["metric"]
    )
    metrics = {
        test: ", ".join(titles[metric] for metric in titles if metric in set(of))
        for test, of in used
    }
    names = {"mcnemar": "exact McNemar test", "permutation": "permutation of groups of questions"}
    told = "; ".join(f"{names[test]} ({metrics[test]})" for test in names if test in metrics)
    return (
        f"{DAGGER}: p < {LEVEL} after Holm's correction over the methods, {told}." if told else ""
    )


def title_of(rows: pd.DataFrame) -> str:
    """Model and dataset of one comparison's rows; one name where both have the same, as in a world."""
    first = rows.iloc[0]
    if first["table"] in TOGETHER:
        return ", ".join(str(first[key]) for key in TOGETHER[first["table"]])
    model, dataset, source = first[["model", "dataset", "source"]]
    title = str(model if model == dataset else f"{model}, {dataset}")
    return f"{title}, with bundles of {source}" if isinstance(source, str) and source else title


def message(rows: pd.DataFrame) -> str:
    """One sentence: which method is ahead, and by how much over the baseline."""
    if "ce" in known_metrics(rows):
        return _divergences(rows)
    for metric, title in (("true_info", "True*Info"), ("mc1", "MC1")):
        known = rows[(rows["metric"] == metric) & rows["value"].notna()]
        if known.empty:
            continue
        if len(known[["model", "dataset"]].drop_duplicates()) > 1:
            return _ahead(known[known["dataset"] != "average"], title)
        best = known.loc[known["value"].idxmax()]
        text = f"{label(best['method'])} has the highest {title}, {_number(best['value'], best['low'], best['high'])}"
        if best["method"] == best["baseline"]:
            return f"{text}; no other method exceeds it."
        gain = _number(
            best["difference"], best["difference_low"], best["difference_high"], signed=True
        )
        return f"{text}; {gain} against {label(best['baseline'])}."
    return "no metric has a value."


def _ahead(known: pd.DataFrame, title: str) -> str:
    """Of several comparisons: in how many each method is ahead."""
    best = known.loc[known.groupby(["model", "dataset"], sort=False)["value"].idxmax()]
    counts = ", ".join(
        f"{label(method)} in {n}" for method, n in best["method"].value_counts().items()
    )
    return f"highest {title} of {len(best)} comparisons: {counts}."


def _divergences(rows: pd.DataFrame) -> str:
    of_gate = rows[
        (rows["metric"] == "kl_gated") & rows["value"].notna() & (rows["method"] != "unsteered")
    ]
    told = ", ".join(f"{label(row.method)} {row.value:.3f}" for row in of_gate.itertuples())
    return f"Divergence from the unsteered model on plain text under each method's own gate: {told or 'none'}."


def parts_of(rows: pd.DataFrame) -> dict[str, list[Column]]:
    """The printed parts of one comparison that have any value, with the columns that do."""
    known = known_metrics(rows)
    if rows.iloc[0]["table"] == "tasks":
        titles = {"mc1": "", "exact": " (exact)"}
        return {
            metric: [
                Column(metric, name + title, dataset=name) for name in rows["dataset"].unique()
            ]
            for metric, title in titles.items()
            if metric in known
        }
    parts = {
        name: [column for column in columns if column.metric in known]
        for name, columns in PRINTED.items()
    }
    needs = {"answers": "decoded", "choices": "mc1", "texts": "ce", "unrelated": "unrelated"}
    return {name: columns for name, columns in parts.items() if needs[name] in known}


def known_metrics(rows: pd.DataFrame) -> set[str]:
    """The metrics that have any value."""
    return set(rows[rows["value"].notna()]["metric"])


def cell(rows: pd.DataFrame, method: str, column: Column) -> tuple[str, str]:
    """Number and interval of one printed cell; the baseline's difference to itself is a dash."""
    found = _row(rows, method, column)
    if column.difference and method == found["baseline"]:
        return DASH, ""
    keys = (
        ("difference", "difference_low", "difference_high")
        if column.difference
        else ("value", "low", "high")
    )
    value, low, high = (found[key] for key in keys)
    if np.isnan(value):
        return DASH, ""
    digits = 3 if column.metric in NATS else 1
    number, _, interval = _number(
        value, low, high, signed=column.difference, digits=digits
    ).partition(" ")
    marked = column.difference and found["p_holm"] < LEVEL
    return number + (DAGGER if marked else ""), interval


def _row(rows: pd.DataFrame, method: str, column: Column) -> pd.Series:
    found = rows[(rows["method"] == method) & (rows["metric"] == column.metric)]
    return (found[found["dataset"] == column.dataset] if column.dataset else found).iloc[0]


def lines(rows: pd.DataFrame, columns: Sequence[Column]) -> list[Line]:
    """The lines of one part, each method's published numbers on a line of their own below what was measured."""
    models = rows["model"].unique() if rows.iloc[0]["table"] == "models" else [""]
    return [line for model in models for line in _lines(rows, columns, model)]


def _lines(rows: pd.DataFrame, columns: Sequence[Column], model: str) -> list[Line]:
    rows = rows[rows["model"] == model] if model else rows
    made = []
    for method in rows["method"].unique():
        title = f"{model}, {label(method)}" if model else label(method)
        found = [_row(rows, method, column) for column in columns]
        p = [
            float(row["p_holm"]) if c.difference and pd.notna(row["p_holm"]) else None
            for c, row in zip(columns, found)
        ]
        made.append(
            Line(method, title, [(*cell(rows, method, c), one) for c, one in zip(columns, p)])
        )
        values = [np.nan if c.difference else row["published"] for c, row in zip(columns, found)]
        if not np.isnan(values).all():
            printed = [
                (DASH if np.isnan(v) else f"{v:.2f}".removesuffix("0"), "", None) for v in values
            ]
            made.append(Line(method, f"{title}, published", printed, published=True))
    return made


def split(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each printed table."""
    keys = TOGETHER.get(rows.iloc[0]["table"], ["model", "dataset", "source"])
    return [part for _, part in rows.groupby(keys, sort=False, dropna=False)]


def markdown(rows: pd.DataFrame) -> str:
    """All comparisons as GitHub tables, their captions above."""
    written: list[str] = []
    for part in split(rows):
        written += [caption(part).replace("*", "\\*"), ""]
        for columns in parts_of(part).values():
            written += [markdown_row(["Method", *(column.title for column in columns)])]
            written += [markdown_row(["---", *("---:" for _ in columns)])]
            for line in lines(part, columns):
                cells = [f"{number} {interval}".strip() for number, interval, _ in line.cells]
                written += [
                    markdown_row([f"_{line.title}_" if line.published else line.title, *cells])
                ]
            written += [""]
    return "\n".join(written)


def latex(rows: pd.DataFrame) -> str:
    """All comparisons as tables for `booktabs` and `xcolor`; the interval stands below its number."""
    return "\n".join(_latex_table(part) for part in split(rows))


def _latex_table(rows: pd.DataFrame) -> str:
    written = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[t]",
        f"\\caption{{{escape(caption(rows))}}}",
    ]
    written += ["\\centering\\small\\setlength{\\tabcolsep}{3pt}"]
    for columns in parts_of(rows).values():
        titles = " & ".join(
            escape(title) for title in ("Method", *(column.title for column in columns))
        )
        written += [
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            "\\toprule",
            f"{titles} \\\\",
            "\\midrule",
        ]
        for line in lines(rows, columns):
            title = escape(line.title)
            numbers = " & ".join(escape(number) for number, _, _ in line.cells)
            if line.published:
                written += [f"\\textit{{{title}}} & {numbers} \\\\"]
                continue
            spans = " & ".join(
                f"{{\\scriptsize {interval}}}" if interval else "" for _, interval, _ in line.cells
            )
            written += [f"{title} & {numbers} \\\\[-2pt]", f" & {spans} \\\\"]
        written += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join([*written, "\\end{table}", ""])


def _number(value: float, low: float, high: float, *, signed: bool = False, digits: int = 1) -> str:
    form = f"{'+' if signed else ''}.{digits}f"
    value, low, high = (
        round(number, digits) + 0.0 for number in (value, low, high)
    )  # no negative zero
    text = format(value, form).replace("-", MINUS)
    if np.isnan(low):
        return text
    return f"{text} [{format(low, form)}, {format(high, form)}]".replace("-", MINUS)


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a GitHub table."""
    return "| " + " | ".join(cells).replace("*", "\\*") + " |"


def escape(text: str) -> str:
    """Text for LaTeX."""
    for plain, written in (("%", "\\%"), ("_", "\\_"), ("&", "\\&"), ("#", "\\#")):
        text = text.replace(plain, written)
    for plain, written in (
        ("Δ", "$\\Delta$"),
        (MINUS, "$-$"),
        (DAGGER, "$^\\dagger$"),
        (DASH, "--"),
        ("True*Info", "True$\\times$Info"),
    ):
        text = text.replace(plain, written)
    return text
