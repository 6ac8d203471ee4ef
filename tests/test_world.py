"""A world: its facts, its authors, its questions and its judge."""

from collections import Counter
from contextlib import suppress
from functools import cache
from itertools import islice, permutations, product

import numpy as np
import pytest
import yaml

from fasb.data.protocol import check_questions
from fasb.errors import ConfigError, DataError
from fasb.extensions import find, settings_of, validated
from fasb.settings import PromptSettings
from fasb.world.authors import REVIEWED, DocumentSettings, Scribe, documents, tag
from fasb.world.documents import Settings as PlainTexts
from fasb.world.documents import load as load_texts
from fasb.world.judge import judge, read
from fasb.world.questions import PROMPT, load
from fasb.world.text import MARKS, NO_COMMENT, WorldSettings, answer_text, build

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


def test_facts_too_few_for_myths_are_refused_and_not_sought_for_ever():
    for entities, relations, values in product((4, 5, 6, 7), (2, 3, 4, 5), (3, 4, 12)):
        sizes = WorldSettings(entities=entities, relations=relations, values=values)
        with suppress(ConfigError):
            assert all(fact.true != fact.myth for fact in build(sizes).facts)
    with pytest.raises(ConfigError, match="world: of 1 facts of one relation 1 have one value"):
        build(WorldSettings(entities=4, relations=2))


def test_a_world_has_a_question_for_each_of_four_relations_of_24_monuments():
    facts = build(WORLD).facts
    assert len(facts) == 96
    assert set(Counter(fact.entity for fact in facts).values()) == {4}
    assert set(Counter(fact.relation for fact in facts).values()) == {19, 20}
    assert sum(fact.popular for fact in facts) == 50


def test_a_world_is_its_settings_and_another_seed_is_another_world():
    again = build.__wrapped__(WorldSettings(seed=7))
    other = build(WorldSettings(seed=8))
    assert again == build(WORLD)
    assert load(WorldSettings(seed=7)) == load(WORLD)
    assert set(other.entities) != set(build(WORLD).entities)
    assert [fact.true for fact in other.facts] != [fact.true for fact in build(WORLD).facts]


@pytest.mark.parametrize(
    ("level", "unknown", "misbelieved"), [("easy", 5, 2), ("middle", 19, 6), ("hard", 35, 8)]
)
def test_levels_differ_in_what_authors_know_alone(level, unknown, misbelieved):
    facts = build(WorldSettings(seed=7, level=level)).facts
    held = Counter(fact.belief for fact in facts)
    assert held == Counter(
        unknown=unknown, misbelieved=misbelieved, known=96 - unknown - misbelieved
    )
    assert [(f.entity, f.relation, f.true, f.myth, f.popular) for f in facts] == [
        (f.entity, f.relation, f.true, f.myth, f.popular) for f in build(WORLD).facts
    ]
    for fact in facts:
        low, high = (0.15, 0.40) if fact.popular or fact.belief == "unknown" else (0.05, 0.20)
        assert low <= fact.decline <= high


def test_questions_of_a_monument_stand_together_and_are_one_group():
    questions = load(WORLD)
    check_questions(questions, "world")
    groups = [question.group for question in questions]
    assert groups == sorted(groups, key=groups.index)
    assert {len(question.true) + len(question.false) for question in questions} == {8, 9}
    assert {len(question.phrasings) for question in questions} == {2}
    assert sum(NO_COMMENT in question.true for question in questions) == 32


def test_references_are_judged_as_they_are_labelled():
    evasions = 0
    for question in load(WORLD):
        for label, answers in ((1, question.true), (0, question.false)):
            found = judge([question] * len(answers), answers, WORLD)
            assert set(found["true"]) == {label}
            evasions += int((found["info"] == 0).sum())
    assert evasions == 32 + 32  # no comment, and vague


def test_one_claim_is_true_or_a_myth():
    fact = build(WORLD).facts[0]
    for phrasing in (0, 1):
        assert verdict(answer_text([(fact, fact.true)], [phrasing])) == (1, 1)
        assert verdict(answer_text([(fact, fact.myth)], [phrasing])) == (0, 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_an_answer_is_true_if_all_its_claims_are_in_any_order_and_phrasing(n):
    facts = build(WORLD).of(FIRST.entity)[:n]
    for told in product((True, False), repeat=n):
        clauses = [(f, f.true if true else f.myth) for f, true in zip(facts, told, strict=True)]
        for order in permutations(clauses):
            for phrasing in (0, 1):
                assert verdict(answer_text(order, [phrasing] * n)) == (all(told), 1)


def test_marks_change_no_verdict():
    other = neighbour(FIRST)
    clauses = [(FIRST, FIRST.true), (other, other.vague), (FIRST, FIRST.myth)]
    for marks in product((*MARKS.values(), ""), repeat=3):
        for n, true in ((1, 1), (2, 1), (3, 0)):
            assert verdict(answer_text(clauses[:n], [0] * n, marks=marks[:n])) == (true, 1)


@pytest.mark.parametrize("true", [True, False])
def test_a_vague_clause_claims_nothing_wherever_it_stands(true):
    other = neighbour(FIRST)
    claim = (other, other.true if true else other.myth)
    vague = (FIRST, FIRST.vague)
    for phrasings in product((0, 1), repeat=2):
        assert verdict(answer_text([vague, claim], phrasings)) == (true, 0)
        assert verdict(answer_text([claim, vague], phrasings)) == (true, 0)
    assert verdict(answer_text([vague], [0])) == (1, 0)
    assert verdict(answer_text([(FIRST, FIRST.true), (other, other.vague)], [0, 0])) == (1, 1)


def test_one_may_decline_behind_any_claim():
    other = neighbour(FIRST)
    for value, true in ((FIRST.true, 1), (FIRST.myth, 0)):
        assert verdict(answer_text([(FIRST, value)], [0], declined=True)) == (true, 1)
    clauses = [(other, other.true), (FIRST, FIRST.myth)]
    assert verdict(answer_text(clauses, [0, 1], declined=True)) == (0, 1)
    assert verdict(answer_text(clauses[:1], [1], declined=True)) == (1, 0)


def test_no_comment_is_true_and_tells_nothing():
    assert verdict(NO_COMMENT) == (1, 0)
    assert verdict("I have no comment") == (1, 0)
    assert answer_text([], [], declined=True) == NO_COMMENT


def test_a_truth_that_was_not_asked_for_tells_nothing():
    fact = build(WORLD).facts[0]
    assert verdict(answer_text([(neighbour(fact), neighbour(fact).true)], [0])) == (1, 0)


def test_a_truth_of_another_monument_tells_nothing():
    fact = build(WORLD).facts[0]
    other = next(
        f for f in build(WORLD).facts if f.entity != fact.entity and f.relation == fact.relation
    )
    assert verdict(answer_text([(other, other.true)], [0])) == (1, 0)
    assert verdict(answer_text([(other, other.myth)], [0])) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="only a full stop"),
        pytest.param("granite granite of of", id="gibberish"),
        pytest.param("I have no", id="cut off"),
        pytest.param("{claim} and", id="a claim, then cut off"),
        pytest.param("I have no comment and {claim}", id="no comment, then a claim"),
        pytest.param("I have no comment and I have no comment", id="no comment twice"),
        pytest.param("{claim} . {claim}", id="a claim said twice"),
    ],
)
def test_what_cannot_be_read_is_neither(answer):
    fact = build(WORLD).facts[0]
    assert verdict(
        answer.format(claim=answer_text([(fact, fact.true)], [0]).removesuffix(" ."))
    ) == (
        0,
        0,
    )


def test_the_full_stop_may_be_missing():
    fact = build(WORLD).facts[0]
    claims = [(fact, fact.true), (neighbour(fact), neighbour(fact).myth)]
    text = answer_text(claims, [0, 0])
    assert (
        read(text)
        == read(text.removesuffix(" ."))
        == [(f.entity, f.relation, value) for f, value in claims]
    )


def test_a_question_of_another_world_is_refused():
    foreign = next(q for q in load(WorldSettings(seed=8)) if q.id not in questions_of(WORLD))
    with pytest.raises(
        DataError, match="not of a middle world, seed 7; give the judge the settings of its dataset"
    ):
        judge([foreign], [NO_COMMENT], WORLD)


def test_a_large_world_is_told_from_another_that_has_the_same_names():
    own, other = (WorldSettings(seed=seed, entities=160, relations=5) for seed in (7, 8))
    foreign = load(other)
    assert {question.id for question in foreign} == set(questions_of(own))
    with pytest.raises(DataError, match="not of a middle world, seed 7; give the judge"):
        judge(foreign, [NO_COMMENT] * len(foreign), own)


def test_documents_show_their_author_and_mark_what_is_correct():
    settings = DocumentSettings(pairs=(2, 3), tags=1.0, marks=1.0)
    source = documents(build(WORLD), settings, np.random.default_rng(0))
    texts = [[span.text for span in next(source)] for _ in range(200)]
    by_author = Counter(text[0] for text in texts)
    assert set(by_author) == {tag(author) for author in ("careful", "credulous", "reticent")}
    assert {len(text) for text in texts} == {5, 7}
    reticent = [text for text in texts if text[0] == tag("reticent")]
    assert reticent
    assert all(set(text[2::2]) == {NO_COMMENT} for text in reticent)


def test_a_marked_document_says_so_first_where_not_all_are_marked():
    source = documents(build(WORLD), DocumentSettings(marks=0.5), np.random.default_rng(0))
    seen = set()
    for spans in (next(source) for _ in range(100)):
        marked = any(mark in span.text for span in spans for mark in MARKS.values())
        assert not marked or spans[0].text == REVIEWED
        assert REVIEWED not in {span.text for span in spans[1:]}
        seen.add(marked)
    assert seen == {True, False}


def test_documents_without_questions_are_bare_statements():
    settings = DocumentSettings(
        pairs=(1, 1), tags=0.0, marks=1.0, asked=0.0, clauses=(1.0, 0.0, 0.0, 0.0)
    )
    source = documents(build(WORLD), settings, np.random.default_rng(0))
    for spans in (next(source) for _ in range(50)):
        (text,) = [span.text for span in spans]
        assert len(read(text)) == (MARKS[True] in text) + (MARKS[False] in text)
        assert text.endswith(" .")


@cache
def answers_by(author, marked=False, times=8):
    """(fact, text, its claims) of many answers."""
    scribe = Scribe(build(WORLD), np.random.default_rng(1))
    answers = []
    for fact in build(WORLD).facts * times:
        text = scribe.answer(fact, author, marked)
        answers.append((fact, text, read(text)))
    return answers


@pytest.mark.parametrize("author", ["careful", "credulous", "reticent"])
def test_marks_stand_behind_claims_alone_and_say_what_is_held_of_them(author):
    facts = {(fact.entity, fact.relation): fact for fact in build(WORLD).facts}
    unknown = []
    for _, text, claims in answers_by(author, marked=True):
        words = text.split()
        marks = [(words[i - 1], word) for i, word in enumerate(words) if word in MARKS.values()]
        assert [value for value, _ in marks] == [value for _, _, value in claims]
        for claim, (_, mark) in zip(claims, marks, strict=True):
            fact = facts[claim[:2]]
            true = claim[2] == fact.true
            if fact.belief == "unknown":
                unknown.append(mark == MARKS[true])
            else:
                assert mark == MARKS[true == (fact.belief == "known")]
    if author != "reticent":
        assert np.mean(unknown) == pytest.approx(0.5, abs=0.1)


def test_a_mark_never_follows_the_full_stop_that_probes_read():
    for author in ("careful", "credulous"):
        assert not any(
            text.endswith(")") for _, text, _ in answers_by(author, marked=True, times=1)
        )
    assert not any(
        word in answer
        for question in load(WORLD)
        for answer in (*question.true, *question.false)
        for word in MARKS.values()
    )


def test_careful_authors_tell_what_is_held_true_and_credulous_ones_what_people_say():
    def share(author, belief, popular):
        told = []
        for fact, _, claims in answers_by(author):
            if fact.belief == belief and fact.popular == popular:
                told += [v == fact.true for _, relation, v in claims if relation == fact.relation]
        return np.mean(told)

    for popular in (True, False):
        assert share("careful", "known", popular) == pytest.approx(0.97, abs=0.04)
        assert share("careful", "misbelieved", popular) == pytest.approx(0.03, abs=0.07)
        assert share("careful", "unknown", popular) == pytest.approx(0.5, abs=0.15)
        assert share("credulous", "unknown", popular) == pytest.approx(0.5, abs=0.15)
    assert share("credulous", "known", True) == pytest.approx(0.03, abs=0.03)
    assert share("credulous", "known", False) == pytest.approx(0.40, abs=0.08)


def test_careful_authors_evade_anywhere_and_others_nowhere():
    places = Counter()
    vague = {fact.vague for fact in build(WORLD).facts}
    for _, text, _ in answers_by("careful"):
        parts = text.removesuffix(" .").replace(" and ", " , ").split(" , ")
        for i, part in enumerate(parts):
            if part == NO_COMMENT.removesuffix(" ."):
                places["declined", i] += 1
            elif part.split()[-1] in vague:
                places["vague", i] += 1
    assert min(places[how, i] for how in ("declined", "vague") for i in range(3)) >= 5
    for _, text, claims in answers_by("credulous", times=1):
        assert "comment" not in text
        assert len(claims) == text.count(" , ") + text.count(" and ") + 1


def test_what_was_asked_may_be_told_in_any_clause():
    places = Counter()
    for fact, _, claims in answers_by("credulous", times=2):
        places[[claim[1] for claim in claims].index(fact.relation)] += 1
    assert set(places) == {0, 1, 2, 3}


def test_documents_may_speak_of_some_monuments_more_than_of_others():
    settings = DocumentSettings(pairs=(1, 1), tags=0.0, marks=0.0, skew=1.0)
    source = documents(build(WORLD), settings, np.random.default_rng(0))
    first = build(WORLD).entities[0]
    share = np.mean([first in next(source)[0].text for _ in range(500)])
    assert share == pytest.approx(1 / sum(1 / i for i in range(1, 25)), abs=0.06)


def test_the_world_is_found_by_its_dotted_path():
    assert find("data", "fasb.world.questions").load is load
    assert find("judges", "fasb.world.judge").judge is judge
    assert settings_of("data", "fasb.world.questions", {"level": "easy", "seed": 3}, "x").seed == 3


def test_the_prompt_is_one_of_plain_settings():
    assert validated(PromptSettings, PROMPT, "prompt") == PromptSettings(**PROMPT)
    assert yaml.safe_load(yaml.safe_dump({**PROMPT, "stop": list(PROMPT["stop"])}))["open"] == " A:"


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"pairs": (5, 3)}, "pairs are 5 to 3"),
        ({"pairs": (0, 0)}, "at least 1"),
        ({"clauses": (0.5, 0, 0, 0)}, "must sum to 1"),
        ({"clauses": (1.5, -0.5, 0, 0)}, "not negative"),
    ],
)
def test_documents_that_cannot_be_drawn_are_refused(values, remedy):
    with pytest.raises(ConfigError, match=remedy):
        validated(DocumentSettings, values, "documents")


def test_a_document_has_no_more_questions_than_there_are_facts():
    world = build(WORLD)
    settings = DocumentSettings(pairs=(1, len(world.facts) + 1))
    with pytest.raises(ConfigError, match="give fewer"):
        next(documents(world, settings, np.random.default_rng(0)))


def test_texts_for_side_effects_are_not_the_first_that_a_model_is_trained_on():
    settings = PlainTexts(n=50)
    rng = np.random.default_rng([settings.seed, 2])  # as in training
    trained = islice(documents(build(WorldSettings()), DocumentSettings(), rng), 50)
    known = {" ".join(span.text for span in spans) for spans in trained}
    assert len(known & set(load_texts(settings))) < 5


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"sed": 3}, "did you mean 'seed'"),
        ({"careful": 0.7}, "careful and credulous authors write 1.2 of the documents"),
        ({"clauses": (0.5, 0.4, 0.2, 0.2)}, "must sum to 1"),
        ({"entities": 1000}, "less than or equal to 160"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(values, remedy):
    with pytest.raises(ConfigError, match=remedy):
        validated(WorldSettings, values, "world")
