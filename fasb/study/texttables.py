"""Tables of plain texts, as Markdown and LaTeX; pandas lays them out.

In: captions, headings and lines of texts. Out: GitHub tables, and tables for `booktabs`. Knows no
measure and no method.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fasb.study.escaping import escape_latex, escape_markdown


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table whose cells are texts already: one comparison of `tuning` or `judges`.

    n_text: how many columns, from the first on, hold no number. colours: of the lines' methods;
    empty where they are of none.
    """

    caption: str
    headings: Sequence[str]
    lines: list[list[str]]
    n_text: int
    colours: Sequence[str] = ()


def texts_as_markdown(tables: Sequence[TextTable]) -> str:
    """Return tables as GitHub tables, their captions above."""
    written = []
    for table in tables:
        body = [list(map(escape_markdown, line)) for line in table.lines]
        written.append(escape_markdown(table.caption))
        written.append(markdown_table(table.headings, body, table.n_text))
    return "\n\n".join(written) + "\n"


def texts_as_latex(tables: Sequence[TextTable]) -> str:
    """Return tables for `booktabs`."""
    written = []
    for table in tables:
        body = [list(map(escape_latex, line)) for line in table.lines]
        tabular = latex_tabular(table.headings, body, table.n_text)
        written.append(latex_table(table.caption, [tabular]))
    return "\n".join(written)


def markdown_table(headings: Sequence[str], body: Sequence[Sequence[str]], n_text: int = 1) -> str:
    """Return a GitHub table; all but the first `n_text` columns are aligned to the right."""
    frame = pd.DataFrame(body, columns=list(headings))
    sides = ["left"] * n_text + ["right"] * (len(headings) - n_text)
    # tabulate would take texts such as 1e5 for numbers and write them anew
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=sides))


def latex_table(caption: str, tabulars: Sequence[str]) -> str:
    """Return a floating table of several tabulars under one caption, which is plain text."""
    head = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[t]",
        f"\\caption{{{escape_latex(caption)}}}",
        "\\centering\\small\\setlength{\\tabcolsep}{3pt}",
    ]
    return "\n".join([*head, *tabulars, "\\end{table}", ""])


def latex_tabular(headings: Sequence[str], body: Sequence[Sequence[str]], n_text: int = 1) -> str:
    """Return a tabular of cells that are LaTeX already; headings are plain text."""
    frame = pd.DataFrame(body, columns=list(map(escape_latex, headings)))
    aligned = "l" * n_text + "r" * (len(headings) - n_text)
    return frame.style.hide(axis="index").to_latex(hrules=True, column_format=aligned)
