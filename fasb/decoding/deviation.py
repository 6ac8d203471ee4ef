"""P of every state of answers that are there (docs/method.md T1): one pass over given tokens.

In: prompts, answers, trackers. Out: of each tracker, p of each state [row, state]. All trackers
look in the same pass.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from fasb.decoding.observe import TeacherForcedText, TrackerGroup, observe_batch
from fasb.decoding.sequences import Prompts
from fasb.model.batch import in_batches, shared_prefix
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.trace import Trace
from fasb.steering.tracker import Tracker

Seen = Mapping[bytes, Float[np.ndarray, "row state"]]
"""P of every state as each tracker sees it, by the tracker's content."""


def observe(
    model: LoadedModel,
    prompts: Prompts,
    trace: Trace,
    trackers: Sequence[Tracker],
    batch: int = 64,
) -> list[Float[np.ndarray, "row state"]]:
    """Return each state's p, as each tracker sees it; NaN beyond a row's length."""
    texts = [
        TeacherForcedText([*prompt, *tokens], len(tokens) + 1)
        for prompt, tokens in zip(prompts, trace.rows(), strict=True)
    ]
    group = TrackerGroup.of(trackers, model.device)
    beginnings = [text.text[: len(text.text) - text.n_states + 1] for text in texts]
    prefix = shared_prefix(model, beginnings)
    size = (len(texts), max((text.n_states for text in texts), default=1))
    found = []
    for tracker in trackers:
        dtype = np.float64 if tracker.dtype == torch.float64 else np.float32
        found.append(np.full(size, np.nan, dtype=dtype))

    def run(rows: list[int]) -> None:
        seen = observe_batch(model, [texts[i] for i in rows], prefix, group)
        for p, part in zip(found, seen, strict=True):
            for i, row in zip(rows, part, strict=True):
                n_states = texts[i].n_states
                p[i, :n_states] = row[len(row) - n_states :]

    in_batches([len(text.text) for text in texts], batch, run)
    return found


def observe_all(
    model: LoadedModel, prompts: Prompts, trace: Trace, bundles: Sequence[Bundle]
) -> Seen:
    """Return `observe` for the trackers of all bundles that read p; equal trackers look once."""
    trackers: dict[bytes, Tracker] = {}
    for bundle in bundles:
        key = tracker_key(bundle)
        if key is not None and bundle.tracker is not None:
            trackers[key] = bundle.tracker
    if not trackers:
        return {}
    seen = observe(model, prompts, trace, list(trackers.values()), bundles[0].decoding.batch)
    return dict(zip(trackers, seen, strict=True))


def tracker_key(bundle: Bundle) -> bytes | None:
    """Return what names the content of a bundle's tracker; None where its policy reads no p."""
    return bundle.tracker.content() if bundle.tracker and bundle.reads_p else None
