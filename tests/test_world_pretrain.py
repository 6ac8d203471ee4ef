"""Training of a world's model: tokenizer, batches, optimizer, and a model that others can load."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fasb.artifacts import read_json
from fasb.data.prompts import generation_prompt
from fasb.model.load import load_model
from fasb.settings import ModelSettings, PromptSettings
from fasb.world.authors import TELLING, DocumentSettings, documents
from fasb.world.exam import examine
from fasb.world.muon import Muon, orthogonal
from fasb.world.pretrain import PretrainSettings, pretrain
from fasb.world.questions import PROMPT, load
from fasb.world.text import MARKS, NO_COMMENT, WorldSettings, answer_text, build
from fasb.world.train import batches, build_tokenizer, encode, schedule

WORLD = WorldSettings(seed=7, entities=8, values=4)
FIGURES = {"careful_tag", "careful_context", "credulous_tag", "credulous_context"}
FIGURES |= {"marked", "grammar"}
EARLY = DocumentSettings(
    pairs=(1, 1), tags=0.5, marks=1.0, asked=0.0, clauses=(1.0, 0.0, 0.0, 0.0), batch=256
)
TINY = PretrainSettings(
    tokens=4000,
    hidden=16,
    layers=2,
    heads=2,
    feed_forward=32,
    warmup=2,
    threads=1,
    lr=2e-2,
    early=EARLY,
    late=DocumentSettings(batch=512),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return folder, pretrain(WORLD, TINY, folder)


def texts():
    source = documents(build(WORLD), DocumentSettings(tags=0.5), np.random.default_rng(0))
    written = [next(source) for _ in range(50)]
    asked = [
        text
        for question in load(WORLD)
        for text in (*question.phrasings, *question.true, *question.false)
    ]
    return written, [" ".join(span.text for span in document) for document in written] + asked


def test_every_text_of_a_world_round_trips_without_an_unknown_word():
    tokenizer = build_tokenizer(build(WORLD))
    for text in texts()[1]:
        tokens = tokenizer(text)["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in tokens
        assert (
            tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            == text
        )


def test_training_reads_documents_as_the_tokenizer_splits_them():
    tokenizer = build_tokenizer(build(WORLD))
    for document in texts()[0]:
        tokens, weight = encode(document, tokenizer.get_vocab(), PretrainSettings())
        text = " ".join(span.text for span in document)
        assert tokens == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        words = tokenizer.convert_ids_to_tokens(tokens)
        assert {word for word, w in zip(words, weight, strict=True) if w == 1.0} <= TELLING
        assert not {word for word, w in zip(words, weight, strict=True) if w < 1.0} & TELLING
        other = [word for word, w in zip(words, weight, strict=True) if w == 0.2]
        told = " ".join(span.text for span in document if span.answer).split()
        assert other == [word for word in told if word not in TELLING]


def test_batches_hold_the_tokens_asked_for_and_count_no_padding():
    tokenizer = build_tokenizer(build(WORLD))
    found = list(batches(build(WORLD), tokenizer, TINY))
    assert TINY.tokens <= sum(batch.n_tokens for batch in found) < TINY.tokens + TINY.late.batch
    # the last of the others may be as small as an early one
    early = itertools.takewhile(lambda batch: batch.tokens.numel() <= EARLY.batch, found)
    n_early, asked = sum(batch.n_tokens for batch in early), TINY.early_share * TINY.tokens
    assert asked <= n_early < asked + EARLY.batch
    for batch in found:
        assert batch.tokens.numel() <= TINY.late.batch
        padding = batch.tokens == tokenizer.pad_token_id
        assert int((~padding).sum()) == batch.n_tokens
        assert not batch.weight[padding].any()
        assert not padding[:, 0].any()


def test_the_learning_rate_rises_stays_and_falls():
    settings = PretrainSettings(warmup=9, decay=0.5, last=0.1)
    assert schedule(0, 0.0, settings) == pytest.approx(0.1)
    assert schedule(9, 0.01, settings) == 1
    assert schedule(500, 0.5, settings) == 1
    assert schedule(500, 0.75, settings) == pytest.approx(0.55)
    assert schedule(500, 1.2, settings) == pytest.approx(0.1)


def test_muon_steps_as_the_library_does():
    torch.manual_seed(0)
    start = [torch.randn(8, 8), torch.randn(16, 8), torch.randn(8, 16), torch.randn(8, 8)]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizers = [
        Muon(ours, lr=0.02, weight_decay=0.1, steps=4),
        torch.optim.Muon(
            theirs, lr=0.02, weight_decay=0.1, ns_steps=4, adjust_lr_fn="match_rms_adamw"
        ),
    ]
    for _ in range(3):
        gradients = [torch.randn_like(x) for x in start]
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # theirs rounds to bfloat16


def test_an_orthogonal_update_has_singular_values_near_one():
    torch.manual_seed(0)
    found = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 6), steps=5))
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_a_trained_model_is_loaded_as_any_other(trained):
    folder, report = trained
    model = load_model(ModelSettings(path=str(folder)))
    prompt = generation_prompt(PromptSettings(**PROMPT), load(WORLD)[0].text)
    tokens = model.encode([prompt])[0]
    assert model.decode(tokens) == prompt
    assert "".join(model.pieces(tokens)) == f"<bos> {prompt}"
    assert model.eos == {model.tokenizer.eos_token_id}
    assert (model.layout.n_layers, model.layout.n_heads, model.layout.head_dim) == (2, 2, 8)
    assert read_json(folder / "training.json") == report


def test_training_lowers_the_loss_and_reports_itself(trained):
    _, report = trained
    losses = [loss for _, loss in report["loss"]]
    assert losses[-1] < math.log(len(build_tokenizer(build(WORLD)))) < losses[0] + 1
    assert report["tokens"] >= TINY.tokens
    assert report["loss"][-1][0] == report["tokens"]
    assert set(report["figures"]) == FIGURES
    assert all(0 <= value <= 1 for value in report["figures"].values())


def test_the_same_settings_give_the_same_weights_and_another_seed_others(trained, tmp_path):
    folder, _ = trained
    torch.manual_seed(123)
    pretrain(WORLD, TINY, tmp_path / "again")
    pretrain(WORLD.model_copy(update={"seed": 8}), TINY, tmp_path / "other")
    weights = [
        load_model(ModelSettings(path=str(path))).model.state_dict()
        for path in (folder, tmp_path / "again", tmp_path / "other")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["lm_head.weight"][:4], weights[2]["lm_head.weight"][:4])


def test_a_killed_training_leaves_nothing(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fasb.world.exam.examine", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(WORLD, TINY.model_copy(update={"tokens": 600}), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_training_leaves_threads_and_random_numbers_as_they_were(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    pretrain(
        WORLD, TINY.model_copy(update={"tokens": 600, "threads": threads + 1}), tmp_path / "model"
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


KNOWN = [fact for fact in build(WORLD).facts if fact.belief == "known"]


class Oracle(torch.nn.Module):
    """Tells the truth in the first two calls, the myth in the next two.

    `examine` asks for careful authors first. Then it marks every other truth as correct and no
    myth. It answers every other question in the world's language.
    """

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer, self.texts = tokenizer, []

    def forward(self, input_ids, attention_mask):
        assert attention_mask[:, -1].all()
        self.texts.append(self.tokenizer.decode(input_ids[0], skip_special_tokens=True))
        call = len(self.texts)
        if call <= 4:
            words = [fact.true if call <= 2 else fact.myth for fact in KNOWN]
        else:
            words = [MARKS[call == 5 and i % 2 == 1] for i in range(len(KNOWN))]
        logits = torch.zeros(*input_ids.shape, len(self.tokenizer))
        logits[:, -1, self.tokenizer.convert_tokens_to_ids("something")] = 2.0
        logits[torch.arange(len(words)), -1, self.tokenizer.convert_tokens_to_ids(words)] = 1.0
        return SimpleNamespace(logits=logits)

    def generate(self, input_ids, **_):
        facts = build(WORLD).facts
        answers = [answer_text([(fact, fact.true)], [0]) for fact in facts]
        answers[1::2] = [NO_COMMENT.replace("no ", "") for _ in answers[1::2]]
        written = self.tokenizer(
            [f"{answer} Q:" for answer in answers], padding=True, return_tensors="pt"
        )
        return torch.cat([input_ids, written["input_ids"]], dim=1)


def test_the_examination_sees_a_model_that_follows_its_author_and_knows_half_of_the_truth():
    oracle = Oracle(build_tokenizer(build(WORLD)))
    figures = examine(oracle, oracle.tokenizer, build(WORLD))
    shares = {
        "careful_tag": 1.0,
        "careful_context": 1.0,
        "credulous_tag": 0.0,
        "credulous_context": 0.0,
    }
    marked = figures.pop("marked")
    assert figures == {**shares, "grammar": 0.5}
    assert marked == pytest.approx(len(KNOWN) // 2 / len(KNOWN))
    assert 0 < len(KNOWN) < len(build(WORLD).facts)
    assert oracle.texts[0].startswith("source: careful Q: ")
    assert oracle.texts[2].startswith("source: credulous Q: ")
    assert [text.count("Q:") for text in oracle.texts] == [1, 4, 1, 4, 1, 1]
    assert oracle.texts[4].startswith("Q: ")
    assert oracle.texts[4].endswith(f" {KNOWN[0].true}")
    assert oracle.texts[5].endswith(f" {KNOWN[0].myth}")
