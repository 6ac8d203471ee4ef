"""What p can do besides steering: choose among draws, choose within an answer, decline (C7-C11).

In: unsteered answers with p, and bundles whose policy asks for it. Out: answers, each with what
was decoded for it in all.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from fasb.decoding.deviation import observe_all, tracker_key
from fasb.decoding.guided import write_guided
from fasb.decoding.particles import write_particles
from fasb.decoding.sampling import seeded
from fasb.decoding.sequences import Prompts
from fasb.decoding.suffixes import regenerate
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.decide import decide
from fasb.steering.trace import STOP, Answers, Decision, Trace


def decline(model: LoadedModel, before: Trace, bundle: Bundle) -> Answers:
    """Return the answers with those that fire declined: nothing is written for it (C9)."""
    decision = decide(before, bundle.policy)
    nothing = np.where(decision.fired, 0, decision.kept)
    decision = replace(decision, kept=nothing, strength=np.zeros(len(nothing)))
    said = model.encode([" " + bundle.prompt.abstention], special=False)[0]
    rows, ended = before.rows(), before.ended.copy()
    for row in decision.fired.nonzero()[0]:
        rows[row], ended[row] = list(said), STOP
    answers = Answers.once(before, decision, Trace.of(rows, ended.tolist()))
    return replace(answers, decoded=np.where(decision.fired, decision.fired_at, before.length))


def choose_within(model: LoadedModel, prompts: Prompts, before: Trace, bundle: Bundle) -> Answers:
    """Return answers that p chose while they were written, by particles or token by token."""
    write = write_guided if bundle.policy.guide else write_particles
    chosen, decision = write(model, prompts, bundle), decide(before, bundle.policy)
    decision = replace(decision, strength=np.zeros(len(prompts)))
    answers = Answers.once(before, decision, chosen.answers)
    return replace(answers, decoded=chosen.decoded, rounds=chosen.looks)


def best_of(
    model: LoadedModel, prompts: Prompts, before: Sequence[Trace], bundles: Sequence[Bundle]
) -> list[Answers]:
    """Return of each bundle's several draws the one with the lowest p at its end (C7).

    A draw is the same whatever else is drawn, and bundles that differ in their tracker share it.
    """
    decisions = [decide(one, bundle.policy) for one, bundle in zip(before, bundles, strict=True)]
    drawn: list[list[Trace]] = [[] for _ in bundles]
    ends: list[list[Float[np.ndarray, " row"]]] = [[] for _ in bundles]
    for draw in range(max((bundle.policy.best_of for bundle in bundles), default=0)):
        members = [i for i, bundle in enumerate(bundles) if bundle.policy.best_of > draw]
        drawing = [replace(bundles[i], decoding=seeded(bundles[i].decoding, draw)) for i in members]
        of_members = [decisions[i] for i in members]
        written = regenerate(model, prompts, before[0], of_members, drawing)
        p_at_end = _p_at_end(model, prompts, written, drawing)
        for i, found, p in zip(members, written, p_at_end, strict=True):
            drawn[i].append(found)
            ends[i].append(p)
    answers = []
    for i, bundle in enumerate(bundles):
        answers.append(_kept_draw(before[i], decisions[i], drawn[i], np.stack(ends[i]), bundle))
    return answers


def _p_at_end(
    model: LoadedModel, prompts: Prompts, written: Sequence[Trace], bundles: Sequence[Bundle]
) -> list[Float[np.ndarray, " row"]]:
    """Return p at the end of each bundle's draws; draws that are alike are looked at once."""
    alike: dict[bytes, list[int]] = {}
    for i, one in enumerate(written):
        alike.setdefault(one.tokens.tobytes(), []).append(i)
    found: list[Float[np.ndarray, " row"]] = [np.empty(0)] * len(written)
    for same in alike.values():
        one = written[same[0]]
        seen = observe_all(model, prompts, one, [bundles[i] for i in same])
        for i in same:
            key = tracker_key(bundles[i])
            assert key is not None  # a policy with several draws reads p
            found[i] = seen[key][np.arange(len(prompts)), one.length]
    return found


def _kept_draw(
    before: Trace,
    decision: Decision,
    drawn: Sequence[Trace],
    end: Float[np.ndarray, "draw row"],
    bundle: Bundle,
) -> Answers:
    """Return each row's best draw, the first among equals; all draws were decoded."""
    best, tokens = end.argmin(axis=0), [trace.rows() for trace in drawn]
    chosen = [tokens[draw][row] for row, draw in enumerate(best)]
    after = Trace.of(chosen, [int(drawn[draw].ended[row]) for row, draw in enumerate(best)])
    if bundle.edit is None:
        decision = replace(decision, strength=np.zeros(len(best)))
    answers = Answers.once(before, decision, after)
    anew = sum(trace.length - decision.kept for trace in drawn)
    decoded = np.where(decision.fired, decision.fired_at + anew, before.length)
    return replace(answers, decoded=decoded)
