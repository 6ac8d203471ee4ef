"""Random edits, trackers and prompts for tiny models."""

from dataclasses import fields
from typing import Literal

import numpy as np
import torch

from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings, Positions, PromptSettings, SiteName
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Active, Change, Edit
from fasb.steering.fields import move
from fasb.steering.operations import OPERATIONS, Operation
from fasb.steering.policy import Policy
from fasb.steering.tracker import Cosine, Logistic, Tracker


def some_heads(model: LoadedModel, k: int, seed: int) -> torch.Tensor:
    """k different (layer, head) pairs, in no order."""
    layout = model.layout
    flat = torch.randperm(
        layout.n_layers * layout.n_heads, generator=torch.Generator().manual_seed(seed)
    )[:k]
    return torch.stack([flat // layout.n_heads, flat % layout.n_heads], 1)


def some_units(model: LoadedModel, site: SiteName, k: int, seed: int) -> torch.Tensor:
    """k different units of a site; of sites with one unit a layer, at most as many as layers."""
    if site == "head":
        return some_heads(model, k, seed)
    generator = torch.Generator().manual_seed(seed)
    layers = torch.randperm(model.layout.n_layers, generator=generator)[:k]
    return torch.stack([layers, torch.zeros_like(layers)], 1)


def some_change(model: LoadedModel, site: SiteName, kind: str, k: int = 3, seed: int = 0) -> Change:
    """An operation as strong as the activations of tiny models, on random units."""
    at = some_units(model, site, k, seed)
    operation = some_operation(kind, len(at), model.layout.site(site).width, seed)
    return Change(site, at, move(operation, "cpu", model.model.dtype))


def some_operation(kind: str, n: int, width: int, seed: int = 0) -> Operation:
    """An operation of random tensors in float64, active wherever it is."""
    generator, sizes = torch.Generator().manual_seed(seed), {"n": n, "width": width}
    values = {}
    for field in fields(OPERATIONS[kind]):
        size = [sizes.get(name, 2) for name in field.type.dim_str.split()]
        values[field.name] = torch.randn(size, generator=generator, dtype=torch.float64)
    if kind == "remove":
        values["direction"] = torch.nn.functional.normalize(values["direction"], dim=-1)
    if kind == "to_boundary":  # a plane that nothing is beyond
        values["bias"] -= 100
    return OPERATIONS[kind](**values)


def some_edit(
    model: LoadedModel,
    k: int = 3,
    seed: int = 0,
    site: SiteName = "head",
    kind: str = "add",
    positions: Positions | Literal["scheduled"] = "from_answer",
) -> Edit:
    """An edit of one site."""
    changes = (some_change(model, site, kind, k, seed),)
    return Edit(changes, placed(positions))


def placed(positions: Positions | Literal["scheduled"]) -> Active:
    """Where an edit is active; `scheduled`: from the prompt's end on, fading."""
    return Active("prompt_end", (1.0, 0.5, 0.25)) if positions == "scheduled" else Active(positions)


def some_tracker(
    model: LoadedModel,
    k: int = 3,
    seed: int = 0,
    centred: bool = False,
    site: SiteName = "head",
) -> Tracker:
    """A tracker whose p spreads over (0, 1) about .5."""
    generator = torch.Generator().manual_seed(seed + 1000)
    at = some_units(model, site, k, seed)
    size = (len(at), model.layout.site(site).width)
    weight = torch.randn(size, generator=generator, dtype=torch.float64)
    centre = torch.randn(size, generator=generator, dtype=torch.float64)
    bias = torch.randn(len(at), generator=generator, dtype=torch.float64) * 0.3
    score = Cosine(weight * 3, centre) if centred else Logistic(weight * 0.5, bias)
    float64 = model.model.dtype == torch.float64
    return Tracker(site, at, score).to("cpu", torch.float64 if float64 else torch.float32)


def some_prompts(n: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """Ragged prompts of random tokens that begin alike.

    With an odd seed, the first is one token.
    """
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
