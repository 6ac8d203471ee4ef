"""The report of a fit: what it says first, and when it says that steering harms."""

import re

import pytest
from click.testing import CliRunner

import fasb
from fasb.cli import group
from fasb.user.report import harms, report


def measure(name, difference, low, high):
    """One measure held out."""
    values = {"unsteered": 0.4, "steered": 0.4 + difference, "difference": difference}
    return {"name": name, **values, "low": low, "high": high}


def about_of(*measures, **changes):
    """What a bundle remembers of a fit in which a setting was chosen."""
    point = {"k": 4, "alpha": 5.0, "beta": 0.7, "s": 5}
    tuned = {"point": point, "value": 0.5, "unsteered": 0.4, "steered": 0.2, "settings": 30}
    tuned |= {"on": "mc2_as_generated", "judge": None, "touch": 0.05, "perplexity": 1.25}
    tuned |= {"fired": 10, "out": {"degenerate": 4}}
    tracker = {"heads": [(1, 2, 0.7)], "chance": 0.5, "auc": 0.8, "ece": [0.2, 0.1], "tied": []}
    return {
        "tuned": {**tuned, **changes},
        "tracker": {**tracker, "n_validation": 24, "n_test": 24},
        "edge": ["alpha"],
        "questions": {"train": 72, "validation": 24, "test": 24},
        "held_out": list(measures),
        "controls": {"n": 53, "steered": 0.0, "changed": 0.0, "degenerate": 0, "perplexity": 1.0},
        "broken": 0,
        "examples": [{"question": "Why?", "unsteered": "So.\nAnd so.", "steered": "x" * 200}],
    }


def said(about):
    """The report of a bundle that steers, or that does not where nothing was chosen."""
    when = "token" if about["tuned"]["point"] else "never"
    return report(fasb.Bundle(fasb.Policy(when=when), about=about))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.3, "HELPS: "), (-0.3, -0.1, "HARMS: "), (-0.1, 0.3, "NO CLEAR EFFECT: ")],
)
def test_it_begins_with_whether_steering_helps(low, high, word):
    about = about_of(measure("mc2_as_generated", (low + high) / 2, low, high))
    assert said(about).startswith(word)


GOOD = measure("mc2_as_generated", 0.2, 0.1, 0.3)


@pytest.mark.parametrize(
    ("measures", "changes", "words"),
    [
        pytest.param([GOOD], {}, [], id="nothing"),
        pytest.param([GOOD, measure("mc1", -0.2, -0.3, -0.1)], {}, ["MC1 -20.0"], id="measure"),
        pytest.param([GOOD, measure("mc1", -0.2, -0.3, 0.1)], {}, [], id="may be chance"),
        pytest.param([GOOD, measure("mc1", -2e-7, -3e-7, -1e-7)], {}, [], id="rounding"),
        pytest.param([GOOD, measure("changed", 0.5, 0.4, 0.6)], {}, [], id="not a quality"),
        pytest.param([GOOD], {"broken": 1}, ["1 answers became empty or repeating"], id="text"),
        pytest.param(
            [GOOD],
            {"controls": {"n": 53, "changed": 0.06, "degenerate": 1}},
            ["6 % of control answers changed", "1 control answers became empty"],
            id="controls",
        ),
    ],
)
def test_what_got_worse_is_named(measures, changes, words):
    about = about_of(*measures) | changes
    found = harms(about, 0.05)
    assert len(found) == len(words)
    for told, word in zip(found, words, strict=True):
        assert word in told
    verdict = said(about).splitlines()[0]
    assert verdict.startswith("HARMS: held out, " if words else "HELPS: ")
    assert ("so this bundle does not steer" in verdict) == bool(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": {"touch": 30}}, "no threshold leaves 95 % .*--controls"),
        ({"out": {"touch": 10, "degenerate": 20}}, "every setting broke a guard"),
        ({"out": {}, "fired": 0}, "no answer to the questions to tune is steered"),
        ({"out": {"perplexity": 2}}, "of 30 settings none that keeps within the guards had"),
    ],
)
def test_a_bundle_that_does_not_steer_says_why(changes, words):
    about = about_of(measure("mc2_as_generated", 0.0, None, None), point={}, **changes)
    first = said(about).splitlines()[0]
    assert first.startswith("DOES NOT HELP: ")
    assert re.search(words, first)


def test_answers_do_not_reach_the_terminal_as_commands(tmp_path, monkeypatch):
    about = about_of(GOOD)
    about["examples"] = [dict.fromkeys(("question", "unsteered", "steered"), "a\x1b[2J\n\x9db\x07")]
    bundle = fasb.Bundle(fasb.Policy(when="never"), about=about)
    monkeypatch.setattr("fasb.user.fitting.fit", lambda *_: bundle)
    given = ["--model", "x", "--data", tmp_path / "my.csv", "--out", tmp_path / "my.bundle"]
    run = CliRunner().invoke(group, ["fit", *map(str, given)], catch_exceptions=False)
    assert run.stdout.count("a[2J b\n") == 3


def test_of_another_policy_nothing_was_measured():
    bundle = fasb.Bundle(fasb.Policy(), about=about_of(GOOD)).with_policy(beta=0.7)
    for unmeasured in (bundle, fasb.Bundle(fasb.Policy())):
        with pytest.raises(fasb.FasbError, match=r"not as fasb\.fit gave it.*fasb\.evaluate"):
            report(unmeasured)


def test_it_shows_reasons_controls_and_answers_before_and_after():
    text = said(about_of(GOOD))
    assert "          4 settings left out: wrote empty or repeating answers" in text
    assert "controls  of 53 everyday questions held out 0 % changed, 0 newly empty" in text
    assert "          unsteered: So. And so.\n          steered: xxx" in text
    assert max(map(len, text.splitlines()[-3:])) < 180


def test_heads_that_tie_with_the_last_anchor_are_named():
    about = about_of(GOOD)
    assert "left out" not in said(about).partition("tracker")[2].partition("setting")[0]
    about["tracker"]["tied"] = [(3, 1), (4, 0)]
    assert "as accurate as the last anchor, but left out: 3.1, 4.0" in said(about)


def test_multiple_choice_is_said_to_be_of_the_questions_with_false_answers():
    about = about_of(GOOD)
    assert "% on 24 questions, best of" in said(about)
    about["questions"]["choices"] = {"validation": 7, "test": 24}
    assert "% on 24 questions (7 of them with false answers, for MC), best of" in said(about)
    assert "n = 24 questions held out" in said(about)
