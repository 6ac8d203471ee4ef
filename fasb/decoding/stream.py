"""Live decoding: writing, watching and steering at once, so that a row that fires steps back at once.

In: prompts as token ids and a bundle. Out: the same answers as `fasb.decoding.decode.answer` gives, with
fewer tokens decoded; for one row also as a stream of events. p comes from the decoding pass itself.
Policies that look at steered states too (several backtracks, re-estimated strength, release) are
decoded here only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.data.prompts import clean_answer
from fasb.decoding.generate import Rows, Steering, grow
from fasb.decoding.sequences import Growth, Start
from fasb.model.batch import shared_prefix
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.trace import OPEN, Answers, Decision, Trace


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an answer while it was written.

    token: a token was written; `text` is what it adds, `p` its state's deviation (None where
    nothing looked). back: the text deviated; `text` and `dropped` tokens of it were taken back, `p`
    is what fired, and what follows is written with `strength`. done: the answer is complete; `text`
    is the answer, cleaned.
    """

    kind: Literal["token", "back", "done"]
    text: str
    p: float | None = None
    dropped: int = 0
    strength: float = 0.0
    steered: bool = False


def live(model: LoadedModel, prompts: Sequence[Sequence[int]], bundle: Bundle) -> Answers:
    """The bundle's answers; `before` ends where a row fired.

    Its p is NaN at the last state of a row that did not fire, where the policy does not judge it.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    rows, growth, helm = _begin(model, prompts, bundle)
    with rows.hooked():
        for _ in grow(rows, growth, helm):
            pass
    return helm.answers(growth)


def stream(model: LoadedModel, prompt: Sequence[int], bundle: Bundle) -> Iterator[Event]:
    """One answer as it is written; its tokens are those of `live`.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    rows, growth, helm = _begin(model, [prompt], bundle)
    told = _Told(model, growth, helm)
    if helm.rounds[0]:
        yield told.back()
    for _ in grow(
        rows, growth, helm
    ):  # hooks are active in a pass only: between two, the model is the caller's
        yield from told.news(bundle.reads_p)
    yield from told.news(False)
    yield Event(
        "done", clean_answer(model.decode(growth.answer(0)), bundle.prompt), steered=told.rounds > 0
    )


class Helm:
    """Who steers the rows of a `Growth` by a policy: sets them back, and says what they are edited with."""

    def __init__(self, bundle: Bundle, growth: Growth) -> None:
        self._policy = bundle.policy
        self._looks = bundle.reads_p
        n_rows = len(growth.n)
        self.rounds = np.full(n_rows, int(bundle.policy.gate == "always"))
        self.base = np.zeros(n_rows, dtype=np.int64)  # tokens that stay whatever follows
        self._steers = self.rounds > 0
        self.left: dict[
            int, tuple[list[int], np.ndarray]
        ] = {}  # what a row had when it fired last, and its p
        # n, kept, strength, tokens and p of when a row fired first
        self.first: dict[int, tuple[int, int, float, list[int], np.ndarray]] = {}
        if bundle.policy.gate == "always":
            self.first = {
                row: (0, 0, bundle.policy.alpha, [], growth.p[row].copy()) for row in range(n_rows)
            }

    def back(
        self, growth: Growth, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> Bool[np.ndarray, " n"]:
        """Rows that fire step back, and are steered from there on."""
        if not self._looks:
            return np.zeros(len(rows), dtype=bool)
        fires = self._fires(growth, rows, accepted)
        seen = growth.n[rows] - accepted
        if fires.any():
            at = rows[fires]
            self._step_back(growth, at, self._policy.strength(growth.p[at, seen[fires]]))
        if not accepted:
            self._adjust(growth, rows[~fires])
        return fires

    def waits(self, growth: Growth, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Rows whose last state is still to be run, as it is judged too (G3)."""
        judges = self._policy.gate in ("answer", "always") and self._policy.judged == "newest"
        unseen = np.isnan(growth.p[rows, growth.n[rows]])
        return unseen & judges & (self.rounds[rows] < self._policy.backtracks)

    def answers(self, growth: Growth) -> Answers:
        """All rows, once they have ended; as they were when they first fired, and as they are."""
        first = [self.first.get(row) for row in range(len(growth.n))]
        fired = np.array([parts is not None for parts in first], dtype=bool)
        rows = [
            growth.answer(row) if parts is None else parts[3] for row, parts in enumerate(first)
        ]
        before = Trace.of(rows, np.where(fired, OPEN, growth.ended).tolist())
        after = Trace.of(
            [growth.answer(row) for row in range(len(growth.n))], growth.ended.tolist()
        )
        if self._looks:
            p = [growth.p[row] if parts is None else parts[4] for row, parts in enumerate(first)]
            before = replace(before, p=_cut(p, before))
            after = after if self._policy.once else replace(after, p=_cut(list(growth.p), after))
        decision = Decision(
            fired,
            np.array(
                [
                    n if parts is None else parts[1]
                    for n, parts in zip(growth.n, first, strict=True)
                ],
                dtype=int,
            ),
            np.array([0.0 if parts is None else parts[2] for parts in first], dtype=np.float64),
            np.array(
                [
                    n if parts is None else parts[0]
                    for n, parts in zip(growth.n, first, strict=True)
                ],
                dtype=int,
            ),
        )
        edited, row = growth.edited.copy(), np.arange(len(growth.n))
        unseen = np.isnan(growth.p[row, growth.n])  # the last state of many was not run
        edited[row[unseen], growth.n[unseen]] = growth.strength[unseen]
        edited = edited[:, : after.tokens.shape[1] + 1]
        return Answers(before, decision, after, self.rounds, growth.decoded, edited)

    def _fires(
        self, growth: Growth, rows: Int[np.ndarray, " n"], accepted: bool
    ) -> Bool[np.ndarray, " n"]:
        """Rows that fire by p of the newest state, or once a token is accepted, of the state before (G2, G3)."""
        policy, n = self._policy, growth.n[rows]
        if policy.gate == "question":
            due = (n == 0) & (not accepted)
        else:
            ended = growth.ended[rows] != OPEN
            due = (n > 0) & ((n - self.base[rows] >= policy.s) | ended)
            due &= (policy.judged == "previous") == accepted
            due &= policy.backtrack | ~ended  # what fires at its own end has nothing left to steer
        due &= self.rounds[rows] < policy.backtracks
        return due & (growth.p[rows, n - accepted] > policy.beta)

    def _step_back(
        self, growth: Growth, rows: Int[np.ndarray, " n"], strength: Float[np.ndarray, " n"]
    ) -> None:
        """Each of the rows as far as the policy says; the strength in force there is raised."""
        kept = self._policy.kept(growth.p[rows], growth.n[rows], self.base[rows])
        for row, stays, more in zip(rows.tolist(), kept.tolist(), strength.tolist(), strict=True):
            n, tokens, p = int(growth.n[row]), growth.answer(row), growth.p[row].copy()
            self.left[row] = tokens, p
            self.first.setdefault(row, (n, stays, more, tokens, p))
            growth.p[row, stays:] = np.nan
            growth.back(row, stays, float(growth.edited[row, stays]) + more)
        self.base[rows] = kept
        self.rounds[rows] += 1
        self._steers[rows] = True

    def _adjust(self, growth: Growth, rows: Int[np.ndarray, " n"]) -> None:
        """What rows that go on are steered with after the state that was just run."""
        rows = rows[self._steers[rows]]
        p = growth.p[rows, growth.n[rows]]
        if self._policy.reestimate:
            growth.strength[rows] = self._policy.alpha * p.astype(np.float64)
        if self._policy.release is not None:
            let_go = rows[p <= self._policy.release]
            growth.strength[let_go], self._steers[let_go] = 0.0, False


@dataclass(slots=True)
class _Told:
    """What a stream has told so far, token by token; a character's last token tells it."""

    model: LoadedModel
    growth: Growth
    helm: Helm
    rounds: int = 0
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def news(self, waits: bool) -> Iterator[Event]:
        """What has happened since; with `waits`, tokens are told once their state was run, with its p."""
        growth = self.growth
        if self.helm.rounds[0] > self.rounds:
            tokens, p = self.helm.left[0]
            yield from self._tokens(tokens, p)
            yield self.back(float(p[~np.isnan(p)][-1]))
        n = int(growth.n[0])
        while waits and n > len(self.pieces) and np.isnan(growth.p[0, n]):
            n -= 1
        yield from self._tokens(growth.answer(0)[:n], growth.p[0])

    def back(self, p: float | None = None) -> Event:
        """The row has stepped back."""
        kept = int(self.helm.base[0])
        dropped = self.pieces[kept:]
        del self.pieces[kept:]
        self.rounds = int(self.helm.rounds[0])
        return Event("back", "".join(dropped), p, len(dropped), float(self.growth.strength[0]))

    def _tokens(self, tokens: list[int], p: Float[np.ndarray, " state"]) -> Iterator[Event]:
        """The tokens that have not been told."""
        for n in range(len(self.pieces), len(tokens)):
            whole, before = self.model.decode(tokens[: n + 1]), self.text
            self.pieces.append("" if whole.endswith("\ufffd") else whole[len(before) :])
            seen = None if np.isnan(p[n + 1]) else float(p[n + 1])
            strength = float(self.growth.edited[0, n])
            yield Event("token", self.pieces[-1], seen, strength=strength, steered=self.rounds > 0)


def _begin(
    model: LoadedModel, prompts: Sequence[Sequence[int]], bundle: Bundle
) -> tuple[Rows, Growth, Helm]:
    bundle.require()
    policy, decoding = bundle.policy, bundle.decoding
    starts = [
        Start(prompt, (), decoding.tokens, policy.alpha * (policy.gate == "always"))
        for prompt in prompts
    ]
    tracker = bundle.tracker if bundle.reads_p else None
    dtype = np.float32 if tracker is None else tracker.weight.cpu().numpy().dtype
    growth = Growth(model, starts, decoding, bundle.prompt.stop, dtype)
    steering = (
        Steering(bundle.edit, decoding.edit == "persistent")
        if bundle.edit and policy.gate != "never"
        else None
    )
    prefix = shared_prefix(model, prompts)
    return Rows(model, growth, decoding, prefix, steering, tracker), growth, Helm(bundle, growth)


def _cut(p: list[np.ndarray], trace: Trace) -> Float[np.ndarray, "row state"]:
    """The states that a trace has."""
    width = trace.tokens.shape[1] + 1
    return np.stack(p)[:, :width] if p else np.zeros((0, width))
