"""The comparison with the lm-evaluation-harness: nothing where both score alike, else more."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import harness

from fasb.settings import PromptSettings

PAIRS = [("Who lives in the old house?", "Nobody lives there."), ("Why?", "No.")]
TEMPLATE = (
    "<s>{% for m in messages %}{{ m['role'] + ':\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)

pytestmark = [
    pytest.mark.skipif(
        find_spec("lm_eval") is None, reason="no lm_eval: pip install fasb[harness]"
    ),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("chat", ["off", "on"])
def test_log_probabilities_are_the_harnesss(chat):
    model = tiny_model(dtype="float32")
    model.tokenizer.chat_template = TEMPLATE if chat == "on" else None
    apart = harness.differences(model, PAIRS, PromptSettings(chat="auto"))
    assert apart.shape == (2,)
    assert np.abs(apart).max() < 1e-3


def test_another_prompt_is_seen():
    model = tiny_model(dtype="float32")
    apart = harness.differences(model, PAIRS, PromptSettings(prefix="I have no comment.\n\n"))
    assert np.abs(apart).max() > 1e-3
