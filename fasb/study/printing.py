"""Tables in print: captions, and the same lines as Markdown, LaTeX and for the report.

In: the tidy rows of `tables.py`, as they are or read back from their CSV. Out: text. Knows no cell
and no statistic.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fasb.metrics.statistics import ENOUGH_WORLDS
from fasb.study.escaping import DAGGER, DASH, DELTA, MINUS, escape_latex, escape_markdown
from fasb.study.measures import (
    INFO,
    KL_POLICY,
    TABLES,
    TRUE,
    TRUE_INFO,
    Measure,
    headline,
    shown_in,
)
from fasb.study.panels import titled
from fasb.study.tables import AVERAGE, has_difference
from fasb.study.texttables import latex_table, latex_tabular, markdown_table

SIGNIFICANT = 0.05
"""Differences with a smaller corrected p are marked."""
NAMED = 12
"""Differences that a caption names; of more, those that are marked."""
SIGMA_OF_ALL = (
    "Sigma is taken from all questions, without their labels, as the released program does."
)
ONE_SCORE = "The judge gives one score, which stands for True*Info."
TEST_ASKS = {
    "t": "by a t test over the worlds: would it be there in further worlds of this kind?",
    "permutation": "by permuting groups of questions between the two: do they differ on questions "
    "like these here?",
}
"""What each test asks, in a caption."""


@dataclass(frozen=True, slots=True)
class PrintedColumn:
    """A column of a printed table: a measure's value, or its difference to the baseline."""

    measure: Measure
    heading: str
    difference: bool = False
    dataset: str = ""
    """Where datasets stand side by side."""


@dataclass(frozen=True, slots=True)
class Number:
    """A printed number with its interval, and the corrected p of a difference."""

    text: str
    interval: str = ""
    p: float | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


@dataclass(frozen=True, slots=True)
class Line:
    """A printed line: what was measured of a method, or what was published of it (never both)."""

    title: str
    numbers: list[Number]
    colour: str = ""
    published: bool = False


def split(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each printed table."""
    keys = list(TABLES[rows["table"].iloc[0]].together)
    # an empty `source` is NaN in rows of a CSV, which groupby would drop
    return [part for _, part in rows.groupby(keys, sort=False, dropna=False)]


def parts_of(rows: pd.DataFrame) -> dict[str, list[PrintedColumn]]:
    """Return the printed parts of one table that have any value, with the columns that do."""
    table, known = rows["table"].iloc[0], known_measures(rows)
    parts = {}
    for part in TABLES[table].parts:
        shown = [measure for measure in shown_in(part) if measure.name in known]
        if table == "tasks":
            # one part for each measure, its datasets side by side
            for measure in shown:
                parts[measure.name] = [
                    PrintedColumn(measure, f"{name}, {measure.heading}", dataset=name)
                    for name in rows["dataset"].unique()
                ]
        elif shown:
            parts[part] = [column for one in shown for column in _columns(table, part, one)]
    return parts


def _columns(table: str, part: str, measure: Measure) -> Iterator[PrintedColumn]:
    if part != "differences":
        yield PrintedColumn(measure, measure.heading)
    if has_difference(table, measure.name):
        yield PrintedColumn(measure, f"{DELTA} {measure.title}", difference=True)


def known_measures(rows: pd.DataFrame) -> set[str]:
    """Return the names of measures that have any value."""
    return set(rows[rows["value"].notna()]["metric"])


def lines(rows: pd.DataFrame, columns: Sequence[PrintedColumn]) -> list[Line]:
    """Return the lines of one part, published numbers on a line below what was measured."""
    several = rows["table"].iloc[0] == "models"
    made = []
    for _, found in rows.groupby(["model", "method", "baseline"], sort=False):
        first = found.iloc[0]
        title = f"{first['model']}, {first['label']}" if several else first["label"]
        if first["table"] == "differences":
            title = f"{title} {MINUS} {first['baseline_label']}"
        numbers = [number(found, column) for column in columns]
        made.append(Line(title, numbers, colour=first["colour"]))
        # other conditions: never on the line, or with the intervals, of what was measured
        published = [_published_number(found, column) for column in columns]
        if any(one.text != DASH for one in published):
            made.append(Line(f"{title}, published", published, published=True))
    return made


def number(rows: pd.DataFrame, column: PrintedColumn) -> Number:
    """Return one printed cell of a method's rows; a baseline's difference to itself is a dash."""
    found = _row(rows, column)
    keys = ("difference", "difference_low", "difference_high")
    value, low, high = found[list(keys if column.difference else ("value", "low", "high"))]
    if np.isnan(value) or (column.difference and found["method"] == found["baseline"]):
        return Number(DASH)
    form = f"{'+' if column.difference else ''}.{column.measure.digits}f"
    p = found["p_holm"] if column.difference and pd.notna(found["p_holm"]) else None
    mark = DAGGER if p is not None and p < SIGNIFICANT else ""
    interval = "" if np.isnan(low) else f"[{_plain(low, form)}, {_plain(high, form)}]"
    return Number(_plain(value, form) + mark, interval, p)


def _published_number(rows: pd.DataFrame, column: PrintedColumn) -> Number:
    value = np.nan if column.difference else _row(rows, column)["published"]
    return Number(DASH if np.isnan(value) else f"{value:.2f}".removesuffix("0"))


def _row(rows: pd.DataFrame, column: PrintedColumn) -> pd.Series:
    found = rows[rows["metric"] == column.measure.name]
    return (found[found["dataset"] == column.dataset] if column.dataset else found).iloc[0]


def _plain(value: float, form: str) -> str:
    """Return a number with a real minus sign and no negative zero."""
    digits = int(form[-2])
    # -0.0 + 0.0 is 0.0
    return format(round(value, digits) + 0.0, form).replace("-", MINUS)


def title_of(rows: pd.DataFrame) -> str:
    """Return what one printed table is of: model and dataset, and whose bundles if not its own."""
    first = rows.iloc[0]
    together = TABLES[first["table"]].together
    if len(together) == 1:
        return str(first[together[0]])
    title = titled(str(first["model"]), str(first["dataset"]))
    source = first["source"]
    return f"{title}, with bundles of {source}" if isinstance(source, str) and source else title


def message(rows: pd.DataFrame) -> str:
    """Return one sentence: who is ahead and by how much, or which differences hold."""
    if rows["table"].iloc[0] == "differences":
        return _held(rows)
    if rows["table"].iloc[0] == "side_effects":
        return _divergences(rows)
    measure = headline(known_measures(rows))
    if measure is None:
        return "no measure has a value."
    known = rows[(rows["metric"] == measure.name) & rows["value"].notna()]
    # over several comparisons a single best value says nothing
    if len(known[["model", "dataset"]].drop_duplicates()) > 1:
        return _ahead(known[known["dataset"] != AVERAGE], measure.title)
    # a single row has one type for all, object; `number` asks for floats
    best = known.loc[known["value"].idxmax()].to_frame().T.infer_objects()
    text = f"{best['label'].iloc[0]} has the highest {measure.title}, "
    text += str(number(best, PrintedColumn(measure, "")))
    gain = number(best, PrintedColumn(measure, "", difference=True))
    if gain.text == DASH:
        return f"{text}; no other method exceeds it."
    return f"{text}; {gain} against {best['baseline_label'].iloc[0]}."


def _held(rows: pd.DataFrame) -> str:
    """How many of the printed differences are marked, and those of the headline measure.

    Of many, only the marked ones are named: the table has the others.
    """
    tested = rows[rows["p_holm"].notna()]
    told = f"{int((tested['p_holm'] < SIGNIFICANT).sum())} of {len(tested)} differences are marked"
    measure = headline(set(tested["metric"]))
    if measure is None:
        return f"{told}."
    known = tested[tested["metric"] == measure.name]
    marked = known[known["p_holm"] < SIGNIFICANT]
    named = known if len(known) <= NAMED else marked
    # the rows of one measure make lines of one number
    made = lines(named, [PrintedColumn(measure, "", difference=True)]) if len(named) else []
    found = [f"{line.title} {line.numbers[0]}" for line in made]
    which = "" if len(known) <= NAMED else f", {len(marked)} of {len(known)}"
    return f"{told}; {measure.title}{which}: {', '.join(found) or 'none'}."


def _ahead(known: pd.DataFrame, title: str) -> str:
    """Of several comparisons: in how many each method is ahead."""
    best = known.loc[known.groupby(["model", "dataset"], sort=False)["value"].idxmax()]
    counts = [f"{label} in {n}" for label, n in best["label"].value_counts().items()]
    return f"highest {title} of {len(best)} comparisons: {', '.join(counts)}."


def _divergences(rows: pd.DataFrame) -> str:
    known = (rows["metric"] == KL_POLICY.name) & rows["value"].notna()
    by_policy = rows[known & (rows["method"] != rows["baseline"])]
    told = [f"{row['label']} {row['value']:.3f}" for _, row in by_policy.iterrows()]
    what = "Divergence from the unsteered model on plain text under each method's own policy"
    return f"{what}: {', '.join(told) or 'none'}."


def caption(rows: pd.DataFrame) -> str:
    """Return what a printed table says, then n, seeds, and what intervals and tests are about."""
    return f"{title_of(rows)}: {message(rows)} {conditions(rows)}"


def conditions(rows: pd.DataFrame) -> str:
    """Return how the numbers came about: the caption behind its message."""
    known = known_measures(rows)
    baselines = rows["baseline_label"].unique()
    parts = [
        f"{_questions(rows)}; {_of_each(rows, _sizes, '; ')}.",
        _of_each(rows, _intervals),
        f"{DELTA}: paired difference to {baselines[0]}." if len(baselines) == 1 else "",
        _tests(rows),
        _units(rows),
        SIGMA_OF_ALL if rows["sigma_of_all"].any() else "",
        _of_each(rows, _judge) if TRUE.name in known else "",
        ONE_SCORE if TRUE_INFO.name in known and len({TRUE.name, INFO.name} & known) == 1 else "",
        _published(rows),
    ]
    return " ".join(part for part in parts if part)


def _of_each(rows: pd.DataFrame, tell: Callable[[pd.DataFrame], str], between: str = " ") -> str:
    """Return what is told of each comparison of a table: once, where it is the same of all."""
    measured = rows[rows["dataset"] != AVERAGE]
    told = {
        titled(str(model), str(dataset)): tell(part)
        for (model, dataset), part in measured.groupby(["model", "dataset"], sort=False)
    }
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return between.join(f"{title}: {text}" for title, text in told.items() if text)


def _sizes(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    worlds = f"{first['worlds']} worlds, " if first["worlds"] > 1 else ""
    return f"{worlds}{first['seeds']} split seed{'s' if first['seeds'] > 1 else ''}"


def _judge(rows: pd.DataFrame) -> str:
    told = rows.iloc[0].get("judge")
    return told if isinstance(told, str) else ""


def _units(rows: pd.DataFrame) -> str:
    table = rows["table"].iloc[0]
    if table == "differences":
        return "In points."
    if table != "side_effects":
        return "Percent, but for Tokens: decoded per answer."
    return (
        "CE (cross-entropy) and KL (from the unsteered model) in nats per token, with the edit at "
        "all positions by alpha, and by the method's own policy, as in an answer: it fires once, "
        "goes back, and steers to the end; the others in percent."
    )


def _intervals(rows: pd.DataFrame) -> str:
    """Return what the brackets hold, and what they do not speak of."""
    if rows["low"].isna().all():
        return ""
    first = rows.iloc[0]
    if first["over"] == "worlds":
        return (
            f"In brackets: 95 % interval over the {first['worlds']} worlds (t, "
            f"{first['worlds'] - 1} degrees of freedom), none where nothing varied."
        )
    here = "these two worlds" if first["worlds"] == 2 else "this model and dataset"
    return (
        "In brackets: 95 % interval over questions (bootstrap of their groups), none where nothing "
        f"varied; {here} and what was fitted are held fixed: it does not speak of others, for "
        f"which fewer than {ENOUGH_WORLDS} worlds give no interval."
    )


def _questions(rows: pd.DataFrame) -> str:
    """Return how many questions there are, and of how many less a measure is."""
    if rows["table"].iloc[0] == "side_effects":
        return " and ".join(_texts(rows))
    measured = rows[rows["dataset"] != AVERAGE]
    found = {}
    for (model, dataset), part in measured.groupby(["model", "dataset"], sort=False):
        found[model, dataset] = f"{part['questions'].max()}", _fewer(part)
    if measured["dataset"].nunique() == 1 and len(set(found.values())) == 1:
        size, fewer = next(iter(found.values()))
        return f"{size} test questions{fewer}"
    # of several datasets of one model, or of several models that are asked one
    at = 0 if measured["dataset"].nunique() == 1 else 1
    counts = [f"{names[at]} {size}{fewer}" for names, (size, fewer) in found.items()]
    return f"Test questions: {', '.join(counts)}"


def _texts(rows: pd.DataFrame) -> Iterator[str]:
    """Yield of how many texts, and of how many unrelated questions, side effects are."""
    known = rows[rows["value"].notna()].set_index("metric")["n"]
    for part, what in (("texts", "texts"), ("unrelated", "unrelated questions")):
        sizes = [known[one.name].max() for one in shown_in(part) if one.name in known]
        if sizes:
            yield f"{max(sizes)} {what}"


def _fewer(rows: pd.DataFrame) -> str:
    """Return measures that some questions do not have, in brackets: MC needs false answers."""
    known = rows[rows["value"].notna() & (rows["n"] < rows["questions"])]
    measures: dict[int, list[str]] = {}
    for part in TABLES[rows["table"].iloc[0]].parts:
        for measure in shown_in(part):
            if (known["metric"] == measure.name).any():
                n = known.loc[known["metric"] == measure.name, "n"].max()
                measures.setdefault(n, []).append(measure.title)
    told = [f"{', '.join(dict.fromkeys(titles))}: {n}" for n, titles in measures.items()]
    return f" ({'; '.join(told)})" if told else ""


def _tests(rows: pd.DataFrame) -> str:
    """Return what a mark at a difference says, and how many claims it was corrected for."""
    tested = rows[rows["p"].notna()]
    if tested.empty:
        return ""
    asks = _of_each(tested, lambda part: TEST_ASKS[part["test"].iloc[0]])
    claims = tested["claims"].iloc[0]
    where = "this table" if claims == len(tested) else "these tables, one a comparison"
    family = f"all {claims} differences of {where}" if claims > 1 else "its one difference"
    return f"{DAGGER}: p < {SIGNIFICANT} after Holm's correction over {family}, {asks}"


def _published(rows: pd.DataFrame) -> str:
    """Where published numbers come from, and what is known of how they differ."""
    used = rows[rows["published"].notna()]
    if used.empty:
        return ""
    told = list(used["published_source"].unique())
    for note, part in used.groupby("published_note", sort=False):
        if note:  # an empty one is none in a CSV
            told.append(f"{', '.join(part['label'].unique())}: {note}")
    conditions = "; ".join(told)
    return (
        f"Lines marked “published” were not measured here and have other conditions: {conditions}."
    )


def markdown(rows: pd.DataFrame) -> str:
    """Return all tables as GitHub tables, their captions above."""
    written: list[str] = []
    for part in split(rows):
        written.append(escape_markdown(caption(part)))
        for columns in parts_of(part).values():
            written.append(_markdown_table(columns, lines(part, columns)))
    return "\n\n".join(written) + "\n"


def _markdown_table(columns: Sequence[PrintedColumn], shown: Sequence[Line]) -> str:
    body = []
    for line in shown:
        title = escape_markdown(line.title)
        body.append([f"_{title}_" if line.published else title, *map(str, line.numbers)])
    headings = [escape_markdown(column.heading) for column in columns]
    return markdown_table(["Method", *headings], body)


def latex(rows: pd.DataFrame) -> str:
    """Return all tables for `booktabs`; an interval stands below its number."""
    written = []
    for part in split(rows):
        tabulars = []
        for columns in parts_of(part).values():
            tabulars.append(_latex_body(columns, lines(part, columns)))
        written.append(latex_table(caption(part), tabulars))
    return "\n".join(written)


def _latex_body(columns: Sequence[PrintedColumn], shown: Sequence[Line]) -> str:
    body = []
    for line in shown:
        title = escape_latex(line.title)
        row = [f"\\textit{{{title}}}" if line.published else title]
        below = [""]
        for one in line.numbers:
            row.append(escape_latex(one.text))
            interval = escape_latex(one.interval)
            below.append(f"{{\\scriptsize {interval}}}" if interval else "")
        body.append(row)
        if any(below):
            body.append(below)
    return latex_tabular(["Method", *(column.heading for column in columns)], body)
