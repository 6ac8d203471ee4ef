"""The agreement report: full where nothing differs, less where something does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import agreement
from subjects import subject

from fasb.decoding.decode import decode
from fasb.steering.trace import EOS, LIMIT, OPEN, Trace


@pytest.fixture
def small():
    return subject("world", 8, tokens=12, batch=4)


def test_one_dtype_agrees_with_itself_batched_alone_and_live(small):
    found = agreement.report(small.model, small.prompts, small.bundle, torch.float32)
    assert 0 < found["fired"] < 1
    assert set(found["against"]) == set(agreement.RUNS)
    for row in found["against"].values():
        assert row["unsteered"] == {"equal": 1.0, "first_difference": [], "near_tie": 0}
        assert row["answers"]["equal"] == row["fired"] == row["kept"] == 1.0


def test_half_precision_is_reported_against_every_run(small):
    found = agreement.report(small.model, small.prompts, small.bundle, torch.bfloat16)
    assert small.model.model.dtype == torch.float32
    text = agreement.table(found)
    for name, row in found["against"].items():
        assert agreement.RUNS[name] in text
        assert len(row["unsteered"]["first_difference"]) == round(
            8 * (1 - row["unsteered"]["equal"])
        )


def test_a_perturbed_model_diverges(small):
    one = decode(small.model, small.prompts, small.bundle)
    gaps = agreement.top_two_gaps(small.model, small.prompts, one.before)
    with torch.no_grad():
        for weight in small.model.model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    found = agreement.agreement(one, decode(small.model, small.prompts, small.bundle), gaps)
    assert found["unsteered"]["equal"] < 1
    assert found["answers"]["equal"] < 1
    assert min(found["kept"], found["fired"]) < 1
    steps = found["unsteered"]["first_difference"]
    assert found["unsteered"]["quartiles"] == np.quantile(steps, [0.25, 0.5, 0.75]).tolist()


def test_rows_part_where_tokens_differ_or_one_ends_before_the_other():
    one = Trace.of([[5, 6, 7], [5, 6], [5, 6], [5]], [LIMIT, EOS, OPEN, EOS])
    other = Trace.of([[5, 9, 7], [5, 6, 7], [5, 6, 7], [5]], [LIMIT, LIMIT, LIMIT, EOS])
    assert [agreement.parting(one, other, row) for row in range(4)] == [1, 2, None, None]


def test_the_gap_is_that_of_the_token_chosen(small):
    trace = decode(small.model, small.prompts[:2], small.bundle.with_policy(when="never")).before
    gaps = agreement.top_two_gaps(small.model, small.prompts[:2], trace)
    assert [len(gap) for gap in gaps] == trace.length.tolist()
    ids = torch.tensor([[*small.prompts[0], *trace.rows()[0]]])
    logits = small.model.model(ids).logits[0, len(small.prompts[0]) - 1 : -1]
    assert logits.argmax(-1).tolist() == trace.rows()[0]
    second = logits.sort(dim=-1).values[:, -2]
    np.testing.assert_allclose(
        gaps[0], (logits.max(-1).values - second).detach().numpy(), atol=1e-5
    )
