"""Random edits, trackers and prompts for tiny models."""

import numpy as np
import torch

from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import Policy
from fasb.steering.tracker import Tracker


def some_heads(model: LoadedModel, k: int, seed: int) -> torch.Tensor:
    """k different (layer, head) pairs, in no order."""
    layout = model.layout
    flat = torch.randperm(
        layout.n_layers * layout.n_heads, generator=torch.Generator().manual_seed(seed)
    )[:k]
    return torch.stack([flat // layout.n_heads, flat % layout.n_heads], 1)


def some_edit(model: LoadedModel, k: int = 3, seed: int = 0) -> Edit:
    """Vectors about as long as the tiny models' head outputs."""
    vector = torch.randn(
        k, model.layout.head_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Edit(some_heads(model, k, seed), vector.to(model.model.dtype))


def some_tracker(model: LoadedModel, k: int = 3, seed: int = 0, centred: bool = False) -> Tracker:
    """A tracker whose p spreads over (0, 1) about .5."""
    generator = torch.Generator().manual_seed(seed + 1000)
    size = (k, model.layout.head_dim)
    weight, centre = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
    bias = (
        torch.zeros(k)
        if centred
        else torch.randn(k, generator=generator, dtype=torch.float64) * 0.3
    )
    tracker = Tracker(
        some_heads(model, k, seed),
        weight * (3 if centred else 0.5),
        bias,
        centre if centred else None,
    )
    return tracker.to("cpu", torch.float64 if model.model.dtype == torch.float64 else torch.float32)


def some_prompts(n: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """Ragged prompts of random tokens that begin alike; with an odd seed, the first is one token."""
    generator = np.random.default_rng(seed)
    prompts = [
        [0, 5, *generator.integers(3, 160, generator.integers(1, longest)).tolist()]
        for _ in range(n)
    ]
    return [[5], *prompts[1:]] if seed % 2 else prompts


def some_bundle(
    model: LoadedModel, tokens: int = 14, batch: int = 4, edit: str = "persistent", **policy
) -> Bundle:
    """A bundle with a random edit and tracker and no stop strings."""
    policy = Policy(**{"alpha": 2.0, "beta": 0.5, "s": 4} | policy)
    decoding = DecodingSettings(tokens=tokens, batch=batch, edit=edit)
    prompt = PromptSettings(stop=())
    return Bundle(
        policy,
        some_edit(model),
        some_tracker(model),
        prompt,
        decoding,
        fingerprint=model.fingerprint,
    )
