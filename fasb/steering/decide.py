"""Decisions: a policy replayed over what was written unsteered (docs/method.md G2-G7, M4-M6).

`Policy.fires` says what happens at one check; here a whole trace, or the candidates of a multiple
choice, is taken through all of its checks.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.steering.policy import Policy
from fasb.steering.trace import OPEN, Decision, Trace


def decide(trace: Trace, policy: Policy) -> Decision:
    """Return what happens to each generated answer (docs/method.md G2-G7).

    The check after token n judges state n (`newest`) or n - 1 (`previous`); the first that fires
    counts. An unfinished row (`OPEN`) must have been left where it fired, and gets the decision
    that the whole row would.

    Raises:
        ValueError: the policy needs p and the trace has none.
    """
    if policy.when == "oracle":
        return _by_verdict(trace, policy)
    if policy.when in ("always", "never"):
        # the state of the token that ended an answer predicts nothing
        return _without_p(trace, policy, trace.length - (trace.ended != OPEN))
    first = 0 if policy.when == "prompt" else 1  # an answer without tokens is not judged
    return _first_firing(trace, policy, first, behind=int(policy.judged == "previous"))


def highest_judged(trace: Trace, policy: Policy) -> Float[np.ndarray, " row"]:
    """Return the highest p that the policy judges in each generated answer, whatever its beta.

    An answer fires if and only if this lies above beta (`when: token`, `backtracks: 1`).

    Raises:
        ValueError: the trace has no p.
    """
    if trace.p is None:
        raise ValueError("this needs p; observe the trace first")
    length = trace.length[:, None]
    n, judged = _checks(trace.p, behind=int(policy.judged == "previous"))
    due = (n >= 1) & (n <= length) & policy.due(n, np.zeros_like(n), n == length)
    return np.where(due, judged, -np.inf).max(axis=1)


def decide_choice(trace: Trace, policy: Policy) -> Decision:
    """Return what happens to each candidate answer of a multiple choice (docs/method.md M4-M6).

    State 0 of the trace is the first position that may be edited; a row without any has length -1.
    State n is judged itself, whatever `judged` says (M5); on firing, states from `Policy.kept` on
    are edited.

    Raises:
        ValueError: the policy needs p and the trace has none.
    """
    if policy.abstain:  # no candidate can be declined
        policy = replace(policy, when="never", abstain=False)
    if policy.when in ("always", "never", "oracle"):
        # nobody judges a candidate answer, so an oracle steers none
        return _without_p(trace, policy, trace.length)
    return _first_firing(trace, policy, first=0, behind=0)


def _without_p(trace: Trace, policy: Policy, last: Int[np.ndarray, " row"]) -> Decision:
    """Return what is known without p: who is steered from state `after` on, if there is one.

    last: each row's last state whose prediction counts.
    """
    at = np.full(len(trace.length), policy.after)
    fired = (last >= at) & (policy.when == "always")
    return _decision(trace, fired, at, at, np.where(fired, policy.alpha, 0.0))


def _by_verdict(trace: Trace, policy: Policy) -> Decision:
    """Return what follows from the verdicts: answers that are not true go back s tokens."""
    if trace.wrong is None:
        raise ValueError("this policy needs verdicts on the unsteered answers")
    nothing = np.zeros((len(trace.length), 1))
    kept = policy.kept(nothing, trace.length, 0 * trace.length)
    fired = trace.wrong & (kept < trace.length)
    return _decision(trace, fired, trace.length, kept, np.where(fired, policy.alpha, 0.0))


def _first_firing(trace: Trace, policy: Policy, first: int, behind: int) -> Decision:
    """Replay a trace from the check after `first` tokens on; that after n judges n - `behind`."""
    if trace.p is None:
        raise ValueError("this policy needs p; observe the trace first")
    length, at_start = trace.length[:, None], np.zeros_like(trace.length)
    n, p = _checks(trace.p, behind)
    # an open row was left where it fired, which without going back was not its end
    is_end = (trace.ended != OPEN) | policy.backtrack
    ended = (length == n) & is_end[:, None]
    fires = policy.fires(p, n, np.zeros_like(n), ended) & (first <= n) & (n <= length)
    fired, fired_at = np.asarray(fires.any(axis=1)), fires.argmax(axis=1)
    judged = np.where(fired, p[np.arange(len(p)), fired_at], 0)
    kept = policy.kept(trace.p, fired_at, at_start)
    return _decision(trace, fired, fired_at, kept, policy.strength(judged))


def _checks(
    p: Float[np.ndarray, "row state"], behind: int
) -> tuple[Int[np.ndarray, "row state"], Float[np.ndarray, "row state"]]:
    """Return, for the check after each number of tokens, that number and p of the judged state."""
    n = np.arange(p.shape[1])
    return np.broadcast_to(n, p.shape), p[:, np.maximum(n - behind, 0)]


def _decision(
    trace: Trace,
    fired: Bool[np.ndarray, " row"],
    fired_at: Int[np.ndarray, " row"],
    kept: Int[np.ndarray, " row"],
    strength: Float[np.ndarray, " row"],
) -> Decision:
    return Decision(
        fired,
        np.where(fired, kept, trace.length),
        np.where(fired, strength, 0.0),
        np.where(fired, fired_at, trace.length),
    )
