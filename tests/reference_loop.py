"""The method as a plain loop: what every other file computes, only fast.

Batch 1, no cache, the whole text again at every step. The oracle of the tests, and the first file
to read. A text is a list of tokens; state 0 is the last token of the prompt, state j the j-th token
after it. Each difference between the paper and the authors' released program is one small function,
named in docs/method.md by the point beside it. Passes through the model are in
`tests/reference_model.py`, options beyond the paper in `tests/reference_beyond.py`.
"""

from dataclasses import dataclass

from reference_model import logprob, next_token, p_of

from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.policy import Policy


@dataclass
class Answer:
    """One answer and how it came about.

    `p` is what was seen of each state before it was steered.
    """

    tokens: list[int]
    fired: bool
    kept: int
    strength: float
    fired_at: int
    p: list[float]


def answer(model: LoadedModel, prompt: list[int], bundle: Bundle) -> Answer:
    """Write until the text deviates, step back, write on with the edit."""
    policy, tokens, p = bundle.policy, [], []
    fired, kept, strength = asked_first(model, prompt, bundle)
    fired_at = 0
    while not fired and not ended(model, tokens, bundle):
        tokens.append(next_token(model, prompt + tokens))
        n = len(tokens)
        if policy.when == "always" and n == policy.after and not ended(model, tokens, bundle):
            fired, fired_at, kept, strength = True, n, n, policy.alpha  # C1
        if policy.when == "token" and (n >= policy.s or ended(model, tokens, bundle)):  # G3
            deviation = p_of(model, prompt + tokens, bundle.tracker)[len(prompt) - 1 :]
            p = deviation[: judged_state(policy, n) + 1]
            may_go_back = policy.backtrack or not ended(model, tokens, bundle)
            if p[-1] > policy.beta and may_go_back:  # T2: never at equality
                fired, fired_at = True, n
                kept, strength = kept_of(policy, n), strength_of(policy, p[-1])
    if not fired:
        return Answer(tokens, False, len(tokens), 0.0, len(tokens), p)
    tokens = tokens[:kept]
    while not ended(model, tokens, bundle):  # G7: at most N tokens in all, and no second look
        text = prompt + tokens
        at = edited(bundle, len(prompt), kept, len(text))
        tokens.append(next_token(model, text, bundle.edit, shared(bundle, strength, at), at))
    return Answer(tokens, True, kept, strength, fired_at, p)


def choose(
    model: LoadedModel, text: list[int], start: int, scored: int, bundle: Bundle
) -> tuple[float, bool, int]:
    """An answer's log-probability, whether its text fired, and the first edited position (M1-M9).

    `start` is the first position that may be edited, `scored` that of the answer's first token.
    """
    policy, end = bundle.policy, len(text)
    fired, first, strength = False, end, 0.0
    if policy.when == "always" and start + policy.after < end:
        fired, first, strength = True, start + policy.after, policy.alpha
    elif policy.when == "prompt" and start < end:  # the last token before the answer
        p = p_of(model, text, bundle.tracker)[scored - 1]
        if p > policy.beta:
            fired, first, strength = True, start, strength_of(policy, p)
    elif policy.when == "token":
        p = p_of(model, text, bundle.tracker)
        for t in range(start, end):
            checked = t - start >= policy.s or t == end - 1  # M4
            if checked and p[t] > policy.beta and (policy.backtrack or t < end - 1):
                first = start + back_to(policy, t - start, 0, p[start:])  # M6
                fired, strength = True, strength_of(policy, p[t])
                break
    begins = {"all": 0, "prompt_end": scored - 1, "from_answer": first}  # M6
    at = range(begins[bundle.positions], end) if fired else range(0)
    strengths = shared(bundle, strength, at)
    return logprob(model, text, scored, bundle.edit, strengths, at), fired, first


# The differences


def judged_state(policy: Policy, n: int) -> int:
    """After n tokens: the newest state, or in the released program the one before (G2)."""
    return n if policy.judged == "newest" else n - 1


def strength_of(policy: Policy, p: float) -> float:
    """In proportion to p, or always alpha (w/o Adaptive) (T3)."""
    return policy.alpha * (p if policy.adaptive else 1.0)


def kept_of(policy: Policy, n: int) -> int:
    """Step back s tokens, or stay (w/o Backtracking) (G4)."""
    return max(n - policy.s, 0) if policy.backtrack else n


def back_to(policy: Policy, n: int, base: int, p: list[float]) -> int:
    """Never further than the last time; with `safe`, to the last token that was so."""
    if policy.safe is None or not policy.backtrack:
        return max(kept_of(policy, n), base)
    return max((j for j in range(base, n) if p[j] <= policy.safe), default=base)


def edited(bundle: Bundle, n_prompt: int, kept: int, length: int) -> range:
    """Positions with the edit: from the last token that stays, all, or from the prompt's last on.

    In the released program only the newest (G8, G9).
    """
    if bundle.positions == "all":
        return range(length)
    if bundle.positions == "prompt_end":
        return range(n_prompt - 1, length)
    first = n_prompt + kept - 1  # its state gives the first new token
    return range(first if bundle.decoding.edit == "persistent" else length - 1, length)


def shared(bundle: Bundle, strength: float, at: range) -> list[float]:
    """The strength at each of the positions: from the prompt's last token on, a schedule's."""
    scheduled = bundle.positions == "prompt_end"
    return [strength * (share(bundle, state) if scheduled else 1.0) for state in range(len(at))]


def share(bundle: Bundle, state: int) -> float:
    """The share of the strength at a state: behind a schedule's end, its last."""
    schedule = bundle.active.schedule
    return schedule[min(state, len(schedule) - 1)]


def asked_first(model: LoadedModel, prompt: list[int], bundle: Bundle) -> tuple[bool, int, float]:
    """Policies that need no answer: ITI steers always, After Question if the prompt deviates."""
    policy = bundle.policy
    if policy.when == "always" and not policy.after:
        return True, 0, policy.alpha
    if policy.when == "prompt" and (p := p_of(model, prompt, bundle.tracker)[-1]) > policy.beta:
        return True, 0, strength_of(policy, p)
    return False, 0, 0.0


def ended(model: LoadedModel, tokens: list[int], bundle: Bundle) -> bool:
    """At N tokens, at an end-of-sequence token, or where a stop string is complete."""
    stopped = any(stop in model.decode(tokens) for stop in bundle.prompt.stop)
    at_eos = bool(tokens and tokens[-1] in model.eos)
    return len(tokens) >= bundle.decoding.tokens or at_eos or stopped
