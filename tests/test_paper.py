"""The paper's protocol on the real TruthfulQA, with tiny checkpoints, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import reference_loop
import torch
from checkpoints import TOKENIZERS, checkpoint
from published_sets import REAL, realdata
from steering import some_bundle

from fasb.artifacts import Store
from fasb.data import truthfulqa
from fasb.data.prompts import generation_prompt
from fasb.data.splits import split
from fasb.decoding.decode import decode
from fasb.decoding.score import encode_choices, score
from fasb.model.load import load_model
from fasb.settings import (
    DecodingSettings,
    ModelSettings,
    PromptSettings,
    ScoringSettings,
    SplitSettings,
)
from fasb.study.config import read_preset
from fasb.study.run import Runner

pytestmark = realdata


@pytest.fixture(scope="module")
def questions():
    return truthfulqa.load(truthfulqa.Settings(path=str(REAL)))


@pytest.fixture(scope="module")
def prompt():
    own = truthfulqa.prompt(truthfulqa.Settings(path=str(REAL)))
    return PromptSettings(**read_preset("reference")["prompt"], **own)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = {kind: str(checkpoint(kind, folder / kind)) for kind in TOKENIZERS}
    return {
        kind: load_model(ModelSettings(path=path, dtype="float64")) for kind, path in paths.items()
    }


def test_folds_are_the_papers_halves(questions):
    first, second = split(questions, SplitSettings(), 42)
    assert [len(part) for part in (first.train, first.validation, first.test)] == [326, 82, 409]
    assert [len(part) for part in (second.train, second.validation, second.test)] == [327, 82, 408]
    assert set(first.test) == set(second.train) | set(second.validation)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_scored_tokens_of_every_answer_decode_exactly_to_it(models, questions, prompt, kind):
    model = models[kind]
    pairs = [
        (question.text, text)
        for question in questions
        for text in (*question.true, *question.false)
    ]
    assert len(pairs) == 6204
    choices = encode_choices(model, prompt, ScoringSettings(), pairs)
    scored = [
        model.decode(choice.tokens[choice.scored_start :]).removeprefix(" ") for choice in choices
    ]
    assert scored == [text for _, text in pairs]
    assert all(choice.first_state == choice.scored_start - 1 for choice in choices)


@pytest.mark.parametrize(
    ("kind", "joins"), [("llama2", False), ("llama3", True), ("qwen2.5", True)]
)
def test_the_released_span_says_where_it_loses_an_answers_first_token(
    models, questions, prompt, kind, joins, caplog
):
    """Llama 3's and Qwen's tokenizers join the question's "?" with the line break (M3)."""
    pairs = [(question.text, question.best) for question in questions[:20]]
    encode_choices(models[kind], prompt, ScoringSettings(span="released"), pairs)
    told = [record.message for record in caplog.records]
    assert len(told) == joins
    assert all("first token" in line and "of 20 answers" in line for line in told)


@pytest.mark.parametrize("steered", [False, True], ids=["unsteered", "steered"])
def test_mc_metrics_are_those_of_a_plain_loop_over_single_answers(
    models, questions, prompt, steered, tmp_path
):
    model = models["llama2"]
    when = "always" if steered else "never"
    bundle = replace(
        some_bundle(model, when=when, alpha=1.5), prompt=prompt, scoring=ScoringSettings()
    )
    asked = questions[::20]
    found = Runner(model.settings, lambda: model, Store(tmp_path)).scores(asked, [bundle], "MC")
    assert found["question"].tolist() == [question.id for question in asked]
    for question, row in zip(asked, found.itertuples(), strict=True):
        true, false = (
            [
                logprob_of(
                    model, prompt, question.text, text, bundle.edit if steered else None, 1.5
                )
                for text in side
            ]
            for side in (question.true, question.false)
        )
        best = true[question.true.index(question.best)]
        highest = max(*true, *false)
        share = sum(np.exp(t - highest) for t in true) / sum(
            np.exp(t - highest) for t in (*true, *false)
        )
        assert row.mc1 == (best > max(false))
        assert row.mc2 == pytest.approx(share, abs=1e-9)
        assert row.mc3 == pytest.approx(np.mean([t > max(false) for t in true]))


def logprob_of(model, prompt, question, answer, edit, alpha):
    """Log-probability of one answer.

    An edit adds alpha times its vectors from the last token before it on.
    """
    text = f"{prompt.prefix}Q: {question}\nA: {answer}"
    found = model.tokenizer(text, return_offsets_mapping=True)
    tokens = found["input_ids"]
    # the space before the answer is the model's to write, a token of its own or not
    space = len(text) - len(answer) - 1
    start = next(i for i, (_, end) in enumerate(found["offset_mapping"]) if end > space)
    handles = []
    (change,) = edit.changes if edit else (None,)
    for i, (layer, head) in enumerate(change.at.tolist() if change else ()):
        vector = change.operation.vector[i]
        added = torch.zeros(model.layout.n_heads, model.layout.head_dim, dtype=torch.float64)
        added[head] = alpha * vector

        def add(_, inputs, added=added):
            x = inputs[0].clone()
            x[:, start - 1 :] += added.flatten()
            return (x,)

        handles.append(model.layout.projections[layer].register_forward_pre_hook(add))
    with torch.no_grad():
        logprob = model.model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
    for handle in handles:
        handle.remove()
    return sum(float(logprob[i - 1, tokens[i]]) for i in range(start, len(tokens)))


@pytest.fixture(scope="module")
def reference(prompt):
    """A bundle under the released program's preset, with a random edit and tracker."""
    preset = read_preset("reference")
    settings = (
        DecodingSettings(tokens=30, batch=3, **preset["decoding"]),
        ScoringSettings(**preset["scoring"]),
    )

    def made(model, beta):
        bundle = some_bundle(model, beta=beta, s=10, judged=preset["trackers"]["judged"])
        return replace(bundle, prompt=prompt, decoding=settings[0], scoring=settings[1])

    return made


BETAS = (0.5, 0.75)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_reference_preset_answers_as_the_released_loop(models, questions, reference, kind):
    model, fired = models[kind], set()
    for beta in BETAS:
        bundle = reference(model, beta)
        prompts = model.encode(
            [generation_prompt(bundle.prompt, question.text) for question in questions[::200]]
        )
        found = decode(model, prompts, bundle)
        decided = found.decision
        for i, tokens in enumerate(prompts):
            row = reference_loop.answer(model, tokens, bundle)
            assert found.after.rows()[i] == row.tokens
            assert (decided.fired[i], decided.kept[i], decided.fired_at[i]) == (
                row.fired,
                row.kept,
                row.fired_at,
            )
            assert decided.strength[i] == pytest.approx(row.strength, abs=1e-9)
            fired.add((row.fired, row.kept))
    assert {True, False} <= {steered for steered, _ in fired}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_reference_preset_scores_as_the_released_loop(models, questions, reference, kind):
    model, fired = models[kind], set()
    pairs = [
        (question.text, text)
        for question in questions[::80]
        for text in (question.best, question.false[0])
    ]
    for beta in BETAS:
        bundle = reference(model, beta)
        choices = encode_choices(model, bundle.prompt, bundle.scoring, pairs)
        found = score(model, choices, bundle)
        for i, (question, text) in enumerate(pairs):
            before = len(model.encode([f"{bundle.prompt.prefix}Q: {question}"])[0])
            tokens = model.encode([f"{bundle.prompt.prefix}Q: {question}\nA: {text}"])[0]
            logprob, steered, _ = reference_loop.choose(
                model, tokens, before + 4, before + 3, bundle
            )  # M2, M3
            assert found.logprob[i] == pytest.approx(logprob, abs=1e-9)
            assert found.fired[i] == steered
            fired.add(steered)
    assert fired == {True, False}
