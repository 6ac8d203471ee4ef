"""Every case of the benchmarks runs, on sizes that say nothing about speed."""

import sys
from pathlib import Path

import pytest
from reference_loop import answer as loop

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cases
from run import BARS, GPU_BARS, draw, line
from subjects import subject


@pytest.fixture(scope="module")
def small():
    return subject("world", 8, tokens=12, batch=4)


def test_about_half_of_the_answers_fire(small):
    assert 0.2 <= cases.live_over_limit(small, 1)["fired"] <= 0.8


@pytest.mark.parametrize(
    "case",
    [
        "edit_over_plain",
        "generate_over_plain",
        "grid_over_tokens",
        "choices_over_limit",
        "mc_over_limit",
        "extract_over_forward",
        "share_of_bandwidth",
    ],
)
def test_a_case_gives_a_ratio_with_its_interval(small, case):
    row = getattr(cases, case)(small, 2)
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert case in line(case, "<= 1", row)
    assert case in GPU_BARS or case == "share_of_bandwidth"


def test_the_plain_loop_is_timed_per_prompt(small):
    assert cases.loop_over_engine(small, 1, loop, 1)["loop_prompts"] == 1


def test_scaling_is_told_per_question(small):
    found = cases.scaling(small, small, 1)
    assert set(found["seconds_per_question"]) == {
        "batch",
        "tokens",
        "questions",
        "anchors",
        "parameters",
    }
    assert found["peak_bytes"] > 1e8


def test_the_figure_shows_every_bar(tmp_path):
    row = {"ratio": 1.0, "low": 0.9, "high": 1.1}
    draw(dict.fromkeys(BARS, row), BARS, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 5000
