"""Side effects: what steering does to plain text, which answers nothing (docs/method.md Q10).

In: texts as token ids, bundles. Out: for each text, cross-entropy and KL divergence, steered
everywhere and as the bundle's own policy has it, which is replayed over the text as over an
unsteered answer. p is read in the unsteered model; an edit stays in the cache. Writes no token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.decoding.deviation import observe
from fasb.model.batch import batch_of, forward, in_batches
from fasb.model.hooks import editing
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.decide import decide
from fasb.steering.edit import Active
from fasb.steering.trace import LIMIT, Trace


@dataclass(frozen=True, slots=True)
class Effects:
    """Of each text, means over its tokens but the first.

    ce: cross-entropy in nats. kl: of the unsteered model's distribution to the steered one's, in
    nats. steered: share of positions with an edit. NaN where the policy has no meaning on plain
    text, or there is one token.
    """

    ce: Float[np.ndarray, " text"]
    kl: Float[np.ndarray, " text"]
    steered: Float[np.ndarray, " text"]


def side_effects(
    model: LoadedModel, texts: Sequence[Sequence[int]], bundles: Sequence[Bundle], batch: int = 8
) -> list[tuple[Effects, Effects]]:
    """Return of each bundle: its alpha at every position, and what its own policy does to a text.

    The text stands for an unsteered answer behind its first token: where `token` fires, and so many
    tokens before it as it takes back, the edit begins, and it lasts to the end. Only the first
    firing is known, as later ones hang on steered text. `always` and `never` are what they say.
    What `prompt` does, and an edit at the prompt's end, hangs on a question, and `oracle` on a
    verdict. Plain text has neither.
    """
    size = (len(bundles), 2, 3, len(texts))
    found = np.full(size, np.nan)

    def run(rows: list[int]) -> None:
        found[..., rows] = _of_batch(model, [texts[i] for i in rows], bundles)

    in_batches([len(text) for text in texts], batch, run)
    return [(Effects(*everywhere), Effects(*by_policy)) for everywhere, by_policy in found]


@torch.inference_mode()
def _of_batch(
    model: LoadedModel, texts: Sequence[Sequence[int]], bundles: Sequence[Bundle]
) -> Float[np.ndarray, "bundle law quantity text"]:
    plain, ids = _logits(model, texts, None, None)
    lengths = torch.tensor([[len(text)] for text in texts], device=ids.device)
    # [row, token]: texts stand at the right
    real = torch.arange(ids.shape[1], 0, -1, device=ids.device) <= lengths
    found = np.full((len(bundles), 2, 3, len(texts)), np.nan)
    for i, bundle in enumerate(bundles):
        laws = _everywhere(bundle, real), _by_policy(model, texts, bundle, real)
        for j, strength in enumerate(laws):
            if strength is not None:
                logits = _logits(model, texts, bundle, strength)[0] if strength.any() else plain
                found[i, j] = _compare(plain, logits, ids, strength, real)
    return found


def _logits(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    bundle: Bundle | None,
    strength: Float[Tensor, "row token"] | None,
) -> tuple[Float[Tensor, "row token vocab"], Int[Tensor, "row token"]]:
    batch = batch_of(model, texts)
    with editing(model.layout, bundle.edit if bundle else None) as dial:
        dial.strength = strength
        return forward(model, batch), batch.ids


def _everywhere(bundle: Bundle, real: Bool[Tensor, "row token"]) -> Float[Tensor, "row token"]:
    alpha = bundle.policy.alpha if bundle.policy.when != "never" else 0.0
    return alpha * real.double()


def _by_policy(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    bundle: Bundle,
    real: Bool[Tensor, "row token"],
) -> Float[Tensor, "row token"] | None:
    policy = bundle.policy
    active = bundle.edit.active if bundle.edit is not None else Active("all")
    if active.positions == "prompt_end" or policy.when in ("prompt", "oracle"):
        return None
    # a text is an answer to its first token, cut where it ends
    trace = Trace.of([list(text[1:]) for text in texts], [LIMIT] * len(texts))
    if policy.when == "token" and bundle.tracker is not None:
        starts = [list(text[:1]) for text in texts]
        (p,) = observe(model, starts, trace, [bundle.tracker], len(texts))
        trace = replace(trace, p=p)
    strengths = torch.zeros_like(real, dtype=torch.float64)
    for row, kept, strength in decide(trace, policy).suffixes():
        # texts stand at the right
        shares = torch.from_numpy(active.shares(kept, len(texts[row])))
        strengths[row, -len(texts[row]) :] = strength * shares
    return strengths


def _compare(
    plain: Float[Tensor, "row token vocab"],
    steered: Float[Tensor, "row token vocab"],
    ids: Int[Tensor, "row token"],
    strength: Float[Tensor, "row token"],
    real: Bool[Tensor, "row token"],
) -> Float[np.ndarray, "quantity row"]:
    """Compare row by row in float64, so that no copy of all logits is made."""
    found = np.full((3, len(ids)), np.nan)
    for row in range(len(ids)):
        n = int(real[row].sum())
        before = plain[row, -n:-1].double().log_softmax(-1)
        after = steered[row, -n:-1].double().log_softmax(-1)
        if n > 1:
            found[0, row] = -after.gather(-1, ids[row, -n + 1 :, None]).mean().item()
        found[1, row] = (before.exp() * (before - after)).sum(-1).mean().item()
        found[2, row] = (strength[row, -n:] != 0).double().mean().item()
    return found
