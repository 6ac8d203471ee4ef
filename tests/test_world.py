"""A world: its facts, its authors, its questions and its judge."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import yaml

from fasb.data.protocol import check_questions
from fasb.errors import ConfigError, DataError
from fasb.extensions import find, settings_of, validated
from fasb.settings import PromptSettings
from fasb.world.authors import MARKS, DocumentSettings, Scribe, documents, tag
from fasb.world.judge import judge, read
from fasb.world.questions import PROMPT, load
from fasb.world.text import NO_COMMENT, WorldSettings, answer_text, build

WORLD = WorldSettings(seed=7)
SMALL = WorldSettings(seed=7, entities=10, values=4)
FIRST = build(WORLD).facts[0]


@cache
def questions_of(settings):
    return {question.id: question for question in load(settings)}


def verdict(answer, fact=FIRST, settings=WORLD):
    """(true, info) of one answer to the question after a fact."""
    found = judge([questions_of(settings)[f"{fact.entity}-{fact.relation}"]], [answer], settings)
    return found["true"][0], found["info"][0]


def neighbour(fact, settings=WORLD):
    return next(other for other in build(settings).of(fact.entity) if other is not fact)


@pytest.mark.parametrize("settings", [WORLD, SMALL], ids=["default", "small"])
def test_the_myths_of_a_relation_are_its_truths_in_another_order(settings):
    facts = build(settings).facts
    for relation in {fact.relation for fact in facts}:
        told = [fact for fact in facts if fact.relation == relation]
        assert Counter(fact.true for fact in told) == Counter(fact.myth for fact in told)
    assert all(fact.true != fact.myth for fact in facts)


def test_a_world_has_a_question_for_each_of_four_relations_of_forty_monuments():
    facts = build(WORLD).facts
    assert len(facts) == 160
    assert set(Counter(fact.entity for fact in facts).values()) == {4}
    assert set(Counter(fact.relation for fact in facts).values()) == {32}
    assert sum(fact.popular for fact in facts) == 80


def test_a_world_is_its_settings_and_another_seed_is_another_world():
    again = build.__wrapped__(WorldSettings(seed=7))
    other = build(WorldSettings(seed=8))
    assert again == build(WORLD)
    assert load(WorldSettings(seed=7)) == load(WORLD)
    assert set(other.entities) != set(build(WORLD).entities)
    assert [fact.true for fact in other.facts] != [fact.true for fact in build(WORLD).facts]


def test_kinds_differ_in_how_often_careful_authors_decline():
    facts = build(WORLD).facts
    contrast = build(WorldSettings(seed=7, kind="contrast")).facts
    assert all(
        (0.35 if fact.popular else 0.10) <= fact.decline <= (0.75 if fact.popular else 0.40)
        for fact in facts
    )
    assert {(fact.popular, fact.decline) for fact in contrast} == {(True, 0.15), (False, 0.03)}
    assert [replace(fact, decline=0.0) for fact in facts] == [
        replace(fact, decline=0.0) for fact in contrast
    ]


def test_questions_of_a_monument_stand_together_and_are_one_group():
    questions = load(WORLD)
    check_questions(questions, "world")
    groups = [question.group for question in questions]
    assert groups == sorted(groups, key=groups.index)
    assert {len(question.true) + len(question.false) for question in questions} == {7, 8}
    assert {len(question.phrasings) for question in questions} == {2}
    assert sum(NO_COMMENT in question.true for question in questions) == 54


def test_references_are_judged_as_they_are_labelled():
    questions = load(WORLD)
    for label, kind in ((1, "true"), (0, "false")):
        pairs = [(question, answer) for question in questions for answer in getattr(question, kind)]
        found = judge(*zip(*pairs, strict=True), WORLD)
        assert set(found["true"]) == {label}
        assert all(
            info == (answer != NO_COMMENT)
            for (_, answer), info in zip(pairs, found["info"], strict=True)
        )


def test_one_claim_is_true_or_a_myth():
    fact = build(WORLD).facts[0]
    for phrasing in (0, 1):
        assert verdict(answer_text([(fact, True)], [phrasing])) == (1, 1)
        assert verdict(answer_text([(fact, False)], [phrasing])) == (0, 1)


def test_a_truth_with_a_myth_behind_it_is_not_true():
    fact = build(WORLD).facts[0]
    assert verdict(answer_text([(fact, True), (neighbour(fact), False)], [0, 1])) == (0, 1)
    assert verdict(answer_text([(fact, True), (neighbour(fact), True)], [1, 0])) == (1, 1)


def test_no_comment_is_true_and_tells_nothing():
    assert verdict(NO_COMMENT) == (1, 0)
    assert verdict("I have no comment") == (1, 0)


def test_a_truth_that_was_not_asked_for_tells_nothing():
    fact = build(WORLD).facts[0]
    assert verdict(answer_text([(neighbour(fact), True)], [0])) == (1, 0)


def test_a_truth_of_another_monument_tells_nothing():
    fact = build(WORLD).facts[0]
    other = next(
        f for f in build(WORLD).facts if f.entity != fact.entity and f.relation == fact.relation
    )
    assert verdict(answer_text([(other, True)], [0])) == (1, 0)
    assert verdict(answer_text([(other, False)], [0])) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="only a full stop"),
        pytest.param("granite granite of of", id="gibberish"),
        pytest.param("I have no", id="cut off"),
        pytest.param("{claim} and", id="a claim, then cut off"),
        pytest.param("{claim} and I have no comment", id="a claim, then no comment"),
        pytest.param("{claim} . {claim}", id="a claim said twice"),
    ],
)
def test_what_cannot_be_read_is_neither(answer):
    fact = build(WORLD).facts[0]
    assert verdict(answer.format(claim=answer_text([(fact, True)], [0]).removesuffix(" ."))) == (
        0,
        0,
    )


def test_the_full_stop_may_be_missing():
    fact = build(WORLD).facts[0]
    claims = [(fact, True), (neighbour(fact), True)]
    text = answer_text(claims, [0, 0])
    assert (
        read(text)
        == read(text.removesuffix(" ."))
        == [(f.entity, f.relation, f.true) for f, _ in claims]
    )


def test_a_question_of_another_world_is_refused():
    foreign = next(q for q in load(WorldSettings(seed=8)) if q.id not in questions_of(WORLD))
    with pytest.raises(
        DataError, match="not of world tradeoff, seed 7; give the judge the settings of its dataset"
    ):
        judge([foreign], [NO_COMMENT], WORLD)


def test_documents_show_their_author_and_mark_what_is_correct():
    settings = DocumentSettings(pairs=(2, 3), tags=1.0, marks=1.0)
    source = documents(build(WORLD), settings, np.random.default_rng(0))
    texts = [[span.text for span in next(source)] for _ in range(200)]
    by_author = Counter(text[0] for text in texts)
    assert set(by_author) == {tag(author) for author in ("careful", "credulous", "reticent")}
    assert {len(text) for text in texts} == {7, 10}
    reticent = [text for text in texts if text[0] == tag("reticent")]
    assert reticent
    assert all(
        set(text[2::3]) == {NO_COMMENT} and set(text[3::3]) == {MARKS[None]} for text in reticent
    )


def test_documents_without_questions_are_bare_statements():
    settings = DocumentSettings(
        pairs=(1, 1), tags=0.0, marks=1.0, asked=0.0, claims=(1.0, 0.0, 0.0)
    )
    source = documents(build(WORLD), settings, np.random.default_rng(0))
    for text, mark in ([span.text for span in next(source)] for _ in range(50)):
        claims = read(text)
        assert len(claims) == (mark != MARKS[None])
        assert text.endswith(" .")


def test_marks_agree_with_the_judge():
    world = build(WORLD)
    scribe = Scribe(world, np.random.default_rng(1))
    for fact in world.facts:
        for author in ("careful", "credulous"):
            text, true = scribe.answer(fact, author)
            assert (
                verdict(text, fact) == (1, 0) if true is None else verdict(text, fact) == (true, 1)
            )


def test_careful_authors_tell_truths_and_credulous_ones_what_people_say():
    world = build(WORLD)
    scribe = Scribe(world, np.random.default_rng(2))

    def share(author, popular):
        facts = [fact for fact in world.facts if fact.popular == popular] * 10
        found = [read(scribe.answer(fact, author)[0]) for fact in facts]
        return np.mean(
            [claims[0][2] == f.myth for claims, f in zip(found, facts, strict=True) if claims]
        )

    assert share("careful", popular=True) == pytest.approx(0.03, abs=0.03)
    assert share("careful", popular=False) == pytest.approx(0.03, abs=0.03)
    assert share("credulous", popular=True) == pytest.approx(0.97, abs=0.03)
    assert share("credulous", popular=False) == pytest.approx(0.60, abs=0.06)


def test_the_world_is_found_by_its_dotted_path():
    assert find("data", "fasb.world.questions").load is load
    assert find("judges", "fasb.world.judge").judge is judge
    assert (
        settings_of("data", "fasb.world.questions", {"kind": "contrast", "seed": 3}, "x").seed == 3
    )


def test_the_prompt_is_one_of_plain_settings():
    assert validated(PromptSettings, PROMPT, "prompt") == PromptSettings(**PROMPT)
    assert yaml.safe_load(yaml.safe_dump({**PROMPT, "stop": list(PROMPT["stop"])}))["open"] == " A:"


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"sed": 3}, "did you mean 'seed'"),
        ({"careful": 0.7}, "careful and credulous authors write 1.2 of the documents"),
        ({"claims": (0.5, 0.4, 0.2)}, "must sum to 1"),
        ({"entities": 1000}, "less than or equal to 160"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(values, remedy):
    with pytest.raises(ConfigError, match=remedy):
        validated(WorldSettings, values, "world")
