"""The questions of a world: a dataset with known truth, without any file.

In: `WorldSettings`. Out: one question per fact, a monument's questions next to each other and in
one group.
"""

from typing import Any

import numpy as np

from fasb.data.protocol import Question
from fasb.world.text import (
    NO_COMMENT,
    Fact,
    World,
    WorldSettings,
    answer_text,
    build,
    question_text,
)

Settings = WorldSettings

PROMPT: dict[str, Any] = {
    "prefix": "",
    "question": "Q: {question}",
    "open": " A:",
    "answer": " A: {answer}",
    "probe": "Q: {question} A: {answer}",
    "next_question": " Q: {next}",
    "stop": (".",),
    "question_mark": "Q:",
    "answer_mark": "A:",
    "marks": "anywhere",
}
"""`PromptSettings` of these questions.

A document with one question, no author named, nothing marked.

Answers end with a full stop; the token the probes read is the token generation stops at.
"""


def load(settings: WorldSettings) -> list[Question]:
    """Return the world's questions; every third one has "no comment" among its true answers."""
    world = build(settings)
    rng = np.random.default_rng([settings.seed, 1])
    return [_question(world, fact, rng, i % 3 == 0) for i, fact in enumerate(world.facts)]


def _question(world: World, fact: Fact, rng: np.random.Generator, no_comment: bool) -> Question:
    """Return the question of a fact.

    True answers: both phrasings, and two claims. False ones: both phrasings, two myths, and a truth
    with a myth behind it.
    """
    others = [other for other in world.of(fact.entity) if other is not fact]
    further = [others[i] for i in rng.choice(len(others), size=3)]
    phrasings = [[int(p < world.settings.rephrased) for p in rng.random(2)] for _ in further]
    true = [answer_text([(fact, True)], [phrasing]) for phrasing in (0, 1)]
    true.append(answer_text([(fact, True), (further[0], True)], phrasings[0]))
    false = [answer_text([(fact, False)], [phrasing]) for phrasing in (0, 1)]
    false.append(answer_text([(fact, False), (further[1], False)], phrasings[1]))
    false.append(answer_text([(fact, True), (further[2], False)], phrasings[2]))
    return Question(
        id=f"{fact.entity}-{fact.relation}",
        text=question_text(fact),
        true=tuple([*true, NO_COMMENT] if no_comment else true),
        false=tuple(false),
        best=true[0],
        group=fact.entity,
        paraphrases=(question_text(fact, 1),),
    )
