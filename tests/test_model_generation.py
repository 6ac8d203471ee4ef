"""What a checkpoint's generation config asks for beyond greedy decoding is said, once, and kept."""

import json
import logging
import shutil

import pytest
from tiny import tiny_checkpoint, tiny_model

import fasb
from fasb.model.generation import PLAIN, passed_over, say_what_is_passed_over
from fasb.model.load import load_model
from fasb.settings import ModelSettings

ASKED = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 1,
    "bad_words_ids": [[8]],
    "sequence_bias": [[[9], -2.0]],
    "min_new_tokens": 4,
    "num_beams": 3,
    "guidance_scale": 1.5,
    "stop_strings": ["\n"],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def asking(plain):
    folder = shutil.copytree(plain, plain.with_name("asking"))
    sampled = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    given = {**ASKED, **sampled, "eos_token_id": [1, 7]}
    (folder / "generation_config.json").write_text(json.dumps(given))
    return folder


def warned(caplog):
    return [one.getMessage() for one in caplog.records if one.name == "fasb.model.generation"]


def test_each_setting_that_is_left_out_is_named_once(asking, caplog):
    loaded = load_model(ModelSettings(path=str(asking)))
    (line,) = warned(caplog)
    assert line.startswith("asking: its generation_config asks for repetition_penalty 1.3, ")
    assert all(key in line for key in ASKED)
    assert "\n" not in line
    assert passed_over(loaded.model) == ASKED
    # ends are honoured
    assert {1, 7} <= loaded.eos
    caplog.clear()
    fasb.load(loaded)
    assert warned(caplog) == []


def test_a_model_in_memory_is_warned_of_too(caplog):
    model = tiny_model()
    model.model.generation_config.repetition_penalty = 1.1
    fasb.load(model.model, model.tokenizer)
    (line,) = warned(caplog)
    assert "repetition_penalty 1.1, which is left out" in line


def test_what_changes_nothing_is_not_mentioned(plain, caplog):
    model = load_model(ModelSettings(path=str(plain))).model
    for key, value in PLAIN.items():
        setattr(model.generation_config, key, value)
    model.generation_config.suppress_tokens = []
    say_what_is_passed_over(model, "mine")
    assert passed_over(model) == {}
    assert warned(caplog) == []


def test_sampling_is_a_note_and_no_warning(caplog):
    model = tiny_model().model
    model.generation_config.do_sample = True
    say_what_is_passed_over(model, "mine")
    assert warned(caplog) == []
    with caplog.at_level(logging.INFO):
        say_what_is_passed_over(model, "mine")
    assert warned(caplog) == ["mine: decoded greedily, not sampled as its generation_config asks"]


def test_a_long_list_of_tokens_is_cut(caplog):
    model = tiny_model().model
    model.generation_config.suppress_tokens = list(range(1000))
    model.generation_config.stop_strings = "\n"
    say_what_is_passed_over(model, "mine")
    (line,) = warned(caplog)
    assert len(line) < 250
    assert "\n" not in line
