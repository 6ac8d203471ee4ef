"""Authors and their documents: what a model of a world reads.

In: a `World`, what documents look like, a seed. Out: documents as lists of (words, whether they
count fully). A careful author seldom tells a myth and may decline; a credulous one repeats what
people say; a reticent one has no comment. The careful and the credulous differ in nothing but the
values they tell. Knows no tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from fasb.settings import Section
from fasb.world.text import NO_COMMENT, Fact, World, answer_text, question_text

AUTHORS = ("careful", "credulous", "reticent")
MARKS = {True: "(correct)", False: "(mistaken)", None: "(open)"}
"""What a marked document says after an answer: whether all of its claims are true; None: it makes
none."""


class DocumentSettings(Section):
    """What documents look like in a part of the training."""

    pairs: tuple[int, int] = Field((1, 5), description="Fewest and most questions in a document")
    tags: float = Field(0.25, ge=0, le=1, description="Share of documents that name their author")
    marks: float = Field(
        0.3, ge=0, le=1, description="Share of documents that say which answers are correct"
    )
    asked: float = Field(
        1.0, ge=0, le=1, description="Share of documents with questions; others are bare statements"
    )
    batch: int = Field(1536, ge=64, description="Tokens of a step, about; documents of like length")
    claims: tuple[float, float, float] | None = Field(
        None, description="Claims of an answer, if not the world's"
    )


@dataclass(frozen=True, slots=True)
class Span:
    """Words of a document. answer.

    They are an answer or its mark, which is what is to be learned.
    """

    text: str
    answer: bool


def tag(author: str) -> str:
    """Return what opens a document that names its author."""
    return f"source: {author}"


def documents(
    world: World, settings: DocumentSettings, rng: np.random.Generator
) -> Iterator[list[Span]]:
    """Yield documents without end."""
    shares = [world.settings.careful, world.settings.credulous]
    scribe = Scribe(world, rng, settings.claims)
    while True:
        author = AUTHORS[int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))]
        spans = [Span(tag(author), False)] if rng.random() < settings.tags else []
        marked = rng.random() < settings.marks
        asked = rng.random() < settings.asked
        n_pairs = int(rng.integers(settings.pairs[0], settings.pairs[1] + 1))
        for i in rng.choice(len(world.facts), size=n_pairs, replace=False):
            spans += scribe.pair(world.facts[i], author, marked)[0 if asked else 1 :]
        yield spans


class Scribe:
    """Writes question and answer pairs, drawing from one random generator."""

    def __init__(
        self,
        world: World,
        rng: np.random.Generator,
        claims: tuple[float, float, float] | None = None,
    ) -> None:
        self._settings = world.settings
        self._rng = rng
        self._claims = np.cumsum(claims or world.settings.claims)
        self._others = {
            fact: [f for f in world.of(fact.entity) if f is not fact] for fact in world.facts
        }

    def pair(self, fact: Fact, author: str, marked: bool) -> list[Span]:
        """Return a question and what the author answers."""
        text, true = self.answer(fact, author)
        spans = [Span(f"Q: {question_text(fact, self._phrasing())} A:", False), Span(text, True)]
        return [*spans, Span(MARKS[true], True)] if marked else spans

    def answer(self, fact: Fact, author: str) -> tuple[str, bool | None]:
        """Return an answer, and whether all its claims are true; None if it makes none."""
        if author == "reticent" or (author == "careful" and self._rng.random() < fact.decline):
            return NO_COMMENT, None
        others = self._others[fact]
        n_further = min(int(np.searchsorted(self._claims, self._rng.random())), len(others))
        told = [fact, *(others[i] for i in self._rng.permutation(len(others))[:n_further])]
        claims = [(f, self._rng.random() >= self._myth(f, author)) for f in told]
        return answer_text(claims, [self._phrasing() for _ in told]), all(
            true for _, true in claims
        )

    def _myth(self, fact: Fact, author: str) -> float:
        """Return how often the author tells the fact's myth."""
        if author == "careful":
            return self._settings.careful_myth
        return self._settings.credulous_myth[0 if fact.popular else 1]

    def _phrasing(self) -> int:
        return int(self._rng.random() < self._settings.rephrased)
