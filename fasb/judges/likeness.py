"""What a reader sees of an answer beside its question's references: likeness in words, and flags.

In: questions with references, answers, how rare each stem is. Out: numbers, most of them in [0, 1].
Pure text; knows no training and no regression.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from fasb.data.protocol import Question

NOT = ("no", "not", "never", "none", "nothing", "nobody", "nowhere", "neither", "nor", "cannot")
"""Words of negation, beside those that end in n't."""
UNSEEN = 9.0
"""Rarity of a stem that no training answer has; the rarest that one has are about as rare."""
ENDINGS = ("ing", "ies", "ed", "es", "s", "ly")


def describe(
    questions: Sequence[Question], answers: Sequence[str], rarity: Mapping[str, float]
) -> Float[np.ndarray, "answer number"]:
    """Return the likeness to references, and flags, of each answer."""
    return np.array(
        [
            _flags(q, a, rarity) + _likeness(q, a, rarity)
            for q, a in zip(questions, answers, strict=True)
        ]
    )


def _flags(question: Question, answer: str, rarity: Mapping[str, float]) -> list[float]:
    words = _words(answer)
    first = words[0] if words else ""
    starts = [_words(reference)[:1] for reference in question.true]
    return [
        float(_negative(answer)),
        math.log1p(len(words)),
        float(len(words) <= 2),
        float(not words),
        *_overlap(stems(answer), stems(question.text), rarity),
        float(first == "yes"),
        float(first == "no"),
        float("no comment" in plain(answer)),
        float(answer.endswith("?")),
        float(answer.endswith((".", "!"))),
        len(set(words)) / max(len(words), 1),
        float(("no",) in starts),
        float(("yes",) in starts),
        float(bool(question.true)),
    ]


def _likeness(question: Question, answer: str, rarity: Mapping[str, float]) -> list[float]:
    """Return closest and average likeness to true and false references, and the difference."""
    sides = []
    for references in (question.true, question.false):
        compared = [_compared(question.text, answer, reference, rarity) for reference in references]
        table = np.array(compared or [[0.0] * LIKENESSES])
        # column 7 agrees in negation, 10 in the first word (`_compared`)
        closest = table[table[:, 0].argmax()]
        sides.append([*table.max(0), *table.mean(0), closest[7], closest[10]])
    return [*sides[0], *sides[1], *(true - false for true, false in zip(*sides, strict=True))]


LIKENESSES = 11


def _compared(
    question: str, answer: str, reference: str, rarity: Mapping[str, float]
) -> list[float]:
    """Return how like a reference an answer is; all in [0, 1]."""
    own, asked, other = stems(answer), stems(question), stems(reference)
    words = _overlap(own, other, rarity)
    pieces = _cosine(_pieces(answer), _pieces(reference))
    agree = float(_negative(answer) == _negative(reference))
    first = float(_words(answer)[:1] == _words(reference)[:1])
    beyond = _overlap(own - asked, other - asked, rarity)
    return [*words, *beyond, pieces, agree, pieces * agree, words[0] * agree, first]


def _overlap(
    one: frozenset[str], other: frozenset[str], rarity: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return the cosine of the two sets of stems by rarity, and the shared part of each."""
    if not one or not other:
        return 0.0, 0.0, 0.0
    shared = _total(one & other, rarity)
    left, right = _total(one, rarity), _total(other, rarity)
    return shared / math.sqrt(left * right + 1e-9), shared / (left + 1e-9), shared / (right + 1e-9)


def _total(stems: frozenset[str], rarity: Mapping[str, float]) -> float:
    # an exact sum: the order of a set's elements differs from run to run
    return math.fsum(rarity.get(stem, UNSEEN) for stem in stems)


def _cosine(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0


@lru_cache(maxsize=2**16)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9']+", text.casefold().replace("\u2019", "'")))


@lru_cache(maxsize=2**16)
def plain(text: str) -> str:
    """Return the text in lower case, without punctuation."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


@lru_cache(maxsize=2**16)
def stems(text: str) -> frozenset[str]:
    """Return the words without their commonest endings."""
    return frozenset(_stem(word) for word in _words(text))


def _stem(word: str) -> str:
    return next(
        (word[: -len(end)] for end in ENDINGS if word.endswith(end) and len(word) - len(end) >= 3),
        word,
    )


@lru_cache(maxsize=2**16)
def _pieces(text: str) -> frozenset[str]:
    """Return runs of four characters."""
    padded = f" {plain(text)} "
    return frozenset(padded[i : i + 4] for i in range(len(padded) - 3))


@lru_cache(maxsize=2**16)
def _negative(text: str) -> bool:
    return any(word in NOT or word.endswith("n't") for word in _words(text))
