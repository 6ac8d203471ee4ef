"""The protocol's claims: which differences are asked for, and which of them are one family."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import evidence

from fasb.metrics.statistics import holm
from fasb.study.config import load_files
from fasb.study.panels import comparisons

STUDY = load_files(evidence.CONFIGS)
METHODS = list(STUDY.chosen_methods)
LIFT = {"fasb-probe": 0.3, "iti": 0.1}


@pytest.fixture(scope="module")
def comparison():
    """Six worlds of forty questions; FASB-Probe is right most often, then ITI, then the others."""
    random, rows = np.random.default_rng(0), []
    for world in range(6):
        for method in METHODS:
            right = random.random((40, 3)) < 0.4 + LIFT.get(method, 0.0) + 0.02 * world
            for question in range(40):
                true, mc1, mc2 = right[question].astype(float)
                measured = {"true": true, "info": 1.0, "mc1": mc1, "mc2": mc2}
                place = {"model": f"middle-s{world}", "dataset": f"middle-s{world}", "source": ""}
                about = {"seed": 0, "fold": question % 2, "question": f"q{question}"}
                rows.append(
                    {**place, **about, "group": f"q{question}", "method": method, **measured}
                )
    (found,) = comparisons(pd.DataFrame(rows), METHODS, ("true", "info", "mc1", "mc2"))
    return found


def test_every_row_of_the_protocol_is_asked_and_every_control_of_the_run():
    asked = evidence.claims(STUDY)
    assert list(dict.fromkeys(claim.row for claim in asked)) == [
        "primary",
        *(f"S{i}" for i in range(1, 8)),
    ]
    controls = {name for name, method in STUDY.chosen_methods.items() if method.role == "control"}
    assert {claim.baseline for claim in asked if claim.row == "S6"} == controls
    assert {claim.baseline for claim in asked if claim.row != "S6"} <= set(METHODS)
    protocol = (evidence.ROOT / "docs" / "protocol.md").read_text()
    assert all(f"| {claim.row} |" in protocol for claim in asked)


def test_the_primary_claim_is_read_alone_and_the_rest_as_one_family(comparison):
    table = evidence.tested(comparison, evidence.claims(STUDY))
    assert table["p_holm"][0] == table["p"][0]
    np.testing.assert_array_equal(table["p_holm"][1:], holm(table["p"].to_numpy()[1:]))


def test_a_difference_is_the_mean_over_worlds_in_points_with_the_t_test_of_scipy(comparison):
    table, panel = evidence.tested(comparison, evidence.claims(STUDY)), comparison.panel
    true = panel.metrics.index("true")
    mine, other = (panel.methods.index(name) for name in ("fasb-probe", "iti"))
    worlds = []
    for world in range(6):
        here = panel.values[:, true][:, panel.unit == world]
        by_fold = np.nanmean(here, axis=1)
        worlds.append((by_fold[mine] - by_fold[other]).mean())
    expected = ttest_1samp(worlds, 0)
    assert table["difference"][0] == pytest.approx(100 * np.mean(worlds))
    assert table["p"][0] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert [table["low"][0], table["high"][0]] == pytest.approx([100 * x for x in interval])


def test_a_gates_precision_and_recall_are_of_the_unsteered_answers_that_are_false():
    answers = ["right", "right", "wrong", "wrong", "wrong"]
    written = pd.DataFrame({"question": ["a", "b", "a", "b", "b"], "trace_answer": answers})
    written["fired"] = [True, False, True, True, False]
    judged = pd.DataFrame({"question": ["a", "b", "a", "b"]})
    judged = judged.assign(answer=["right", "right", "wrong", "wrong"], true=[1.0, 0.5, 0.0, 0.4])
    assert evidence.gate_of(written, judged) == pytest.approx((2 / 3, 2 / 3))
    assert np.isnan(evidence.gate_of(written.assign(fired=False), judged)[0])
