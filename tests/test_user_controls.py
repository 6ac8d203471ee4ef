"""Control questions: the library's own, and those of a file."""

import pytest

from fasb.errors import DataError
from fasb.user.controls import controls_of


def test_the_own_ones_are_two_halves_of_every_kind():
    own = controls_of()
    assert len(own.calibration) == len(own.held_out) >= 50
    assert not set(own.calibration) & set(own.held_out)
    for half in (own.calibration, own.held_out):
        for kind in ("capital of", "times", "poem|lines", "opposite", "Hello|Good morning"):
            assert any(word in prompt for prompt in half for word in kind.split("|")), kind


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
