"""Control questions: the library's own, and those of a file."""

import csv
from pathlib import Path

import pytest
from published_sets import REAL, realdata

from fasb.data.protocol import plain_text
from fasb.errors import DataError
from fasb.user.controls import controls_of


def test_the_own_ones_are_two_halves_of_every_kind():
    own = controls_of()
    assert len(own.calibration) == len(own.held_out) >= 100
    assert not set(own.calibration) & set(own.held_out)
    for half in (own.calibration, own.held_out):
        for kind in (
            "capital of",
            "times",
            "poem|lines",
            "opposite",
            "Hello|Good morning",
            "Python",
        ):
            assert any(word in prompt for prompt in half for word in kind.split("|")), kind


class TestOnRealData:
    pytestmark = realdata

    def test_the_own_ones_are_none_of_truthfulqa(self):
        with Path(REAL, "TruthfulQA.csv").open(encoding="utf-8") as rows:
            theirs = {plain_text(row["Question"]) for row in csv.DictReader(rows)}
        own = controls_of()
        assert len(theirs) > 700
        assert not theirs & {plain_text(prompt) for prompt in (*own.calibration, *own.held_out)}


def test_a_line_separator_within_a_question_does_not_end_it(tmp_path):
    (tmp_path / "own.txt").write_text("One\u2028line?\r\n\r\nAnd\u0085two?\n", newline="")
    assert controls_of(tmp_path / "own.txt").calibration == ("One\u2028line?",)


@pytest.mark.parametrize("name", ["my.csv", "my.JSONL", "my.parquet"])
def test_a_tables_rows_are_no_prompts(tmp_path, name):
    (tmp_path / name).write_text("question,true,false\nWho?,you,me\nWhy?,so,no\n")
    with pytest.raises(DataError, match=r"my\.\w+: a table; give a text file with one question"):
        controls_of(tmp_path / name)


def test_lines_of_a_file_are_asked_once_each(tmp_path):
    file = tmp_path / "controls.txt"
    file.write_text("# mine\nHello!\n\n  Two plus two?\nhello !\nGood night.\n")
    found = controls_of(file)
    assert found.calibration == ("Hello!", "Good night.")
    assert found.held_out == ("Two plus two?",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "none.txt: no such file"),
        ("Hello!\n# more\n", "none.txt: 1 control questions; give one a line, best 100 or more"),
    ],
)
def test_too_few_are_refused(tmp_path, text, message):
    file = tmp_path / "none.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        controls_of(file)
