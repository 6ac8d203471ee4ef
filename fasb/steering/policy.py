"""Policies: when to steer, how strongly, how far back. Arithmetic on p; knows no model.

In: a `Trace` with p at every state, and which states may be judged. Out: a `Decision` per row.
The same function serves generation and multiple-choice scoring, which differ only in their
schedule.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.errors import ConfigError
from fasb.steering.trace import OPEN, Decision, Trace


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds and strength (docs/method.md T2-T4, G2-G4).

    alpha: strength. beta: fires when p > beta, never at equality. s: tokens dropped on firing.
    gate: `answer` judges the text so far; `question` only the last prompt token (After Question);
    `always` steers from the first token (ITI, All fixed); `never` does not steer. adaptive:
    strength is p * alpha, else alpha. backtrack: drop s tokens, else keep all (w/o Backtracking).
    judged: after the n-th token, the state of that token, or of the one before it (the released
    program).

    Beyond the paper (docs/method.md 6). backtracks: how often a row may fire; later checks begin s
    tokens after the place it went back to, and add their strength to the one in force there. safe:
    step back to the last token with p <= safe instead of s tokens. reestimate: while steered,
    strength is alpha times p of the state before. release: steering stops once p <= release.
    """

    alpha: float = 0.0
    beta: float = 0.5
    s: int = 10
    gate: Literal["answer", "question", "always", "never"] = "answer"
    adaptive: bool = True
    backtrack: bool = True
    judged: Literal["newest", "previous"] = "newest"
    backtracks: int = 1
    safe: float | None = None
    reestimate: bool = False
    release: float | None = None

    def __post_init__(self) -> None:
        if self.s < 1:
            raise ConfigError(
                f"policy.s: {self.s}, but at least one token must be dropped; set s to 1 or more"
            )
        if not 0 <= self.beta <= 1:
            raise ConfigError(
                f"policy.beta: {self.beta} is not a probability; set it between 0 and 1"
            )
        if not np.isfinite(self.alpha):
            raise ConfigError(f"policy.alpha: {self.alpha} is not a number; give a finite strength")
        if self.backtracks < 1:
            raise ConfigError(
                f"policy.backtracks: {self.backtracks}; set 1 or more, or gate to 'never'"
            )
        for key, most in (("safe", self.beta), ("release", 1)):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= most:
                raise ConfigError(
                    f"policy.{key}: {value} is not between 0 and {most}; correct it, or leave it out"
                )
        if not self.once and self.judged == "previous":
            raise ConfigError(
                "policy.judged: 'previous' is for what fires once; set it to 'newest'"
            )

    @property
    def once(self) -> bool:
        """Whether the unsteered answer alone decides, as in the paper; else steered states are judged as well."""
        return self.backtracks == 1 and not self.reestimate and self.release is None

    @property
    def reads_p(self) -> bool:
        """Whether it looks at p at all."""
        return self.gate in ("answer", "question") or (self.gate == "always" and not self.once)

    def strength(self, p: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """What p at firing gives (T3)."""
        return self.alpha * (p.astype(np.float64) if self.adaptive else np.ones(len(p)))

    def kept(
        self,
        p: Float[np.ndarray, "row state"],
        n: Int[np.ndarray, " row"],
        base: Int[np.ndarray, " row"],
    ) -> Int[np.ndarray, " row"]:
        """Tokens that stay where a row fires after n tokens; never fewer than `base` (G4)."""
        if not self.backtrack:
            return n
        if self.safe is None:
            return np.maximum(n - self.s, base)
        state = np.arange(p.shape[1])
        safe = (p <= self.safe) & (state >= base[:, None]) & (state < n[:, None])
        return np.where(safe.any(axis=1), p.shape[1] - 1 - safe[:, ::-1].argmax(axis=1), base)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for provenance and hashes."""
        return asdict(self)


def decide(trace: Trace, policy: Policy) -> Decision:
    """What happens to each generated answer (docs/method.md G2-G7).

    The check after token n happens when n >= s, or when the row ended at n. It judges state n
    (`newest`) or n - 1 (`previous`); the first state with p > beta fires; n - s tokens stay, none
    if n <= s. An unfinished row (`OPEN`) must have been left where it fired, and gets the decision
    that the whole row would.

    Raises:
        ValueError: the gate needs p and the trace has none.
    """
    if policy.gate != "answer":
        return _at_once(trace, policy)
    p = _observed(trace)
    judged = p[:, 1:] if policy.judged == "newest" else p[:, :-1]
    return _first(trace, policy, np.arange(1, p.shape[1]), judged)


def decide_choice(trace: Trace, policy: Policy) -> Decision:
    """What happens to each candidate answer of a multiple choice (docs/method.md M4-M6).

    State 0 of the trace is the first position that may be edited; a row without any has length -1.
    State j is judged itself, whatever `judged` says (M5), when j >= s or it is the last; on firing,
    states from `Policy.kept` on are edited.
    """
    if policy.gate != "answer":
        return _at_once(trace, policy)
    p = _observed(trace)
    return _first(trace, policy, np.arange(p.shape[1]), p)


def _first(
    trace: Trace,
    policy: Policy,
    n: Int[np.ndarray, " check"],
    judged: Float[np.ndarray, "row check"],
) -> Decision:
    """The decision at each row's first check that finds p > beta; check i comes after n[i] tokens (states)."""
    if not len(n):
        return _decision(
            trace,
            policy,
            np.zeros(len(trace.length), dtype=bool),
            trace.length,
            np.zeros(len(trace.length)),
        )
    last = trace.length[:, None]
    due = ((n >= policy.s) | (n == last)) & (n <= last)
    fires = due & (judged > policy.beta)
    fired, check = fires.any(axis=1), fires.argmax(axis=1)
    if not policy.backtrack:  # what fires at its own end has nothing left to steer
        fired &= (n[check] < trace.length) | (trace.ended == OPEN)
    return _decision(
        trace, policy, fired, n[check], np.take_along_axis(judged, check[:, None], axis=1)[:, 0]
    )


def _at_once(trace: Trace, policy: Policy) -> Decision:
    """Gates that are decided before the first token."""
    fired_at = np.zeros(len(trace.length), dtype=np.int64)
    if policy.gate == "question":
        before = _observed(trace)[:, 0]
        return _decision(trace, policy, before > policy.beta, fired_at, before)
    fired = (trace.length >= 0) & (policy.gate == "always")
    return _decision(trace, replace(policy, adaptive=False), fired, fired_at, np.zeros(len(fired)))


def _decision(
    trace: Trace,
    policy: Policy,
    fired: Bool[np.ndarray, " row"],
    fired_at: Int[np.ndarray, " row"],
    p: Float[np.ndarray, " row"],
) -> Decision:
    seen = trace.p if trace.p is not None else np.zeros((len(fired), 1))
    kept = policy.kept(seen, fired_at, np.zeros_like(fired_at))
    return Decision(
        fired,
        np.where(fired, kept, trace.length),
        np.where(fired, policy.strength(p), 0.0),
        np.where(fired, fired_at, trace.length),
    )


def _observed(trace: Trace) -> Float[np.ndarray, "row state"]:
    if trace.p is None:
        raise ValueError("this gate needs p; observe the trace first")
    return trace.p
