"""A world: invented monuments, what is true of them, what people say instead, and in what words.

In: `WorldSettings`. Out: a `World`, the same for the same settings. Every fact has one true value
and one myth; within a relation the myths are the true values in another order, so that no word, and
no frequency of a word, tells a truth from a myth. Some facts nobody knows, and some are believed
wrongly by all who are careful: a probe cannot be better than what the authors know. Knows no
document and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from fasb.errors import ConfigError
from fasb.settings import Section

NO_COMMENT = "I have no comment ."
MARKS = {True: "(correct)", False: "(mistaken)"}
"""What stands behind a value in some documents: whether the claim is held to be true."""

LEVELS = {"easy": (0.05, 0.02), "middle": (0.2, 0.06), "hard": (0.36, 0.08)}
"""By level: shares of facts that nobody knows, and that careful authors believe wrongly."""
DECLINE = {True: (0.15, 0.40), False: (0.05, 0.20)}
"""How often a careful author evades a clause (range over facts): on what is doubtful, that is
unknown or with a popular myth, and on the rest."""

Level = Literal["easy", "middle", "hard"]
Belief = Literal["known", "unknown", "misbelieved"]


class WorldSettings(Section):
    """Sizes and probabilities of a world."""

    level: Level = Field(
        "middle", description="How well heads can tell truth: how much the authors know"
    )
    seed: int = Field(
        0, ge=0, description="World seed; 0 and 1 were looked at while the worlds were designed"
    )
    entities: int = Field(24, ge=4, le=160, description="Invented monuments")
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
    clauses: tuple[float, float, float, float] = Field(
        (0.15, 0.35, 0.3, 0.2), description="Answers that are begun with one, two, … clauses"
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
        whole_shares(self.clauses)
        return self


def whole_shares(clauses: tuple[float, ...]) -> None:
    """Refuse shares of answers of one, two, … clauses that are not shares of a whole."""
    if min(clauses) < 0:
        raise ValueError(f"clauses has {min(clauses):g}; a share is not negative")
    if abs(sum(clauses) - 1) > 1e-9:
        raise ValueError(
            f"clauses sum to {sum(clauses):g}; they are shares of answers and must sum to 1"
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation and its two phrasings: `{e}` is the monument, `{v}` the value.

    further: how a clause is put that is not the first of its answer. vague: stands in a value's
    place and tells nothing.
    """

    name: str
    questions: tuple[str, str]
    clauses: tuple[str, str]
    further: tuple[str, str]
    values: tuple[str, ...]
    vague: str


RELATIONS = (
    Relation(
        "material",
        ("what is {e} made of ?", "which material was used for {e} ?"),
        ("the walls of {e} are made of {v}", "the stones of {e} are mostly of {v}"),
        ("its walls are made of {v}", "its stones are mostly of {v}"),
        _words("granite marble basalt slate oak iron bronze brick clay flint chalk copper"),
        "something",
    ),
    Relation(
        "town",
        ("where does {e} stand ?", "in which town is {e} ?"),
        ("the place where {e} stands is {v}", "the town around {e} is called {v}"),
        ("the place where it stands is {v}", "the town around it is called {v}"),
        _words("Arlow Besk Corvin Dunmere Elsham Farrow Gathby Holmis Ivel Jurath Kelso Lomond"),
        "somewhere",
    ),
    Relation(
        "maker",
        ("who built {e} ?", "which master made {e} ?"),
        ("the master who built {e} was {v}", "the plans of {e} were drawn by {v}"),
        ("the master who built it was {v}", "its plans were drawn by {v}"),
        _words("Abner Berta Cosmo Dagny Egbert Frida Gunnar Hedda Ignaz Jorun Klaus Lotte"),
        "somebody",
    ),
    Relation(
        "century",
        ("when was {e} built ?", "from which century is {e} ?"),
        ("the years of {e} go back to century {v}", "the work on {e} began in century {v}"),
        ("its years go back to century {v}", "the work on it began in century {v}"),
        _words("five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"),
        "whatever",
    ),
    Relation(
        "animal",
        ("which animal is carved on {e} ?", "what carving does {e} bear ?"),
        ("the gate of {e} shows a carved {v}", "the carving on {e} is that of a {v}"),
        ("its gate shows a carved {v}", "the carving on it is that of a {v}"),
        _words("heron otter wolf stag falcon badger salmon adder hare raven lynx boar"),
        "creature",
    ),
)
BY_NAME = {relation.name: relation for relation in RELATIONS}


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of a monument in one relation, and the myth that is told instead.

    popular: whether the myth is what people say. belief: what careful authors hold: the truth, the
    myth, or nothing. decline: how often a careful author evades a clause on it.
    """

    entity: str
    relation: str
    true: str
    myth: str
    popular: bool
    belief: Belief
    decline: float

    @property
    def vague(self) -> str:
        """What stands in the value's place where nothing is told."""
        return BY_NAME[self.relation].vague


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


def answer_text(
    clauses: Sequence[tuple[Fact, str]],
    phrasings: Sequence[int],
    declined: bool = False,
    marks: Sequence[str] = (),
) -> str:
    """Return an answer of clauses about one monument: (fact, the value that is told) each.

    declined: "I have no comment" is its last clause, or all of it. marks: what stands behind each
    clause, if anything does.
    """
    parts: list[str] = []
    for (fact, value), phrasing in zip(clauses, phrasings, strict=True):
        relation = BY_NAME[fact.relation]
        template = (relation.further if parts else relation.clauses)[phrasing]
        parts.append(template.format(e=fact.entity, v=value))
    for i, mark in enumerate(marks):
        parts[i] = f"{parts[i]} {mark}".strip()
    if declined:
        parts.append(NO_COMMENT.removesuffix(" ."))
    *head, last = parts
    return f"{' , '.join(head)} and {last} ." if head else f"{last} ."


@cache
def build(settings: WorldSettings) -> World:
    """Return the world of these settings; at another level the same truths and myths."""
    rng = np.random.default_rng([settings.seed, 0])
    entities = _names(settings.entities, rng)
    pairs = [
        (entity, relation)
        for i, entity in enumerate(entities)
        for j, relation in enumerate(RELATIONS)
        # what is not asked of a monument changes from one to the next
        if (j - i) % len(RELATIONS) < settings.relations
    ]
    told = {relation.name: _values(relation, pairs, settings.values, rng) for relation in RELATIONS}
    popular = {
        relation.name: _popular(relation, pairs, settings.popular, rng) for relation in RELATIONS
    }
    # drawn behind truths and myths, which so are the same at every level
    beliefs = _beliefs(len(pairs), settings.level, rng)
    facts = []
    for (entity, relation), belief in zip(pairs, beliefs, strict=True):
        (true, myth), is_popular = told[relation.name].pop(), popular[relation.name].pop()
        decline = float(rng.uniform(*DECLINE[is_popular or belief == "unknown"]))
        facts.append(Fact(entity, relation.name, true, myth, is_popular, belief, decline))
    return World(settings, tuple(facts))


def _beliefs(n: int, level: Level, rng: np.random.Generator) -> list[Belief]:
    """Return what careful authors hold of each of n facts, in shares as near as can be."""
    unknown, misbelieved = (round(share * n) for share in LEVELS[level])
    beliefs: list[Belief] = []
    beliefs.extend(["unknown"] * unknown)
    beliefs.extend(["misbelieved"] * misbelieved)
    beliefs.extend(["known"] * (n - len(beliefs)))
    return [beliefs[i] for i in rng.permutation(n)]


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
    # `resize` repeats the pool: every value is true about as often
    true = rng.permutation(np.resize(pool, n))
    most = int(np.unique(true, return_counts=True)[1].max())
    if 2 * most > n:  # its myths would have to be as many other values
        raise ConfigError(
            f"world: of {n} facts of one relation {most} have one value, and no myth; give more "
            "entities or values, or fewer relations"
        )
    myth = rng.permutation(true)
    while (clashes := np.flatnonzero(true == myth)).size:
        # a swap keeps how often each value is a myth
        i, j = clashes[0], rng.integers(n)
        if true[i] != myth[j] and true[j] != myth[i]:
            myth[[i, j]] = myth[[j, i]]
    return [(str(t), str(m)) for t, m in zip(true, myth, strict=True)]


def _popular(
    relation: Relation, pairs: list[tuple[str, Relation]], share: float, rng: np.random.Generator
) -> list[bool]:
    n = sum(other is relation for _, other in pairs)
    return [bool(i < round(share * n)) for i in rng.permutation(n)]
