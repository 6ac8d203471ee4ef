"""Fitting on a real model: another behaviour than truth, from the table of docs/steer.md."""

import pytest

import fasb
from fasb.metrics.answers import degenerate
from fasb.user.controls import controls_of
from fasb.user.evaluation import questions_of
from fasb.user.report import report
from tests.pages import ROOT
from tests.test_cli_get import DEMONSTRATION, realmodel

SETTINGS = {
    "grid": {"k": [12], "alpha": [1, 2, 5], "s": [5]},
    "decoding": {"tokens": 16, "batch": 32},
}


class TestPoliteness:
    pytestmark = realmodel

    def test_it_is_told_apart_and_everyday_answers_stay(self, tmp_path):
        model = fasb.load(DEMONSTRATION)
        questions = questions_of(ROOT / "docs" / "politeness.csv")
        assert len(questions) == 60
        bundle = fasb.fit(model, questions, SETTINGS)
        print(report(bundle), *bundle.about["tried"], sep="\n")
        assert bundle.about["tracker"]["auc"] > 0.8
        assert not bundle.about["tuned"]["out"].get("touch")
        if bundle.policy.when == "never":
            return
        controls = controls_of().held_out
        answers = fasb.steer(model, bundle, controls)
        changed = [one for one in answers if one.text != one.unsteered]
        assert len(changed) <= 0.05 * len(controls)
        assert not any(degenerate(one.text) and not degenerate(one.unsteered) for one in changed)
        share = len(changed) / len(controls)
        assert bundle.about["controls"]["changed"] == pytest.approx(share)
