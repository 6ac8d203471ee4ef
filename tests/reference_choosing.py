"""The plain loops of what steers nothing but chooses by p (docs/method.md C10, C11).

One prompt at a time, without a cache: the whole text is run again for every token.
"""

import math

from reference_loop import ended
from reference_model import p_of, run

from fasb.decoding.sampling import Sampler, seed_of
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle


def guided_answer(model: LoadedModel, prompt: list[int], bundle: Bundle) -> list[int]:
    """Of the likeliest tokens, always the one with the best log-probability minus guide * p."""
    policy, tokens = bundle.policy, []
    while not ended(model, tokens, bundle):
        logprob = run(model, prompt + tokens)[0][-1].log_softmax(-1)
        values = {}
        for token in logprob.argsort(descending=True)[: policy.among].tolist():
            p = p_of(model, [*prompt, *tokens, token], bundle.tracker)[-1]
            values[token] = float(logprob[token]) - policy.guide * p
        tokens.append(max(values, key=values.get))
    return tokens


def guided_score(model: LoadedModel, text: list[int], scored: int, bundle: Bundle) -> float:
    """The same value summed over an answer's tokens."""
    logprob = run(model, text)[0].log_softmax(-1)
    p = p_of(model, text, bundle.tracker)
    tokens = range(scored, len(text))
    return sum(float(logprob[t - 1, text[t]]) - bundle.policy.guide * p[t] for t in tokens)


def particle_answer(model: LoadedModel, prompt: list[int], bundle: Bundle) -> list[int]:
    """Write s tokens of every draw and let each go on from one that p favours, until all end."""
    policy, n = bundle.policy, bundle.policy.best_of
    temperature = bundle.decoding.temperature or 1.0
    draws = [[] for _ in range(n)]
    looks = 0
    while True:
        for i in range(n):
            for _ in range(policy.s):
                if not ended(model, draws[i], bundle):
                    seed = seed_of(bundle.decoding.seed, i)
                    sampler = Sampler(temperature, bundle.decoding.top_p, seed)
                    draws[i] = [*draws[i], drawn(model, prompt, draws[i], sampler)]
        p = [p_of(model, prompt + draw, bundle.tracker)[-1] for draw in draws]
        if all(ended(model, draw, bundle) for draw in draws):
            return draws[p.index(min(p))]
        sampler = Sampler(1.0, 1.0, seed_of(bundle.decoding.seed, n))
        chance = sampler.chances([prompt], looks + 1)[0, looks]
        draws, looks = [draws[i] for i in ancestors(p, policy.resample, chance)], looks + 1


def drawn(model: LoadedModel, prompt: list[int], tokens: list[int], sampler: Sampler) -> int:
    """The next token, by the prompt's own random number of its place."""
    logits = run(model, prompt + tokens)[0][None, -1:]
    chance = sampler.chances([prompt], len(tokens) + 1)[:, len(tokens) :]
    return int(sampler.pick(logits, chance))


def ancestors(p: list[float], weight: float, chance: float) -> list[int]:
    """n places at equal distance on a line whose parts are as long as exp(-weight p)."""
    share = [math.exp(-weight * one) for one in p]
    found, upto = [], 0.0
    for i, one in enumerate(share):
        upto += one / sum(share)
        while len(found) < len(p) and (chance + len(found)) / len(p) < upto:
            found.append(i)
    return found + [len(p) - 1] * (len(p) - len(found))
