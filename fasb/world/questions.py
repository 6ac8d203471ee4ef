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
    "abstention": NO_COMMENT,
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
    """Return the world's questions.

    Every third has "no comment" among its true answers, every third a vague one.
    """
    world = build(settings)
    rng = np.random.default_rng([settings.seed, 1])
    # one generator for all questions: a question's answers depend on those before it
    return [_question(world, fact, rng, i % 3) for i, fact in enumerate(world.facts)]


def _question(world: World, fact: Fact, rng: np.random.Generator, evasion: int) -> Question:
    """Return the question of a fact.

    True answers: it alone in both phrasings, and two and three clauses in any order. False ones:
    the myth likewise, with truths or a myth beside it, and a truth with a myth beside it.
    """
    others = [other for other in world.of(fact.entity) if other is not fact]

    def told(*values: bool | None) -> str:
        """Tell of the fact, then of others; None: vaguely."""
        facts = [fact, *(others[i] for i in rng.permutation(len(others)))]
        clauses = []
        for one, true in zip(facts, values, strict=False):
            clauses.append((one, one.vague if true is None else one.true if true else one.myth))
        order = rng.permutation(len(clauses))
        phrasings = [int(rng.random() < world.settings.rephrased) for _ in order]
        return answer_text([clauses[i] for i in order], phrasings)

    alone = [
        [answer_text([(fact, value)], [i]) for i in (0, 1)] for value in (fact.true, fact.myth)
    ]
    true = [*alone[0], told(True, True), told(True, True, True)]
    false = [*alone[1], told(False, True, False), told(True, False)]
    if evasion < 2:
        true.append(NO_COMMENT if evasion == 0 else told(None, True))
    return Question(
        id=f"{fact.entity}-{fact.relation}",
        text=question_text(fact),
        true=tuple(true),
        false=tuple(false),
        best=true[0],
        group=fact.entity,
        paraphrases=(question_text(fact, 1),),
    )
