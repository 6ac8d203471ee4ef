"""Guided decoding: each token is chosen by its probability and by p of the state behind it (C11).

In: prompts, and a bundle whose policy guides. Out: their answers. Nothing is edited and nothing
drawn: of the `among` likeliest tokens, the one with the largest log-probability - guide * p goes
on. All of them are run in one pass, whose cache the next pass goes on from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasb.decoding.observe import not_finite
from fasb.decoding.particles import Chosen
from fasb.decoding.sequences import Completion, Prompts, Sequences, Start
from fasb.model.batch import Prefix, batch_of, forward, in_batches, prefix_of, shared_prefix
from fasb.model.hooks import ActivationRecorder, recording
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.trace import OPEN, Trace
from fasb.steering.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Looked:
    """Texts that were run together: what follows each, p of its last state, and their cache."""

    logprob: Float[Tensor, "text vocab"]
    p: Float[Tensor, " text"]
    known: Prefix


def write_guided(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Chosen:
    """Return each prompt's answer."""
    assert bundle.tracker is not None  # a policy that guides reads p
    tracker, n_rows = bundle.tracker.to(model.device), len(prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    ended = np.full(n_rows, OPEN)
    prefix = shared_prefix(model, prompts)
    among = min(bundle.policy.among, model.vocab_size)

    def run(rows: list[int]) -> None:
        found = _write(model, [list(prompts[row]) for row in rows], bundle, tracker, prefix)
        for row, one in zip(rows, found, strict=True):
            answers[row], ended[row] = one.tokens, one.ended

    # every row runs so many texts at once
    size = max(1, bundle.decoding.batch // among)
    in_batches([len(prompt) for prompt in prompts], size, run)
    after = Trace.of(answers, ended.tolist())
    return Chosen(after, among * after.length, after.length)


@torch.inference_mode()
def _write(
    model: LoadedModel,
    prompts: list[list[int]],
    bundle: Bundle,
    tracker: Tracker,
    prefix: Prefix | None,
) -> list[Completion]:
    """Return what follows some prompts, written side by side."""
    policy, decoding = bundle.policy, bundle.decoding
    among = min(policy.among, model.vocab_size)
    starts = [Start(prompt, [], decoding.tokens) for prompt in prompts]
    sequences = Sequences(model, starts, decoding, bundle.prompt.stop)
    rows = np.arange(len(prompts))  # those that go on
    with recording(model.layout, tracker.site, tracker.at) as recorder:
        looked = _look(model, prompts, recorder, tracker, prefix)
        at = rows  # of the texts that were looked at, the one that each row goes on from
        while len(rows):
            logprob, token = looked.logprob[at].topk(among)
            candidates: list[list[int]] = []
            begins: list[tuple[int, int]] = []
            for row, place, tokens in zip(rows.tolist(), at.tolist(), token.tolist(), strict=True):
                text = sequences.text(row)
                candidates += [[*text, one] for one in tokens]
                begins += [(place, len(text))] * among  # all but the new token is in the cache
            looked = _look(model, candidates, recorder, tracker, looked.known, begins)
            value = logprob - policy.guide * looked.p.reshape(-1, among)
            best = value.argmax(-1, keepdim=True)
            sequences.accept(rows, token.gather(-1, best)[:, 0].cpu().numpy())
            going = sequences.ended[rows] == OPEN
            at = (np.arange(len(rows)) * among + best[:, 0].cpu().numpy())[going]
            rows = rows[going]
    return sequences.completions()


def _look(
    model: LoadedModel,
    texts: list[list[int]],
    recorder: ActivationRecorder,
    tracker: Tracker,
    prefix: Prefix | None,
    begins: Sequence[tuple[int, int]] | None = None,
) -> Looked:
    """Run texts behind what is known of them.

    Raises:
        ModelError: a logit or a tracked activation is not finite.
    """
    batch = batch_of(model, texts, prefix, begins)
    logits = forward(model, batch, keep=1)[:, 0].double()
    p = tracker.deviation(recorder.pop()[:, -1].to(model.device)).double()
    # the largest logit is NaN where any is
    if not (logits.amax(-1).isfinite() & p.isfinite()).all():
        raise not_finite(model, "a logit or a tracked activation")
    return Looked(logits.log_softmax(-1), p, prefix_of(texts, batch))
