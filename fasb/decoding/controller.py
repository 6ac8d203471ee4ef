"""Backtracking while answers are written: which rows fire, where they go back to, how strongly.

In: `Sequences` after a forward pass, and a bundle's policy. Out: rows that were rolled back, and in
the end the `Answers`. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.decoding.sequences import Sequences
from fasb.steering.bundle import Bundle
from fasb.steering.trace import OPEN, Answers, Decision, Trace


@dataclass(frozen=True, slots=True)
class Firing:
    """A row as it was when it fired: after n tokens, of which `kept` stayed.

    strength: what this firing adds; in_force: what steers the row from then on, earlier firings'
    strength included.
    """

    n: int
    kept: int
    strength: float
    in_force: float
    tokens: list[int]
    p: Float[np.ndarray, " state"]


class BacktrackController:
    """Who steers the rows of `Sequences` by a policy.

    rounds: how often a row has fired. base: tokens that stay whatever follows. first, last: each
    row's first and newest firing.
    """

    def __init__(self, bundle: Bundle, sequences: Sequences) -> None:
        self._policy, self._reads_p = bundle.policy, bundle.reads_p
        n_rows, always = len(sequences.n), bundle.policy.steers_from_start
        # what steers from the start has fired once, before the first token
        self.rounds = np.full(n_rows, int(always))
        self.base = np.zeros(n_rows, dtype=np.int64)
        self._steers = self.rounds > 0
        self.first: dict[int, Firing] = {}
        self.last: dict[int, Firing] = {}
        if always:
            alpha = bundle.policy.alpha
            for row in range(n_rows):
                self.first[row] = Firing(0, 0, alpha, alpha, [], sequences.p[row].copy())

    def roll_back(
        self, sequences: Sequences, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> tuple[Bool[np.ndarray, " n"], list[int]]:
        """Roll back the rows that fire, and steer them from there on.

        `accepted`: whether the token that the newest state predicts has been appended (G2, G3).
        Returns which rows fired, and those of them that must be run again from their start.
        """
        if not (self._reads_p or self._policy.after):
            return np.zeros(len(rows), dtype=bool), []
        fires = self._fires(sequences, rows, accepted)
        again = self._step_back(sequences, rows[fires], accepted) if fires.any() else []
        if not accepted:
            self._adjust_strength(sequences, rows[~fires])
        return fires, again

    def waits_for_last_state(
        self, sequences: Sequences, rows: Int[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Return which rows that have ended stay for one more pass.

        Their last state is judged (G3).
        """
        judges = self._policy.checks_tokens and self._policy.judged == "newest"
        unseen = np.isnan(sequences.p[rows, sequences.n[rows]])
        return unseen & judges & (self.rounds[rows] < self._policy.backtracks)

    def answers(self, sequences: Sequences) -> Answers:
        """Return all rows once they have ended.

        As they were when they first fired, and as they are.
        """
        n_rows = len(sequences.n)
        first = [self.first.get(row) or _unfired(sequences, row) for row in range(n_rows)]
        fired = np.array([row in self.first for row in range(n_rows)], dtype=bool)
        before = Trace.of(
            [row.tokens for row in first], np.where(fired, OPEN, sequences.ended).tolist()
        )
        after = Trace.of([sequences.answer(row) for row in range(n_rows)], sequences.ended.tolist())
        if self._reads_p:
            before = replace(before, p=_states_of(before, [row.p for row in first]))
            if not self._policy.once:
                after = replace(after, p=_states_of(after, list(sequences.p)))
        decision = Decision(
            fired,
            np.array([row.kept for row in first], dtype=np.int64),
            np.array([row.strength for row in first], dtype=np.float64),
            np.array([row.n for row in first], dtype=np.int64),
        )
        return Answers(before, decision, after, self.rounds, sequences.decoded)

    def _fires(
        self, sequences: Sequences, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> Bool[np.ndarray, " n"]:
        """Return which rows fire, by p of the state that was just run."""
        policy, n = self._policy, sequences.n[rows]
        # G2: `previous` judges it once the token that it predicts is there, `newest` before that;
        # the prompt's state is judged before any token, and `after` counts tokens
        by_tokens = policy.when != "prompt" and (policy.judged == "previous" or policy.after > 0)
        if accepted != by_tokens:
            return np.zeros(len(rows), dtype=bool)
        ended = sequences.ended[rows] != OPEN
        p = sequences.p[rows, _just_run(n, accepted)]
        fires = policy.fires(p, n, self.base[rows], ended)
        return fires & (self.rounds[rows] < policy.backtracks)

    def _step_back(
        self, sequences: Sequences, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> list[int]:
        """Roll each row back as far as the policy says; the strength in force there is raised."""
        n = sequences.n[rows]
        more = self._policy.strength(sequences.p[rows, _just_run(n, accepted)])
        kept = self._policy.kept(sequences.p[rows], n, self.base[rows])
        again = []
        for i, row in enumerate(rows.tolist()):
            stays = int(kept[i])
            # strengths add up (X1); of other positions state 0 says what is in force
            state = stays if sequences.active.positions == "from_answer" else 0
            total = float(sequences.edited[row, state]) + float(more[i])
            # copies, as the row is cut below
            seen = sequences.answer(row), sequences.p[row].copy()
            firing = Firing(int(n[i]), stays, float(more[i]), total, *seen)
            self.last[row] = firing
            self.first.setdefault(row, firing)
            # state `stays`, of the last kept token, is run again under the edit
            sequences.p[row, stays:] = np.nan
            if sequences.roll_back(row, stays, total):
                again.append(row)
        self.base[rows] = kept
        self.rounds[rows] += 1
        self._steers[rows] = True
        return again

    def _adjust_strength(self, sequences: Sequences, rows: Int[np.ndarray, " n"]) -> None:
        """Set what rows that go on are steered with after the state that was just run."""
        rows = rows[self._steers[rows]]
        # X3, X4: of the state that was just run
        p = sequences.p[rows, sequences.n[rows]]
        if self._policy.reestimate:
            sequences.strength[rows] = self._policy.alpha * p.astype(np.float64)
        if self._policy.release is not None:
            released = rows[p <= self._policy.release]
            sequences.strength[released], self._steers[released] = 0.0, False


def _just_run(n: Int[np.ndarray, " row"], accepted: bool) -> Int[np.ndarray, " row"]:
    """Return the number of the state that was run last: no token behind it has been run yet."""
    return n - 1 if accepted else n


def _unfired(sequences: Sequences, row: int) -> Firing:
    """Return a row that never fired in the form of one that did: all of it stays."""
    n = int(sequences.n[row])
    return Firing(n, n, 0.0, 0.0, sequences.answer(row), sequences.p[row])


def _states_of(
    trace: Trace, p: Sequence[Float[np.ndarray, " _"]]
) -> Float[np.ndarray, "row state"]:
    """Return p of the states that a trace has."""
    width = trace.tokens.shape[1] + 1
    return np.stack(p)[:, :width] if p else np.zeros((0, width))
