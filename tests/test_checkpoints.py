"""Checkpoints of the paper's kinds load as a user's do, and have what their models have."""

import pytest
from checkpoints import ROOT, TOKENIZERS, checkpoint
from tiny import tiny_questions

from fasb.errors import ConfigError
from fasb.extensions import validated
from fasb.judges import causal_lm
from fasb.model.load import load_model
from fasb.settings import ModelSettings

TEXT = "Q: 1234567 caf\u00e9s?\nA: It\u2019s  \u201cso\u201d."


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, tmp_path_factory):
    folder = checkpoint(kind, tmp_path_factory.mktemp("models") / kind)
    return load_model(ModelSettings(path=str(folder)))


def test_text_comes_back_whole(model):
    assert model.decode(model.encode([TEXT])[0]) == TEXT


def test_digits_are_cut_as_in_the_real_one(kind, model):
    _, spans = model.encode_with_offsets(TEXT)
    cuts = {start - 3 for start, _ in spans if 3 < start < 10}
    assert cuts >= {3, 6}
    assert (kind == "llama3") == (cuts != set(range(1, 7)))


def test_special_tokens_are_those_of_the_real_one(kind, model):
    tokenizer = model.tokenizer
    bos = {"llama2": "<s>", "llama3": "<|begin_of_text|>", "qwen2.5": None}[kind]
    assert tokenizer.bos_token == bos
    assert (model.encode([TEXT])[0][0] == tokenizer.bos_token_id) == (bos is not None)
    assert (tokenizer.pad_token is None) == (kind != "qwen2.5")
    assert len(model.eos) == {"llama2": 1, "llama3": 3, "qwen2.5": 1}[kind]


def test_heads_and_embeddings_are_those_of_the_real_one(kind, model):
    config = model.model.config
    assert (config.num_key_value_heads < config.num_attention_heads) == (kind != "llama2")
    assert config.tie_word_embeddings == (kind == "qwen2.5")
    assert (model.vocab_size > len(model.tokenizer)) == (kind == "qwen2.5")


@pytest.mark.parametrize("name", ["llama2", "llama3"])  # whose two embeddings are not one
def test_a_judge_says_yes_to_some_answers_and_no_to_others(name, tmp_path):
    asked = {
        "path": str(checkpoint(name, tmp_path / name, judge=True)),
        "device": "cpu",
        "dtype": "float32",
    }
    answers = [line for line in (ROOT / "LICENSE").read_text().splitlines()[100:140] if line]
    questions = tiny_questions(len(answers))
    said = (
        causal_lm.judge(questions, answers, causal_lm.Settings(truth=asked, info=None))["true"]
        >= 0.5
    )
    assert set(said.tolist()) == {True, False}


def test_variables_in_a_models_path_are_filled_in(monkeypatch):
    monkeypatch.setenv("MODELS", "/models")
    assert ModelSettings(path="$MODELS/llama", tokenizer="${MODELS}/t").model_dump(
        include={"path", "tokenizer"}
    ) == {
        "path": "/models/llama",
        "tokenizer": "/models/t",
    }
    monkeypatch.delenv("MODELS")
    with pytest.raises(
        ConfigError,
        match=r"^models\.a\.path: the environment variable MODELS is not set; set it, or",
    ):
        validated(ModelSettings, {"path": "$MODELS/llama"}, "models.a")
