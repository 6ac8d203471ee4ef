"""Traces and answers: given tokens, how they ended, and what a tracker made of each state.

Knows no model and no threshold. State 0 is the last token of the prompt, state j the j-th token
after it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

LIMIT, EOS, STOP, OPEN = 0, 1, 2, 3
"""How an answer ended: at N tokens, at an end-of-sequence token, at a stop string; or it was left
unfinished."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Tokens of a batch of answers, on the CPU.

    `tokens` beyond `length` are 0 and mean nothing; the token that ended a row (end of sequence, or
    the one that completed a stop string) counts as one of its tokens. `p`, if observed, is the
    deviation probability of every state; beyond `length` it is NaN. `wrong`, if a judge was asked,
    says which answers are not true.
    """

    tokens: Int[np.ndarray, "row step"]
    length: Int[np.ndarray, " row"]
    ended: Int[np.ndarray, " row"]
    p: Float[np.ndarray, "row state"] | None = None
    wrong: Bool[np.ndarray, " row"] | None = None

    def rows(self) -> list[list[int]]:
        """Return the tokens of each row, without padding."""
        return [row[:n].tolist() for row, n in zip(self.tokens, self.length, strict=True)]

    @classmethod
    def of(cls, rows: list[list[int]], ended: list[int]) -> "Trace":
        """Return a trace of token lists of any lengths."""
        length = np.array([len(row) for row in rows], dtype=np.int64)
        tokens = np.zeros((len(rows), max(length, default=0)), dtype=np.int64)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return cls(tokens, length, np.array(ended, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy makes of a trace: who is steered, from where, how strongly.

    kept: tokens that stay (the whole length where a row did not fire). strength: what the edit's
    vectors are multiplied with (0 where a row did not fire). fired_at: tokens there were when the
    row fired, 0 where that was known before the first (the whole length where it did not fire). The
    first edited state is state `kept`: the last kept token, or the last prompt token when nothing
    is kept.
    """

    fired: Bool[np.ndarray, " row"]
    kept: Int[np.ndarray, " row"]
    strength: Float[np.ndarray, " row"]
    fired_at: Int[np.ndarray, " row"]

    def suffixes(self) -> list[tuple[int, int, float]]:
        """Return (row, kept, strength) of rows that fired.

        Under one edit, equal ones give the same text.
        """
        row = self.fired.nonzero()[0]
        return list(
            zip(row.tolist(), self.kept[row].tolist(), self.strength[row].tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of a batch.

    As they were unsteered (with p, if tracked), what was decided, and as they are.

    decision: of the first time a row fired; rounds: how often it did, or how often p chose among
    texts. decoded: tokens that a live run decodes, those it drops included.
    """

    before: Trace
    decision: Decision
    after: Trace
    rounds: Int[np.ndarray, " row"]
    decoded: Int[np.ndarray, " row"]

    @classmethod
    def once(cls, before: Trace, decision: Decision, after: Trace) -> "Answers":
        """Return the answers of a policy by which a row fires once."""
        # a live run writes up to the firing, drops down to `kept`, and writes on from there
        anew = after.length - decision.kept
        return cls(
            before,
            decision,
            after,
            rounds=decision.fired.astype(np.int64),
            decoded=np.where(decision.fired, decision.fired_at + anew, before.length),
        )
