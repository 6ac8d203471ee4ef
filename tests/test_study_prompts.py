"""Rows that steer nothing and ask in another way (docs/method.md C12)."""

from dataclasses import replace

import pandas as pd
import pytest
from tiny import tiny_model, tiny_questions

from fasb.artifacts import Store
from fasb.data.prompts import clean_answer, generation_prompt, instructed
from fasb.data.protocol import Split
from fasb.decoding.decode import trace
from fasb.decoding.score import encode_choices, score
from fasb.errors import ConfigError
from fasb.metrics.answers import choice_rows
from fasb.search import Method
from fasb.settings import DecodingSettings, PromptSettings, ScoringSettings, StageSettings
from fasb.study.evaluate import Bundles
from fasb.study.judging import distinct
from fasb.study.metrics import generation_metrics
from fasb.study.run import Asked, Runner, traced
from fasb.study.tune import bundle_path

QUESTIONS = tiny_questions(4)
SECTIONS = StageSettings(
    prompt=PromptSettings(prefix="Be short.\n\n", stop=("e",)),
    decoding=DecodingSettings(tokens=6, batch=4),
)
SAID = "The sky is blue."


def bundle_of(fingerprint, **settings):
    recipe = Method(settings=settings).recipe({}, SECTIONS, "test")
    return recipe.bundle(None, None, SECTIONS, fingerprint, {})


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def asked(model):
    rows = traced(model, QUESTIONS, SECTIONS.prompt, SECTIONS.decoding)
    return Asked.of(QUESTIONS, [question.id for question in QUESTIONS], rows)


@pytest.fixture
def runner(model, tmp_path):
    return Runner(model.settings, lambda: model, Store(tmp_path / "store"))


def test_an_instruction_takes_the_place_of_what_stands_before_the_question():
    prompt = SECTIONS.prompt
    assert generation_prompt(instructed(prompt, SAID), "Why?") == f"{SAID}\n\nQ: Why?\nA:"
    assert generation_prompt(instructed(prompt, ""), "Why?") == "Q: Why?\nA:"
    assert instructed(prompt, None) == prompt
    chat = PromptSettings(chat="on", system="Be short.")
    assert instructed(chat, SAID) == PromptSettings(chat="on", system=SAID)


def test_each_bundle_answers_its_own_prompt_and_is_scored_behind_it(model, runner, asked):
    given = (None, SAID, "", None)
    settings = [{} if text is None else {"instruction": text} for text in given]
    bundles = [bundle_of(model.fingerprint, **one) for one in settings]
    found = runner.answers(asked, bundles, "test", detail=True)
    scores = runner.scores(QUESTIONS, bundles, "test")
    every = []
    for i, text in enumerate(given):
        prompt = instructed(SECTIONS.prompt, text)
        prompts = model.encode([generation_prompt(prompt, one) for one in asked.texts])
        plain = trace(model, prompts, SECTIONS.decoding, ("e",))
        answers = [clean_answer(model.decode(row), prompt) for row in plain.rows()]
        rows = found[found["setting"] == i]
        assert rows["answer"].tolist() == answers
        # what it is compared with is the model by the prompt of the trace
        assert rows["trace_answer"].tolist() == asked.rows["text"].tolist()
        assert rows["n_tokens"].tolist() == plain.length.tolist()
        assert not rows["fired"].any()
        every.append(answers)
        question = QUESTIONS[0]
        pairs = [(question.text, reference) for reference in question.references]
        choices = encode_choices(model, prompt, SECTIONS.scoring, pairs)
        alone = score(model, choices, bundles[i])
        own = scores[(scores["setting"] == i) & (scores["question"] == question.id)].iloc[0]
        (expected,) = choice_rows([question], alone.logprob, alone.fired)
        assert own[["mc1", "mc2", "mc3", "fired"]].tolist() == pytest.approx(list(expected))
    assert every[0] == every[3]
    assert len({tuple(answers) for answers in every}) == 3


def test_harm_and_help_of_a_prompt_are_to_the_unsteered_models_answers(model, runner, asked):
    bundles = [bundle_of(model.fingerprint), bundle_of(model.fingerprint, instruction=SAID)]
    found = runner.answers(asked, bundles, "test", detail=True)
    other = replace(asked, rows=asked.rows.assign(text="another"))
    again = runner.answers(other, bundles, "test", detail=True)
    assert set(again["trace_answer"]) == {"another"}  # not what the store has
    found = found.assign(fold=0, method=found["setting"].map({0: "unsteered", 1: "prompt"}))
    pairs = distinct(QUESTIONS, [found])
    said = [{"question": question.id, "answer": answer} for question, answer in pairs]
    # true is what the unsteered model says to the first two questions, and nothing else
    plain = asked.rows[asked.rows["question"].isin(["q0", "q1"])]
    good = set(zip(plain["question"], plain["text"], strict=True))
    judged = pd.DataFrame(
        [{**row, "true": float((row["question"], row["answer"]) in good)} for row in said]
    )
    rows = generation_metrics(found, judged).set_index(["method", "question"])
    assert not rows.loc["unsteered"][["harmed", "helped"]].to_numpy().any()
    assert rows.loc["prompt"]["harmed"].to_dict() == {"q0": 1, "q1": 1, "q2": 0, "q3": 0}
    judged["true"] = 1 - judged["true"]
    rows = generation_metrics(found, judged).set_index(["method", "question"])
    assert rows.loc["prompt"]["helped"].to_dict() == {"q0": 1, "q1": 1, "q2": 0, "q3": 0}


def test_only_what_neither_edits_nor_tracks_is_asked_in_another_way():
    for parts in ({"use": "caa"}, {"gate": "probe"}):
        entry = Method(**parts, settings={"instruction": SAID, "when": "never"})
        with pytest.raises(ConfigError, match="settings.instruction: unknown key"):
            entry.check(SECTIONS, "methods.x")
    with pytest.raises(ConfigError, match="instruction: 3 is no text"):
        Method(settings={"instruction": 3}).check(SECTIONS, "methods.x")
    tuned = Method(grid={"instruction": ("", SAID)})
    tuned.check(SECTIONS, "methods.x")
    assert [point["instruction"] for point in tuned.points()] == ["", SAID]
    assert tuned.asks_anew
    assert not Method(settings={"when": "never"}).asks_anew


def test_other_questions_are_asked_behind_the_same_instruction(tmp_path, model):
    split = Split(("q0",), ("q1",), ("q2",))
    for said in (None, SAID):
        settings = {} if said is None else {"instruction": said}
        bundle = bundle_of(model.fingerprint, **settings)
        about = {
            **bundle.about,
            "questions": {"seen": [key for q in QUESTIONS[:2] for key in q.keys]},
        }
        for purpose in ("generation", "mc2"):
            path = bundle_path(tmp_path, "asked", 0, purpose)
            replace(bundle, about=about).save(path)
        other = StageSettings(
            prompt=PromptSettings(question="Frage: {question}"),
            scoring=ScoringSettings(start="first"),
            decoding=DecodingSettings(tokens=3),
        )
        loaded = Bundles(tmp_path, ["asked"], other).load("asked", 0, QUESTIONS, split)
        for bundle in loaded.values():
            assert bundle.prompt == instructed(other.prompt, said)
            assert bundle.scoring == other.scoring != SECTIONS.scoring
            assert bundle.decoding == SECTIONS.decoding.model_copy(update={"tokens": 3})
            assert bundle.policy.when == "never"
