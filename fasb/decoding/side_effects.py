"""Side effects: what steering does to plain text, which is no answer to anything (docs/method.md Q10).

In: texts as token ids, bundles. Out: for each text, cross-entropy and KL divergence, steered
everywhere and as the bundle's own gate has it. p is read in the unsteered model; an edit stays in
the cache. Writes no token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasb.decoding.observe import Heads, Passage, observe_batch
from fasb.model.batch import batch_of, forward, in_batches
from fasb.model.hooks import editing
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Effects:
    """Of each text, means over its tokens but the first.

    ce: cross-entropy in nats. kl: of the unsteered model's distribution to the steered one's, in
    nats. steered: share of positions with an edit. NaN where the gate has no meaning on plain text,
    or there is one token.
    """

    ce: Float[np.ndarray, " text"]
    kl: Float[np.ndarray, " text"]
    steered: Float[np.ndarray, " text"]


def side_effects(
    model: LoadedModel, texts: Sequence[Sequence[int]], bundles: Sequence[Bundle], batch: int = 8
) -> list[tuple[Effects, Effects]]:
    """Of each bundle: its alpha at every position, and its own gate position by position.

    The gate `answer` edits where p > beta, by p * alpha if it is adaptive; `always` and `never` are
    what they say; what `question` does hangs on the end of a question, which plain text does not
    have.
    """
    size = (len(bundles), 2, 3, len(texts))
    found = np.full(size, np.nan)

    def run(rows: list[int]) -> None:
        found[..., rows] = _of_batch(model, [texts[i] for i in rows], bundles)

    in_batches([len(text) for text in texts], batch, run)
    return [(Effects(*everywhere), Effects(*gated)) for everywhere, gated in found]


@torch.inference_mode()
def _of_batch(
    model: LoadedModel, texts: Sequence[Sequence[int]], bundles: Sequence[Bundle]
) -> Float[np.ndarray, "bundle law quantity text"]:
    plain, ids = _logits(model, texts, None, None)
    real = torch.arange(ids.shape[1], 0, -1, device=ids.device) <= torch.tensor(
        [[len(text)] for text in texts], device=ids.device
    )
    found = np.full((len(bundles), 2, 3, len(texts)), np.nan)
    for i, bundle in enumerate(bundles):
        for j, strength in enumerate(
            (_everywhere(bundle, real), _gated(model, texts, bundle, real))
        ):
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
    alpha = bundle.policy.alpha if bundle.policy.gate != "never" else 0.0
    return alpha * real.double()


def _gated(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    bundle: Bundle,
    real: Bool[Tensor, "row token"],
) -> Float[Tensor, "row token"] | None:
    policy = bundle.policy
    if policy.gate == "question":
        return None
    if policy.gate != "answer" or bundle.tracker is None:
        return _everywhere(bundle, real)
    heads = Heads.of([bundle.tracker], model.device)
    seen = observe_batch(model, [Passage(text, len(text)) for text in texts], None, heads)
    p = torch.from_numpy(seen.p[0]).to(real.device).double()
    strength = policy.alpha * (p if policy.adaptive else torch.ones_like(p))
    return torch.where((p > policy.beta) & real, strength, 0.0)


def _compare(
    plain: Float[Tensor, "row token vocab"],
    steered: Float[Tensor, "row token vocab"],
    ids: Int[Tensor, "row token"],
    strength: Float[Tensor, "row token"],
    real: Bool[Tensor, "row token"],
) -> Float[np.ndarray, "quantity row"]:
    """Row by row in float64, so that no copy of all logits is made."""
    rows = []
    for before, after, tokens, edit, here in zip(plain, steered, ids, strength, real, strict=True):
        n = int(here.sum())
        p, q = (logits[-n:-1].double().log_softmax(-1) for logits in (before, after))
        ce = -q.gather(-1, tokens[-n + 1 :, None]).mean() if n > 1 else torch.tensor(torch.nan)
        kl = (p.exp() * (p - q)).sum(-1).mean()
        rows.append([ce.item(), kl.item(), (edit[-n:] != 0).double().mean().item()])
    return np.array(rows).T
