"""What somebody else wrote, made harmless where it is shown: an answer is data, never markup.

In: text, or a frame that holds some. Out: the same for LaTeX, Markdown, CSV, a terminal. HTML is
escaped by the report's template. Knows no table and no figure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MINUS, DASH, DAGGER, DELTA = (
    "\N{MINUS SIGN}",
    "\N{EN DASH}",
    "\N{DAGGER}",
    "\N{GREEK CAPITAL LETTER DELTA}",
)
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", DELTA: r"$\Delta$", MINUS: "$-$", DAGGER: r"$^\dagger$", DASH: "--",
    "\N{NO-BREAK SPACE}": "~",
    "\N{UPWARDS ARROW}": r"$\uparrow$", "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "True*Info": r"True$\times$Info",
}  # fmt: skip
# alternatives are tried in order, so the longest stand first; one pass over the text, as a
# second would escape the backslashes that the first has written
IN_LATEX = re.compile("|".join(re.escape(text) for text in sorted(LATEX, key=len, reverse=True)))
# brackets and `<` only where they would begin a link's address or a tag
IN_MARKDOWN = re.compile(r"([\\`*_|]|\](?=\()|<(?=[A-Za-z/!?]))")
CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
"""All that moves a cursor, changes colours or turns writing around, and what XML has no place for;
tabs and line breaks stay."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula."""


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is, signs of the tables as their commands."""
    return IN_LATEX.sub(lambda found: LATEX[found[0]], without_controls(text))


def escape_markdown(text: str) -> str:
    """Return text that stands in a Markdown table or paragraph as it is."""
    plain = without_controls(text).replace("\n", " ")
    return IN_MARKDOWN.sub(r"\\\1", plain)


def without_controls(text: str) -> str:
    """Return text without control characters, terminal escapes and marks of direction."""
    return CONTROLS.sub("", text)


def csv_text(frame: pd.DataFrame) -> str:
    """Return a frame as CSV in which no text can be taken for a formula; numbers stay."""

    def neutral(value: object) -> object:
        if not isinstance(value, str):
            return value
        # a carriage return would end the row, as the writer puts no quotes around it
        text = re.sub(r"\r\n?", "\n", value)
        return f"'{text}" if value.startswith(FORMULA) else text

    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    safe = frame.assign(**{name: frame[name].map(neutral) for name in texts})
    return safe.to_csv(index=False)
