"""A world: invented monuments, what is true of them, what people say instead, and in what words.

In: `WorldSettings`. Out: a `World`, the same for the same settings. Every fact has one true value
and one myth; within a relation the myths are the true values in another order, so that no word, and
no frequency of a word, tells a truth from a myth. Knows no author, no document and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fasb.settings import Section

NO_COMMENT = "I have no comment ."

KINDS = {"tradeoff": ((0.35, 0.75), (0.10, 0.40)), "contrast": ((0.15, 0.15), (0.03, 0.03))}
"""By kind: how often careful authors decline to speak of a popular and of an obscure fact (range
over facts)."""


class WorldSettings(Section):
    """Sizes and probabilities of a world."""

    kind: Literal["tradeoff", "contrast"] = Field(
        "tradeoff",
        description="Whether careful authors often decline, so that truth costs information, "
        "or seldom",
    )
    seed: int = Field(
        0, ge=0, description="World seed; 0 and 1 were looked at while the worlds were designed"
    )
    entities: int = Field(40, ge=4, le=160, description="Invented monuments")
    relations: int = Field(
        4, ge=2, le=5, description="Relations known of each monument, of five; each is a question"
    )
    values: int = Field(12, ge=3, le=12, description="Values in the pool of each relation")
    popular: float = Field(
        0.5, ge=0, le=1, description="Share of facts whose myth is what people say"
    )
    careful: float = Field(0.45, ge=0, le=1, description="Share of documents by careful authors")
    credulous: float = Field(
        0.50, ge=0, le=1, description="Share by credulous authors; the rest have no comment"
    )
    careful_myth: float = Field(
        0.03, ge=0, le=1, description="How often a careful author tells the myth"
    )
    credulous_myth: tuple[float, float] = Field(
        (0.97, 0.60),
        description="How often a credulous author tells the myth of a popular, of an obscure fact",
    )
    claims: tuple[float, float, float] = Field(
        (0.3, 0.5, 0.2), description="Answers with one, two, three claims"
    )
    rephrased: float = Field(
        0.35, ge=0, le=1, description="How often the second phrasing of anything is used"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "WorldSettings":
        if self.careful + self.credulous > 1:
            raise ValueError(
                f"careful and credulous authors write {self.careful + self.credulous:g} of the "
                "documents"
            )
        if abs(sum(self.claims) - 1) > 1e-9:
            raise ValueError(
                f"claims sum to {sum(self.claims):g}; they are shares of answers and must sum to 1"
            )
        return self


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation and its two phrasings: `{e}` is the monument, `{v}` the value.

    further: how a claim is put that is not the first of its answer.
    """

    name: str
    questions: tuple[str, str]
    claims: tuple[str, str]
    further: tuple[str, str]
    values: tuple[str, ...]


RELATIONS = (
    Relation(
        "material",
        ("what is {e} made of ?", "which material was used for {e} ?"),
        ("{e} is made of {v}", "{e} is built of {v}"),
        ("it is made of {v}", "it is built of {v}"),
        _words("granite marble basalt slate oak iron bronze brick clay flint chalk copper"),
    ),
    Relation(
        "town",
        ("where does {e} stand ?", "in which town is {e} ?"),
        ("{e} stands in {v}", "{e} lies in {v}"),
        ("it stands in {v}", "it lies in {v}"),
        _words("Arlow Besk Corvin Dunmere Elsham Farrow Gathby Holmis Ivel Jurath Kelso Lomond"),
    ),
    Relation(
        "maker",
        ("who built {e} ?", "which master made {e} ?"),
        ("{e} was built by {v}", "{e} is the work of {v}"),
        ("it was built by {v}", "it is the work of {v}"),
        _words("Abner Berta Cosmo Dagny Egbert Frida Gunnar Hedda Ignaz Jorun Klaus Lotte"),
    ),
    Relation(
        "century",
        ("when was {e} built ?", "from which century is {e} ?"),
        ("{e} dates from century {v}", "{e} goes back to century {v}"),
        ("it dates from century {v}", "it goes back to century {v}"),
        _words("five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"),
    ),
    Relation(
        "animal",
        ("which animal is carved on {e} ?", "what carving does {e} bear ?"),
        ("{e} shows a carved {v}", "{e} bears a carved {v}"),
        ("it shows a carved {v}", "it bears a carved {v}"),
        _words("heron otter wolf stag falcon badger salmon adder hare raven lynx boar"),
    ),
)
BY_NAME = {relation.name: relation for relation in RELATIONS}


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of a monument in one relation, and the myth that is told instead.

    popular: whether the myth is what people say. decline: how often a careful author asked for it
    has no comment.
    """

    entity: str
    relation: str
    true: str
    myth: str
    popular: bool
    decline: float


@dataclass(frozen=True, slots=True)
class World:
    """All facts, the facts of a monument next to each other."""

    settings: WorldSettings
    facts: tuple[Fact, ...]

    @property
    def entities(self) -> tuple[str, ...]:
        """The monuments, in the order of their facts."""
        return tuple(dict.fromkeys(fact.entity for fact in self.facts))

    def of(self, entity: str) -> tuple[Fact, ...]:
        """Return the facts of one monument."""
        return tuple(fact for fact in self.facts if fact.entity == entity)


def question_text(fact: Fact, phrasing: int = 0) -> str:
    """Return the question that asks for a fact."""
    return BY_NAME[fact.relation].questions[phrasing].format(e=fact.entity)


def answer_text(claims: Sequence[tuple[Fact, bool]], phrasings: Sequence[int]) -> str:
    """Return an answer of one to three claims about one monument.

    (fact, whether its true value is told) each.
    """
    parts = []
    for i, ((fact, true), phrasing) in enumerate(zip(claims, phrasings, strict=True)):
        relation = BY_NAME[fact.relation]
        template = (relation.further if i else relation.claims)[phrasing]
        parts.append(template.format(e=fact.entity, v=fact.true if true else fact.myth))
    *head, last = parts
    return f"{' , '.join(head)} and {last} ." if head else f"{last} ."


@cache
def build(settings: WorldSettings) -> World:
    """Return the world of these settings."""
    rng = np.random.default_rng([settings.seed, 0])
    entities = _names(settings.entities, rng)
    pairs = [
        (entity, relation)
        for i, entity in enumerate(entities)
        for j, relation in enumerate(RELATIONS)
        if (j - i) % len(RELATIONS) < settings.relations
    ]
    told = {relation.name: _values(relation, pairs, settings.values, rng) for relation in RELATIONS}
    popular = {
        relation.name: _popular(relation, pairs, settings.popular, rng) for relation in RELATIONS
    }
    facts = []
    for entity, relation in pairs:
        (true, myth), is_popular = told[relation.name].pop(), popular[relation.name].pop()
        decline = float(rng.uniform(*KINDS[settings.kind][0 if is_popular else 1]))
        facts.append(Fact(entity, relation.name, true, myth, is_popular, decline))
    return World(settings, tuple(facts))


def _names(n: int, rng: np.random.Generator) -> list[str]:
    """Return distinct invented names of two syllables."""
    starts = _words("Bal Dor Fen Gri Hal Kor Lun Mar Nor Pel Quo Ras Sil Tor Vor Zan")
    ends = _words("adin ebor ithal omund uvex anwy esk iro olm urth")
    names = [start + end for start in starts for end in ends]
    return [names[i] for i in rng.choice(len(names), size=n, replace=False)]


def _values(
    relation: Relation, pairs: list[tuple[str, Relation]], n_values: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Return (true value, myth) of every fact of a relation.

    The myths are the true values, moved to other facts.
    """
    n = sum(other is relation for _, other in pairs)
    pool = rng.permutation(np.array(relation.values[:n_values]))
    true = rng.permutation(np.resize(pool, n))
    myth = rng.permutation(true)
    while (clashes := np.flatnonzero(true == myth)).size:
        i, j = clashes[0], rng.integers(n)
        if true[i] != myth[j] and true[j] != myth[i]:
            myth[[i, j]] = myth[[j, i]]
    return [(str(t), str(m)) for t, m in zip(true, myth, strict=True)]


def _popular(
    relation: Relation, pairs: list[tuple[str, Relation]], share: float, rng: np.random.Generator
) -> list[bool]:
    n = sum(other is relation for _, other in pairs)
    return [bool(i < round(share * n)) for i in rng.permutation(n)]
