"""What a steered answer looks like, with and without a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fasb.cli.terminal import Page, Span, legend, opened_console, picture, show, style_of
from fasb.decoding.stream import Event

STEERED = [
    Event("token", " it", 0.2),
    Event("token", " is", 0.3),
    Event("token", " oak", 0.8),
    Event("back", " is oak", 0.8, dropped=2, strength=8.0),
    Event("token", " was", steered=True, strength=8.0),
    Event("token", " slate", steered=True, strength=8.0),
    Event("token", "\n\n", steered=True, strength=8.0),
    Event("done", "it was slate", steered=True),
]
UNSTEERED = [Event("token", " it", 0.2), Event("token", " is", 0.4), Event("done", "it is")]


def shown(events, terminal=False, beta=0.5):
    """What a console gets."""
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system="truecolor"
    )
    show(console, "What is it?", events, beta)
    return console.file.getvalue()


def test_without_a_terminal_dropped_and_rewritten_tokens_are_marked():
    question, answer, summary = shown(STEERED).splitlines()
    assert question == "What is it?"
    assert answer == "it [-is oak-] {+was slate+}"
    assert (
        summary == "steered: p 0.80 > 0.50 after 3 tokens; 2 dropped, 1 kept; 3 tokens, strength 8"
    )


def test_tokens_taken_back_before_do_not_count_again():
    event = STEERED[[one.kind for one in STEERED].index("back")]
    page = Page(0.5)
    for n_tokens, dropped in ((12, 10), (10, 10)):
        for _ in range(n_tokens):
            page.add(Event("token", " x", 0.9))
        page.add(replace(event, dropped=dropped))
    assert "after 12 tokens; 10 dropped, 2 kept" in page.summary()


def test_a_policy_that_looks_at_no_p_finds_nothing_about_it():
    events = [Event("token", " it", None), Event("done", "it")]
    assert shown(events).splitlines()[-1] == "not steered; 1 token"


def test_an_answer_that_never_fires_is_left_alone():
    _, answer, summary = shown(UNSTEERED).splitlines()
    assert answer == "it is"
    assert summary == "not steered: no check found p > 0.50 in 2 tokens; p from 0.20 to 0.40"


@pytest.mark.parametrize(
    ("back", "words"),
    [
        pytest.param(
            Event("back", "", 0.7, strength=3.5),
            "from the first token: p 0.70 > 0.50",
            id="question gate",
        ),
        pytest.param(
            Event("back", "", None, strength=5.0),
            "from the first token; 1 token, strength 5",
            id="always",
        ),
    ],
)
def test_steering_before_the_first_token_says_so(back, words):
    events = [back, Event("token", " yes", steered=True), Event("done", "yes", steered=True)]
    assert words in shown(events).splitlines()[-1]


def test_a_terminal_strikes_through_what_was_dropped_and_underlines_what_was_written_instead():
    page = Page(0.5)
    for event in STEERED:
        page.add(event)
    styles = {
        span.text.strip(): style
        for span, style in zip(page.spans, map(lambda s: style_of(s, 0.5), page.spans))
    }
    assert "strike" in styles["oak"]
    assert "underline" in styles["slate"]
    assert styles["it"].startswith("#")
    assert "\x1b[9" in shown(STEERED, terminal=True)
    assert page.rich().plain == " it is oak was slate"


def test_colour_goes_from_low_over_grey_at_beta_to_high():
    colour = [style_of(Span("x", "kept", p), 0.4) for p in (0.0, 0.4, 1.0)]
    assert colour == ["#3a8fc7", "#8c8c8c", "#d55e00"]
    assert style_of(Span("x", "kept", 0.0), 0.0) == "#8c8c8c"
    assert style_of(Span("x", "kept", 1.0), 1.0) == "#8c8c8c"


def test_what_was_rewritten_stands_apart_from_what_was_dropped():
    events = [
        Event("token", "oak", 0.9),
        Event("back", "oak", 0.9, 1, 2.0),
        Event("token", "slate", steered=True),
    ]
    assert shown([*events, Event("done", "slate")]).splitlines()[1] == "[-oak-] {+slate+}"
    page = Page(0.5)
    for event in events:
        page.add(event)
    assert page.rich().plain == "oak slate"


def test_a_thought_is_shown_before_the_answer_that_it_may_hold():
    texts = ("<think>", "oak?", "</think>", "oak", ".", " Q:")
    events = [Event("token", text, 0.2) for text in texts]
    assert shown([*events, Event("done", "oak.")]).splitlines()[1] == "<think>oak?</think>oak."


def test_a_picture_shows_question_answer_and_summary_and_needs_no_network():
    page = Page(0.5)
    for event in STEERED:
        page.add(event)
    svg = picture([("What is it?", page)], 0.5)
    assert svg.startswith("<svg")
    assert "url(http" not in svg.replace(" ", "")
    assert "slate" in svg
    assert "line-through" in svg


def test_text_in_square_brackets_is_not_taken_for_markup():
    assert shown(
        [Event("token", "[bold]x[/bold]", 0.1), Event("done", "[bold]x[/bold]")]
    ).splitlines()[1] == ("[bold]x[/bold]")


def test_the_legend_names_beta():
    assert "grey at beta 0.40" in legend(0.4).plain


HOSTILE = "\x1b[2J\x1b]8;;http://evil\x07 oak\x9b31m \u202eko\u061c\x00\r\ufffe\uffff<b>&"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_model_writes_moves_no_cursor_and_turns_no_text_around(terminal):
    events = [Event("token", HOSTILE, 0.2), Event("done", HOSTILE)]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    page = show(console, HOSTILE, events, 0.5)
    written = console.file.getvalue()
    assert page.answer_tokens == 1
    assert "oak" in written
    for sign in ("\x1b[2J", "\x1b]8", "\x07", "\x9b", "\u202e", "\u061c", "\x00"):
        assert sign not in written


def test_a_picture_of_a_hostile_answer_is_still_an_image():
    from xml.etree import ElementTree

    page = Page(0.5)
    for event in (Event("token", HOSTILE, 0.2), Event("done", HOSTILE)):
        page.add(event)
    image = picture([(HOSTILE, page)], 0.5)
    root = ElementTree.fromstring(image)
    assert not root.findall(".//{*}b")
    assert "<b>" in "".join(root.itertext()).replace("\xa0", " ")


@pytest.mark.parametrize("columns", ["0", "00", "1"])
def test_a_terminal_of_no_columns_shows_the_answer(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "0")
    show(opened_console(), "What is it?", STEERED, 0.5)
    assert capsys.readouterr().out.splitlines()[1] == "it [-is oak-] {+was slate+}"
