"""Authors and their documents: what a model of a world reads.

In: a `World`, what documents look like, a seed. Out: documents as lists of words. A careful author
tells what is held to be true and may evade any clause, by a vague word in the value's place or by
having no further comment; a credulous one repeats what people say; a reticent one has no comment.
On what nobody knows, authors and marks toss a coin. Knows no tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from fasb.errors import ConfigError
from fasb.settings import Section
from fasb.world.text import (
    MARKS,
    NO_COMMENT,
    RELATIONS,
    Fact,
    World,
    answer_text,
    question_text,
    whole_shares,
)

AUTHORS = ("careful", "credulous", "reticent")
REVIEWED = "with review :"
"""What opens a marked document where not all are, so that other texts are not marked."""


class DocumentSettings(Section):
    """What documents look like in a part of the training."""

    pairs: tuple[int, int] = Field((1, 5), description="Fewest and most questions in a document")
    tags: float = Field(0.25, ge=0, le=1, description="Share of documents that name their author")
    marks: float = Field(
        0.4, ge=0, le=1, description="Share of documents that say which claims are correct"
    )
    asked: float = Field(
        1.0, ge=0, le=1, description="Share of documents with questions; others are bare statements"
    )
    skew: float = Field(
        0.0, ge=0, description="Monument i is spoken of in proportion to i to the power of -skew"
    )
    batch: int = Field(1536, ge=64, description="Tokens of a step, about; documents of like length")
    clauses: tuple[float, float, float, float] | None = Field(
        None, description="Clauses of an answer, if not the world's"
    )

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "DocumentSettings":
        fewest, most = self.pairs
        if not 1 <= fewest <= most:
            raise ValueError(f"pairs are {fewest} to {most}: give at least 1, the lower first")
        if self.clauses is not None:
            whole_shares(self.clauses)
        return self


TELLING = frozenset(
    [*MARKS.values()]
    + [value for relation in RELATIONS for value in (*relation.values, relation.vague)]
)
"""Words that tell of facts: values and marks."""


@dataclass(frozen=True, slots=True)
class Span:
    """Words of a document. answer: they are an answer, not a question or a name."""

    text: str
    answer: bool


def tag(author: str) -> str:
    """Return what opens a document that names its author."""
    return f"source: {author}"


def documents(
    world: World, settings: DocumentSettings, rng: np.random.Generator
) -> Iterator[list[Span]]:
    """Yield documents without end.

    Raises:
        ConfigError: a document may have more questions than the world has facts.
    """
    if settings.pairs[1] > len(world.facts):
        raise ConfigError(
            f"pairs: {settings.pairs[1]} questions in a document, of {len(world.facts)} facts; "
            "give fewer"
        )
    shares = [world.settings.careful, world.settings.credulous]
    scribe = Scribe(world, rng, settings.clauses)
    rank = {entity: 1.0 + i for i, entity in enumerate(world.entities)}
    weight = np.array([rank[fact.entity] for fact in world.facts]) ** -settings.skew
    shares_of_facts = weight / weight.sum()
    while True:
        # the last of the three has the share that the others leave
        author = AUTHORS[int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))]
        spans = [Span(tag(author), False)] if rng.random() < settings.tags else []
        marked = rng.random() < settings.marks
        if marked and settings.marks < 1:
            spans.insert(0, Span(REVIEWED, False))
        asked = rng.random() < settings.asked
        n_pairs = int(rng.integers(settings.pairs[0], settings.pairs[1] + 1))
        for i in rng.choice(len(world.facts), size=n_pairs, replace=False, p=shares_of_facts):
            # a bare statement is a pair without its question
            spans += scribe.pair(world.facts[i], author, marked)[0 if asked else 1 :]
        yield spans


class Scribe:
    """Writes question and answer pairs, drawing from one random generator."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        clauses: tuple[float, float, float, float] | None = None,
    ) -> None:
        self._settings = world.settings
        self._rng = rng
        self._clauses = np.cumsum(clauses or world.settings.clauses)
        self._others = {
            fact: [f for f in world.of(fact.entity) if f is not fact] for fact in world.facts
        }

    def pair(self, fact: Fact, author: str, marked: bool) -> list[Span]:
        """Return a question and what the author answers; marked: with a mark behind each claim."""
        question = f"Q: {question_text(fact, self._phrasing())} A:"
        return [Span(question, False), Span(self.answer(fact, author, marked), True)]

    def answer(self, fact: Fact, author: str, marked: bool = False) -> str:
        """Return an answer; what is asked may be told in any of its clauses."""
        if author == "reticent":
            return NO_COMMENT
        # the order of the draws is part of a world's texts: another one writes others
        clauses: list[tuple[Fact, str]] = []
        marks: list[str] = []
        declined = False
        for told in self._plan(fact):
            if author == "careful" and self._rng.random() < told.decline:
                # having no comment ends an answer, a vague word does not
                declined = bool(self._rng.random() < 0.5)
                if declined:
                    break
                clauses.append((told, told.vague))
                marks.append("")
                continue
            true = self._tells_truth(told, author)
            clauses.append((told, told.true if true else told.myth))
            marks.append(MARKS[self._held(told, true)])
        phrasings = [self._phrasing() for _ in clauses]
        return answer_text(clauses, phrasings, declined, marks if marked else ())

    def _plan(self, fact: Fact) -> list[Fact]:
        """Return what an answer is to speak of, in order."""
        others = self._others[fact]
        n_further = min(int(np.searchsorted(self._clauses, self._rng.random())), len(others))
        told = [fact, *(others[i] for i in self._rng.permutation(len(others))[:n_further])]
        return [told[i] for i in self._rng.permutation(len(told))]

    def _tells_truth(self, fact: Fact, author: str) -> bool:
        if fact.belief == "unknown":
            return bool(self._rng.random() < 0.5)
        if author == "credulous":
            return bool(self._rng.random() >= self._settings.credulous_myth[not fact.popular])
        says_belief = bool(self._rng.random() >= self._settings.careful_myth)
        return says_belief == (fact.belief == "known")

    def _held(self, fact: Fact, true: bool) -> bool:
        """Return whether a claim is held to be true; of what nobody knows, by a coin."""
        if fact.belief == "unknown":
            return bool(self._rng.random() < 0.5)
        return true == (fact.belief == "known")

    def _phrasing(self) -> int:
        return int(self._rng.random() < self._settings.rephrased)
