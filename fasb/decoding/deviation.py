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
from fasb.errors import BundleError
from fasb.model.batch import in_batches, shared_prefix
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.trace import Answers, Trace
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
    return _observe(model, texts, trackers, batch)


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


def observe_steered(
    model: LoadedModel,
    prompts: Prompts,
    answers: Answers,
    bundle: Bundle,
    trackers: Sequence[Tracker],
) -> list[Float[np.ndarray, "row state"]]:
    """Return `observe` of the answers as they are, under what each state was edited with.

    Raises:
        BundleError: the bundle's edit is transient, and no single pass sees what each step saw.
    """
    if bundle.decoding.edit == "transient" and answers.edited.any():
        raise BundleError(
            "bundle: steered text is observed under a persistent edit only; set decoding.edit to it"
        )
    texts = []
    for row, tokens in enumerate(answers.after.rows()):
        strength = answers.edited[row, : len(tokens) + 1]
        if bundle.edit is not None and bundle.edit.positions == "all":
            before = np.full(len(prompts[row]) - 1, strength[0])
            strength = np.concatenate([before, strength])
        texts.append(TeacherForcedText([*prompts[row], *tokens], len(tokens) + 1, strength))
    return _observe(model, texts, trackers, bundle.decoding.batch, bundle.edit)


def tracker_key(bundle: Bundle) -> bytes | None:
    """Return what names the content of a bundle's tracker; None where its policy reads no p."""
    return bundle.tracker.content() if bundle.tracker and bundle.reads_p else None


def _observe(
    model: LoadedModel,
    texts: Sequence[TeacherForcedText],
    trackers: Sequence[Tracker],
    batch: int,
    edit: Edit | None = None,
) -> list[Float[np.ndarray, "row state"]]:
    group = TrackerGroup.of(trackers, model.device)
    edits_prompts = edit is not None and edit.positions == "all"
    beginnings = [text.text[: 1 - text.n_states or None] for text in texts]
    prefix = None if edits_prompts else shared_prefix(model, beginnings)
    size = (len(texts), max((text.n_states for text in texts), default=1))
    found = []
    for tracker in trackers:
        dtype = np.float64 if tracker.dtype == torch.float64 else np.float32
        found.append(np.full(size, np.nan, dtype=dtype))

    def run(rows: list[int]) -> None:
        seen = observe_batch(model, [texts[i] for i in rows], prefix, group, edit)
        for p, part in zip(found, seen, strict=True):
            for i, row in zip(rows, part, strict=True):
                n_states = texts[i].n_states
                p[i, :n_states] = row[len(row) - n_states :]

    in_batches([len(text.text) for text in texts], batch, run)
    return found
