"""What a generation config asks for beyond greedy decoding is named, not passed over."""

import json
import logging

import pytest
from tiny import tiny_checkpoint

import fasb
from fasb.model.greedy import PLAIN, left_out

ASKED = {
    "num_beams": 4,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "min_length": 5,
    "min_new_tokens": 5,
    "guidance_scale": 1.5,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "bad_words_ids": [[5]],
    "suppress_tokens": [5],
    "begin_suppress_tokens": [5],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "sequence_bias": [[[5], -10.0]],
    "exponential_decay_length_penalty": [5, 1.1],
    "watermarking_config": {"greenlist_ratio": 0.25},
    "stop_strings": ["."],
}


def with_generation(folder, **settings):
    """The tiny checkpoint with a generation config."""
    tiny_checkpoint(folder)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize("key", sorted(PLAIN))
def test_what_would_change_greedy_answers_is_named(tmp_path, caplog, key):
    with caplog.at_level(logging.WARNING):
        model = fasb.load(with_generation(tmp_path, **{key: ASKED[key]}))
    assert list(left_out(model.model)) == [key]
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert f"asks for {key} " in line
    assert "\n" not in line


def test_sampling_and_ends_are_no_news(tmp_path, caplog):
    plain = {key: value for key, value in PLAIN.items() if value is not None}
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}
    with caplog.at_level(logging.WARNING):
        model = fasb.load(with_generation(tmp_path, **plain, **sampling, eos_token_id=[2, 7]))
    assert left_out(model.model) == {}
    assert not [record for record in caplog.records if "left out" in record.message]
    assert {2, 7} <= model.eos
