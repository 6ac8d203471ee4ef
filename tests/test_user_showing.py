"""`fasb show`: one screen that says what a bundle is."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from steering import placed, some_bundle
from tiny import tiny_model

import fasb
from fasb.cli import group
from fasb.errors import BundleError
from fasb.settings import PromptSettings
from fasb.steering.edit import Active, Edit
from fasb.steering.operations import Add
from fasb.user.showing import WIDTH, as_text, described

MEASURE = {"unsteered": 0.369, "steered": 0.451, "difference": 0.082}
ABOUT = {
    "tracker": {"auc": 0.84},
    "tuned": {"on": "mc2", "judge": None, "point": {}, "value": 0.5, "settings": 4},
    "questions": {"train": 12, "validation": 4, "test": 5, "seen": ["a", "b"]},
    "held_out": [
        {"name": "mc2", **MEASURE, "low": -0.009, "high": 0.173},
        {"name": "steered", **MEASURE, "low": None, "high": None},
    ],
}


@pytest.fixture(scope="module")
def bundle():
    return replace(some_bundle(tiny_model()), about=ABOUT)


def test_it_names_model_prompt_parts_and_what_was_measured(bundle):
    text = " ".join(as_text(bundle).split())
    for part in (
        "model tiny-llama",
        "prompt plain text: Q: {question}",
        "edit add at head",
        "tracker logistic at head",
        "AUC 0.84 held out",
        "policy where p > 0.5: 4 tokens back, alpha 2 x p",
        "tuned on MC2 of 4 questions; fitted on 12",
        "held out 5 questions, %",
        "MC2 36.9 to 45.1 95 %: -0.9 to +17.3",
    ):
        assert part in text


def test_it_fits_a_narrow_screen(bundle):
    chat = PromptSettings(chat="on", system="Answer in one short and friendly sentence. " * 3)
    lines = as_text(replace(bundle, prompt=chat)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 30
    assert "chat template of the model" in " ".join(" ".join(lines).split())


def test_one_layer_is_told_as_one(bundle):
    at = torch.tensor([[2, 0]])
    edit = Edit.of("residual", at, Add(torch.ones(1, 32)))
    text = " ".join(as_text(replace(bundle, edit=edit)).split())
    assert "residual (1); layer 2; from_answer" in text


def test_a_schedule_is_told(bundle):
    edit = Edit(bundle.edit.changes, placed("scheduled"))
    text = " ".join(as_text(replace(bundle, edit=edit)).split())
    assert "prompt_end, times 1, 0.5, then 0.25" in text
    assert described(replace(bundle, edit=edit))["edit"]["schedule"] == [1.0, 0.5, 0.25]
    once = Edit(bundle.edit.changes, Active("prompt_end"))
    assert "times" not in as_text(replace(bundle, edit=once))


def test_a_policy_that_was_changed_claims_nothing(bundle):
    text = as_text(bundle.with_policy(alpha=1.0))
    assert "nothing was measured" in text
    assert "45.1" not in text


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"when": "never"}, "does not steer"),
        ({"when": "always"}, "always, alpha 2"),
        ({"when": "always", "after": 3}, "always after 3 tokens, alpha 2"),
        (
            {"when": "oracle", "s": 9},
            "finds the answer not true, its last 9 tokens: alpha 2",
        ),
        ({"when": "prompt"}, "p > 0.5 after the question: alpha 2"),
    ],
)
def test_a_policy_says_only_what_counts(bundle, policy, said):
    text = " ".join(as_text(bundle.with_policy(**policy)).split())
    assert said in text
    assert "tokens back" not in text


def test_a_bundle_of_nothing_is_shown_too():
    text = as_text(fasb.Bundle(fasb.Policy(when="never")))
    assert "edit     none" in text


def test_the_command_prints_text_or_json(bundle, tmp_path):
    bundle.save(tmp_path / "my.bundle")
    shown = CliRunner().invoke(group, ["show", str(tmp_path / "my.bundle")])
    assert shown.stdout == as_text(bundle) + "\n"
    raw = CliRunner().invoke(group, ["show", str(tmp_path / "my.bundle"), "--json"]).stdout
    found = json.loads(raw, parse_constant=pytest.fail)
    assert found == json.loads(json.dumps(described(bundle)))
    assert found["held_out"][0]["steered"] == 0.451
    assert "seen" not in found["questions"]


def test_what_is_not_by_fit_is_one_line(bundle, tmp_path):
    replace(bundle, about={"held_out": 3}).save(tmp_path / "odd.bundle")
    with pytest.raises(BundleError, match=r"odd.bundle: what it says of itself"):
        CliRunner().invoke(group, ["show", str(tmp_path / "odd.bundle")], catch_exceptions=False)
