"""Sampling: which token follows, given logits.

A row's chance depends on the seed, its prompt and the token's place alone, never on the batch, and
stays the same when the row steps back: what changes under steering is what steering changed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasb.settings import DecodingSettings


@dataclass(frozen=True, slots=True)
class Sampler:
    """Greedy at temperature 0.

    Else drawn from the smallest set of tokens that holds `top_p` of the probability.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, decoding: DecodingSettings) -> "Sampler":
        """Return the sampler that the settings ask for."""
        return cls(decoding.temperature, decoding.top_p, decoding.seed)

    def chances(self, prompts: Sequence[Sequence[int]], n: int) -> Float[np.ndarray, "row n"]:
        """Return uniform numbers in [0, 1) for the first n tokens of each answer; greedy: zeros."""
        if not self.temperature:
            return np.zeros((len(prompts), n))
        rows = [
            np.random.default_rng([self.seed, *_digest(prompt)]).random(n) for prompt in prompts
        ]
        return np.stack(rows) if rows else np.zeros((0, n))

    def pick(
        self, logits: Float[Tensor, "row token vocab"], chance: Float[np.ndarray, "row token"]
    ) -> Int[Tensor, "row token"]:
        """Pick the next token after each of the given ones."""
        if not self.temperature:
            return logits.argmax(-1)
        p, token = (
            (logits.double() / self.temperature)
            .softmax(-1)
            .sort(dim=-1, descending=True, stable=True)
        )
        # a token stays while those before it hold less than top_p, so one always does
        before = p.cumsum(-1) - p
        p = p.where(before < self.top_p, 0.0)
        share = p.cumsum(-1)
        drawn = torch.from_numpy(chance).to(share)[..., None] * share[..., -1:]
        # token i is drawn from [share[i - 1], share[i]); by rounding the last may be passed
        place = torch.searchsorted(share, drawn, right=True).clamp(max=share.shape[-1] - 1)
        return token.gather(-1, place)[..., 0]


def seeded(decoding: DecodingSettings, draw: int) -> DecodingSettings:
    """Return settings that draw by a seed of their own; greedy ones draw at temperature 1."""
    seed, temperature = seed_of(decoding.seed, draw), decoding.temperature or 1.0
    return decoding.model_copy(update={"seed": seed, "temperature": temperature})


def seed_of(seed: int, draw: int) -> int:
    """Return the seed of one of several draws of the same answers."""
    # seed + draw would give neighbouring seeds the same draws
    return int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])


def _digest(prompt: Sequence[int]) -> list[int]:
    digest = hashlib.sha256(np.asarray(prompt, dtype=np.int64).tobytes()).digest()
    return np.frombuffer(digest[:16], dtype=np.uint32).tolist()
