"""How an answer looks while it is written: tokens coloured by p, what was dropped and rewritten.

In: the events of `fasb.decoding.stream.stream`. Out: rich text, or plain text where there is no
terminal: `kept [-dropped-] {+rewritten+}`. Knows no model. Control characters are left out of all
that a model or a person wrote.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fasb.study.escaping import without_controls

LOW, MIDDLE, HIGH = (58, 143, 199), (140, 140, 140), (213, 94, 0)
"""Colours of p = 0, p = beta and p = 1, readable on black and on white, also for colour-blind
eyes."""

COLUMNS = 80
"""Of a terminal that has none."""

MARKS = {"kept": ("", ""), "dropped": ("[-", "-]"), "rewritten": ("{+", "+}")}


@dataclass(frozen=True, slots=True)
class Span:
    """What one token adds to the text."""

    text: str
    kind: Literal["kept", "dropped", "rewritten"]
    p: float | None


@dataclass(slots=True)
class Page:
    """An answer so far, with all that was taken back."""

    beta: float
    spans: list[Span] = field(default_factory=list)
    back: Any = None
    n_before: int = 0
    answer: str = ""

    def add(self, event: Any) -> None:
        """Take in the next event of the stream."""
        if event.kind == "token":
            text = without_controls(event.text)
            self.spans.append(Span(text, "rewritten" if event.steered else "kept", event.p))
        elif event.kind == "back":
            self.back, self.n_before = event, self.answer_tokens
            # the last spans are what is dropped: no answer goes back past an earlier step back (X1)
            first = len(self.spans) - event.dropped
            self.spans[first:] = [Span(span.text, "dropped", span.p) for span in self.spans[first:]]
        else:
            self.answer = event.text
            self._cut(without_controls(event.text))

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer as it stands."""
        return sum(span.kind != "dropped" for span in self.spans)

    def plain(self) -> str:
        """Return the answer in one line, with marks around what was dropped and rewritten."""
        parts: list[str] = []
        for kind, text in _runs(self.spans):
            before, after = MARKS[kind]
            parts.append(f"{before}{text}{after}")
        return " ".join("".join(parts).replace("-]{+", "-] {+").split())

    def rich(self) -> Text:
        """Return the answer, each token in the colour of its p; what was rewritten stands apart."""
        page, before = Text(), None
        for span in self.spans:
            # colour alone would not part the last struck word from the first new one
            joined = page.plain[-1:].strip() and span.text[:1].strip()
            if joined and (before, span.kind) == ("dropped", "rewritten"):
                page.append(" ")
            page.append(span.text, style_of(span, self.beta))
            before = span.kind
        return page

    def summary(self) -> str:
        """One line: whether it fired, when, and what that changed."""
        if self.back is None:
            seen = [span.p for span in self.spans if span.p is not None]
            told = _counted(len(self.spans))
            if not seen:  # a policy that looks at no p
                return f"not steered; {told}"
            spread = f"p from {min(seen):.2f} to {max(seen):.2f}"
            return f"not steered: no check found p > {self.beta:.2f} in {told}; {spread}"
        told = f"{_counted(self.answer_tokens)}, strength {self.back.strength:.3g}"
        if self.back.p is None or not self.n_before:
            reason = ""
            if self.back.p is not None:
                reason = f": p {self.back.p:.2f} > {self.beta:.2f} after the question"
            return f"steered from the first token{reason}; {told}"
        kept = self.n_before - self.back.dropped
        return (
            f"steered: p {self.back.p:.2f} > {self.beta:.2f} after {_counted(self.n_before)}; "
            f"{self.back.dropped} dropped, {kept} kept; {told}"
        )

    def _cut(self, answer: str) -> None:
        """Forget tokens behind the answer: a completed stop string, or another question."""
        text = "".join(span.text for span in self.spans if span.kind != "dropped")
        # looked for behind a thought, in which the answer's words may stand as well
        left = len(answer) + max(text.find(answer, max(text.rfind("</think>"), 0)), 0)
        spans = []
        for span in self.spans:
            if span.kind != "dropped":
                if left <= 0 and span.text:
                    continue
                left -= len(span.text)
            spans.append(span)
        self.spans = spans


def style_of(span: Span, beta: float) -> str:
    """Colour by p, from low over grey at beta to high; struck through or underlined by kind."""
    mark = {"kept": "", "dropped": "strike ", "rewritten": "bold underline "}[span.kind]
    if span.p is None:
        return mark.strip() or "none"
    # the root spreads what lies near beta, where it matters
    share, end = 0.0, LOW
    if span.p > beta:
        share, end = ((span.p - beta) / (1 - beta)) ** 0.5, HIGH
    elif beta:
        share = ((beta - span.p) / beta) ** 0.5
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(MIDDLE, end, strict=True))
    return f"{mark}#{red:02x}{green:02x}{blue:02x}"


def opened_console(**keywords: Any) -> Console:
    """Return rich's console of standard output, as wide as the terminal says, or 80 columns.

    Of none, as COLUMNS=0 says, rich would leave out all that is printed.
    """
    console = Console(**keywords)
    if not console.width:
        console.width = COLUMNS
    return console


def show(console: Console, question: str, events: Iterable[Any], beta: float) -> Page:
    """Write one answer to the console as it grows; without a terminal only when it is complete.

    Control characters of question and answer are left out: a text moves no cursor.
    """
    page, question = Page(beta), without_controls(question)
    if not console.is_terminal:
        for event in events:
            page.add(event)
        console.print(
            question,
            page.plain(),
            page.summary(),
            sep="\n",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return page
    # rich would cut an answer that is taller than the terminal
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for event in events:
            page.add(event)
            live.update(_block(question, page, event.kind == "done"), refresh=True)
    return page


def picture(pages: Sequence[tuple[str, Page]], beta: float) -> str:
    """Return the answers as a terminal shows them, as SVG."""
    console = Console(
        record=True, width=96, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    console.print(legend(beta))
    for question, page in pages:
        console.print()
        console.print(_block(without_controls(question), page, True))
    return re.sub(
        r"@font-face {.*?}", "", console.export_svg(title="fasb steer"), flags=re.DOTALL
    )  # no network


def _block(question: str, page: Page, complete: bool) -> Group:
    return Group(
        Text(question, "bold"), page.rich(), Text(page.summary() if complete else "", "dim")
    )


def legend(beta: float) -> Text:
    """Return what colours and marks mean, in one line."""
    line = Text()
    line.append("p 0 ", "dim")
    for i in range(11):
        line.append("\u2588", style_of(Span("", "kept", i / 10), beta))
    line.append(f" 1, grey at beta {beta:.2f};  ", "dim")
    line.append("dropped", style_of(Span("", "dropped", None), beta))
    line.append("  ")
    line.append("rewritten", style_of(Span("", "rewritten", None), beta))
    return line


def _counted(n: int) -> str:
    return f"{n} token" if n == 1 else f"{n} tokens"


def _runs(spans: Iterable[Span]) -> list[tuple[str, str]]:
    """Neighbouring spans of one kind joined, spaces kept outside of the marks."""
    runs: list[tuple[str, str]] = []
    for span in spans:
        if runs and runs[-1][0] == span.kind:
            runs[-1] = (span.kind, runs[-1][1] + span.text)
        else:
            runs.append((span.kind, span.text))
    split: list[tuple[str, str]] = []
    for kind, text in runs:
        inner = text.strip()
        if not inner:
            split.append(("kept", text))
            continue
        lead, _, tail = text.partition(inner)
        split += [("kept", lead), (kind, inner), ("kept", tail)]
    return split
