"""The plain loop with the options beyond the paper (docs/method.md 6): several steps back,
re-estimated strength, release, stepping back to the last safe token."""

from reference_loop import back_to, ended, share, strength_of
from reference_model import p_of_states, run

from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle


def answer_beyond(
    model: LoadedModel, prompt: list[int], bundle: Bundle
) -> tuple[list[int], int, list[float]]:
    """The answer, how often it fired, and what each state was edited with."""
    policy, tokens, strengths, p = bundle.policy, [], [], []
    always, scheduled = policy.when == "always", bundle.positions == "prompt_end"
    rounds, base, strength = int(always), 0, policy.alpha * always
    steers = always
    while True:
        n, over = len(tokens), ended(model, tokens, bundle)
        del strengths[n:], p[n:]
        strengths.append(strength * (share(bundle, n) if scheduled else 1.0))
        token, deviation = step(model, prompt, tokens, bundle, strengths)
        p.append(deviation)
        if policy.when == "prompt":
            due = n == 0
        else:
            due = n > 0 and (n - base >= policy.s or over) and (policy.backtrack or not over)
        if due and rounds < policy.backtracks and deviation > policy.beta:
            base = back_to(policy, n, base, p)
            rounds, steers = rounds + 1, True
            in_force = strengths[base if bundle.positions == "from_answer" else 0]
            strength = in_force + strength_of(policy, deviation)
            tokens = tokens[:base]
            if bundle.positions == "all":
                strengths[:base] = [strength] * base
            if scheduled:
                strengths[:base] = [strength * share(bundle, state) for state in range(base)]
            continue
        if over:
            return tokens, rounds, strengths
        if steers and policy.reestimate:
            strength = policy.alpha * deviation
        if steers and policy.release is not None and deviation <= policy.release:
            strength, steers = 0.0, False
        tokens.append(token)


def step(
    model: LoadedModel, prompt: list[int], tokens: list[int], bundle: Bundle, strengths: list[float]
) -> tuple[int, float]:
    """The next token and p of the newest state, each state edited with its own strength.

    Transient edits are of the newest state alone.
    """
    if bundle.decoding.edit == "transient":
        strengths = [*[0.0] * (len(strengths) - 1), strengths[-1]]
    text, first = prompt + tokens, len(prompt) - 1
    if bundle.positions == "all":
        strengths, first = [*[strengths[0]] * first, *strengths], 0
    at = range(first, len(text))
    logits, seen = run(model, text, bundle.edit, strengths, at, bundle.tracker)
    return int(logits[-1].argmax()), p_of_states(seen, bundle.tracker)[-1]
