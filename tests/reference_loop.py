"""The method as a plain loop: what every other file computes, only fast.

Batch 1, no cache, the whole text again at every step. The oracle of the tests, and the first file
to read. A text is a list of tokens; state 0 is the last token of the prompt, state j the j-th token
after it. Each difference between the paper and the authors' released program is one small function,
named in docs/method.md by the point beside it.
"""

from dataclasses import dataclass

import torch

from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import Policy


@dataclass
class Answer:
    """One answer and how it came about; `p` is what was seen of each state before the answer was steered."""

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
        if policy.gate == "answer" and (n >= policy.s or ended(model, tokens, bundle)):  # G3
            deviation = p_of(model, prompt + tokens, bundle)[len(prompt) - 1 :]
            p = deviation[: judged_state(policy, n) + 1]
            if p[-1] > policy.beta and (
                policy.backtrack or not ended(model, tokens, bundle)
            ):  # T2: never at equality
                fired, fired_at, kept, strength = (
                    True,
                    n,
                    kept_of(policy, n),
                    strength_of(policy, p[-1]),
                )
    if not fired:
        return Answer(tokens, False, len(tokens), 0.0, len(tokens), p)
    tokens = tokens[:kept]
    while not ended(model, tokens, bundle):  # G7: at most N tokens in all, and no second look
        text = prompt + tokens
        first = (
            len(prompt) + kept - 1
        )  # the last token that stays: its state gives the first new token
        tokens.append(
            next_token(model, text, bundle.edit, strength, edited(bundle, first, len(text)))
        )
    return Answer(tokens, True, kept, strength, fired_at, p)


def answer_beyond(
    model: LoadedModel, prompt: list[int], bundle: Bundle
) -> tuple[list[int], int, list[float]]:
    """With the options beyond the paper (docs/method.md 6): the answer, how often it fired, each state's strength."""
    policy, tokens, strengths, p = bundle.policy, [], [], []
    rounds, base, strength = (
        int(policy.gate == "always"),
        0,
        policy.alpha * (policy.gate == "always"),
    )
    steers = rounds > 0
    while True:
        n, over = len(tokens), ended(model, tokens, bundle)
        del strengths[n:], p[n:]
        token, deviation = step(model, prompt, tokens, bundle, [*strengths, strength])
        strengths.append(strength), p.append(deviation)
        if policy.gate == "question":
            due = n == 0
        else:
            due = n > 0 and (n - base >= policy.s or over) and (policy.backtrack or not over)
        if due and rounds < policy.backtracks and deviation > policy.beta:
            base = back_to(policy, n, base, p)
            rounds, steers = rounds + 1, True
            strength = strengths[base] + strength_of(policy, deviation)
            tokens = tokens[:base]
            continue
        if over:
            return tokens, rounds, strengths
        if steers and policy.reestimate:
            strength = policy.alpha * deviation
        if steers and policy.release is not None and deviation <= policy.release:
            strength, steers = 0.0, False
        tokens.append(token)


def choose(
    model: LoadedModel, text: list[int], start: int, scored: int, bundle: Bundle
) -> tuple[float, bool, int]:
    """An answer's log-probability, whether its text fired, and the first edited position (M1-M9).

    `start` is the first position that may be edited, `scored` that of the first token of the
    answer.
    """
    policy, end = bundle.policy, len(text)
    fired, first, strength = False, end, 0.0
    if policy.gate == "always" and start < end:
        fired, first, strength = True, start, policy.alpha
    elif policy.gate == "question" and start < end:  # the last token before the answer
        p = p_of(model, text, bundle)[scored - 1]
        if p > policy.beta:
            fired, first, strength = True, start, strength_of(policy, p)
    elif policy.gate == "answer":
        p = p_of(model, text, bundle)
        for t in range(start, end):
            checked = t - start >= policy.s or t == end - 1  # M4
            if checked and p[t] > policy.beta and (policy.backtrack or t < end - 1):
                first = start + back_to(policy, t - start, 0, p[start:])  # M6
                fired, strength = True, strength_of(policy, p[t])
                break
    return logprob(model, text, scored, bundle.edit, strength, range(first, end)), fired, first


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


def edited(bundle: Bundle, first: int, length: int) -> range:
    """Positions with the edit: all since it began, or in the released program only the newest (G8, G9)."""
    return range(first if bundle.decoding.edit == "persistent" else length - 1, length)


def asked_first(model: LoadedModel, prompt: list[int], bundle: Bundle) -> tuple[bool, int, float]:
    """Gates that need no answer: ITI steers always, After Question if the question alone deviates."""
    policy = bundle.policy
    if policy.gate == "always":
        return True, 0, policy.alpha
    if policy.gate == "question" and (p := p_of(model, prompt, bundle)[-1]) > policy.beta:
        return True, 0, strength_of(policy, p)
    return False, 0, 0.0


def ended(model: LoadedModel, tokens: list[int], bundle: Bundle) -> bool:
    """At N tokens, at an end-of-sequence token, or where a stop string is complete."""
    stopped = any(stop in model.decode(tokens) for stop in bundle.prompt.stop)
    return (
        len(tokens) >= bundle.decoding.tokens or bool(tokens and tokens[-1] in model.eos) or stopped
    )


# The model


def next_token(
    model: LoadedModel, text: list[int], edit: Edit | None = None, strength=0.0, at=range(0)
) -> int:
    """The likeliest next token."""
    return int(run(model, text, edit, strength, at)[0][-1].argmax())


def step(
    model: LoadedModel, prompt: list[int], tokens: list[int], bundle: Bundle, strengths: list[float]
):
    """The next token, and p of the newest state, each state edited with its own strength (transient: the newest)."""
    if bundle.decoding.edit == "transient":
        strengths = [*[0.0] * (len(strengths) - 1), strengths[-1]]
    text = prompt + tokens
    logits, heads = run(model, text, bundle.edit, strengths, range(len(prompt) - 1, len(text)))
    newest = torch.stack([heads[layer][-1, head] for layer, head in bundle.tracker.heads.tolist()])
    return int(logits[-1].argmax()), float(bundle.tracker.deviation(newest))


def logprob(
    model: LoadedModel,
    text: list[int],
    scored: int,
    edit: Edit | None = None,
    strength=0.0,
    at=range(0),
):
    """Sum of the log-probabilities of the tokens from `scored` on (M9)."""
    logprobs = run(model, text, edit, strength, at)[0].log_softmax(-1)
    return sum(float(logprobs[t - 1, text[t]]) for t in range(scored, len(text)))


def p_of(model: LoadedModel, text: list[int], bundle: Bundle) -> list[float]:
    """p at every token: the mean over anchors of 1 - p(true) (T1)."""
    heads = run(model, text)[1]
    states = torch.stack(
        [heads[layer][:, head] for layer, head in bundle.tracker.heads.tolist()], 1
    )
    return bundle.tracker.deviation(states).tolist()


@torch.no_grad()
def run(model: LoadedModel, text: list[int], edit: Edit | None = None, strength=0.0, at=range(0)):
    """Logits [token, vocab], and for each layer the outputs of its heads [token, head, head_dim], unedited."""
    heads = {}
    layout = model.layout

    def hook(layer: int):
        def read_then_edit(_module, inputs):
            x = inputs[0].clone()
            by_head = x.view(x.shape[1], layout.n_heads, layout.head_dim)
            heads[layer] = by_head.clone()
            for (edited_layer, head), vector in zip(
                edit.heads.tolist() if edit else (), edit.vector if edit else ()
            ):
                if edited_layer == layer:
                    by_head[list(at), head] += torch.as_tensor(strength, dtype=torch.float64).to(
                        x
                    ).reshape(-1, 1) * vector.to(x)
            return (x, *inputs[1:])

        return read_then_edit

    hooks = [
        module.register_forward_pre_hook(hook(i)) for i, module in enumerate(layout.projections)
    ]
    try:
        logits = model.model(torch.tensor([text]), use_cache=False).logits[0]
    finally:
        for handle in hooks:
            handle.remove()
    return logits, heads
