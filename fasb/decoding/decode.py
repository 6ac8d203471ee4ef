"""Decoding: answers of a model under a bundle, or under a grid of bundles (docs/method.md 1.4).

In: prompts as token ids. Out: answers, and how each came about. The same as
`tests/reference_loop.py`, which writes one prompt at a time and reads the whole text again for
every token. There are two ways, which give the same answers:

- `sweep`, and `decode` for one bundle, need the unsteered answers (`trace`): they observe p at all
  of their states in one pass, replay each bundle's policy over them, and write each distinct
  suffix once. So a grid costs one trace and its distinct suffixes.
- `decode_live` writes, tracks and rolls back at once, which can be shown. Policies that judge
  steered states too are always decoded so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fasb.decoding.choosing import best_of, choose_within, decline
from fasb.decoding.controller import BacktrackController
from fasb.decoding.deviation import Seen, observe_all, tracker_key
from fasb.decoding.generate import DecodingBatch, complete, generate
from fasb.decoding.observe import logits_of
from fasb.decoding.sequences import Prompts, Sequences, Start, check_prompts
from fasb.decoding.suffixes import regenerate
from fasb.errors import BundleError
from fasb.model.batch import shared_prefix
from fasb.model.chat import render_of
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle
from fasb.steering.decide import decide
from fasb.steering.edit import FROM_ANSWER
from fasb.steering.trace import OPEN, Answers, Trace


def trace(
    model: LoadedModel, prompts: Prompts, decoding: DecodingSettings, stop: tuple[str, ...] = ()
) -> Trace:
    """Return answers of the model as it is, in the order of the prompts.

    Raises:
        DataError: prompts that are no rows of the model's token ids.
    """
    check_prompts(model, prompts)
    starts = [Start(prompt, (), decoding.tokens) for prompt in prompts]
    sequences = Sequences(model, starts, decoding, stop)
    batch = DecodingBatch(model, sequences, decoding, shared_prefix(model, prompts))
    written = complete(sequences, batch)
    return Trace.of([row.tokens for row in written], [row.ended for row in written])


def decode(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Answers:
    """Return the bundle's answers, whatever its policy, by way of the model's unsteered ones.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    return sweep(model, prompts, unsteered(model, prompts, bundle), [bundle])[0]


def decode_live(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Answers:
    """Return `decode`'s answers, written, tracked and rolled back at once.

    `before` ends where a row fired. Its p is NaN at the last state of a row that did not fire,
    where the policy does not judge it.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have, or shows
            no answer while it is written.
    """
    sequences, batch, controller = start_live(model, prompts, bundle)
    with batch.hooked():
        for _ in generate(sequences, batch, controller):
            pass
    return controller.answers(sequences)


def start_live(
    model: LoadedModel, prompts: Prompts, bundle: Bundle
) -> tuple[Sequences, DecodingBatch, BacktrackController]:
    """Return what `generate` needs to write a bundle's answers.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
        DataError: prompts that are no rows of the model's token ids.
    """
    check_prompts(model, prompts)
    bundle.require()
    if not bundle.policy.live:
        raise BundleError(
            "bundle: best_of, guide, abstain and 'oracle' show no answer while it is written; use "
            "`decode`, or leave them out"
        )
    policy, decoding = bundle.policy, bundle.decoding
    alpha = policy.alpha if policy.steers_from_start else 0.0
    starts = [Start(prompt, (), decoding.tokens, alpha) for prompt in prompts]
    tracker = bundle.tracker if bundle.reads_p else None
    dtype = np.float64 if tracker is not None and tracker.dtype == torch.float64 else np.float32
    stop, edit = bundle.prompt.stop, bundle.edit if policy.when != "never" else None
    active = edit.active if edit is not None else FROM_ANSWER
    sequences = Sequences(model, starts, decoding, stop, active, dtype)
    prefix = shared_prefix(model, prompts)
    batch = DecodingBatch(model, sequences, decoding, prefix, edit, tracker)
    return sequences, batch, BacktrackController(bundle, sequences)


def sweep(
    model: LoadedModel,
    prompts: Prompts,
    trace: Trace,
    bundles: Sequence[Bundle],
    seen: Seen | None = None,
) -> list[Answers]:
    """Return `decode` for each of many bundles.

    All trackers see the trace at once, and each distinct suffix is written once. Bundles whose
    policy looks at steered states too share only the trace that they start from. seen: what
    `observe_all` gave, where the trackers have looked already.

    Raises:
        BundleError: a policy needs a tracker or an edit that its bundle does not have.
        DataError: prompts that are no rows of the model's token ids.
    """
    check_prompts(model, prompts)
    if not bundles:
        return []
    for bundle in bundles:
        bundle.require()
        if bundle.policy.when == "oracle" and trace.wrong is None:
            raise BundleError(
                "bundle: when 'oracle' needs a judge's verdicts on unsteered answers, which only a "
                "study has; set another `when`"
            )
    seen = observe_all(model, prompts, trace, bundles) if seen is None else seen
    keys = [tracker_key(bundle) for bundle in bundles]
    before = [replace(trace, p=None if key is None else seen[key]) for key in keys]
    found: dict[int, Answers] = {}
    once, several = [], []
    for i, bundle in enumerate(bundles):
        if bundle.policy.chooses_within:
            found[i] = choose_within(model, prompts, before[i], bundle)
        elif bundle.policy.abstain:
            found[i] = decline(model, before[i], bundle)
        elif bundle.policy.draws_several:
            several.append(i)
        elif bundle.policy.once:
            once.append(i)
        else:
            found[i] = replace(decode_live(model, prompts, bundle), before=before[i])
    decisions = [decide(before[i], bundles[i].policy) for i in once]
    after = regenerate(model, prompts, trace, decisions, [bundles[i] for i in once])
    for i, decision, steered in zip(once, decisions, after, strict=True):
        found[i] = Answers.once(before[i], decision, steered)
    best = best_of(model, prompts, [before[i] for i in several], [bundles[i] for i in several])
    found |= dict(zip(several, best, strict=True))
    return [found[i] for i in range(len(bundles))]


def unsteered(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Trace:
    """Return the trace that a bundle's answers start from; empty where its policy ignores it."""
    if bundle.policy.steers_from_start:
        return Trace.of([[] for _ in prompts], [OPEN] * len(prompts))
    return trace(model, prompts, bundle.decoding, bundle.prompt.stop)


def check(model: LoadedModel, bundle: Bundle, siblings: bool | None = False) -> None:
    """Refuse a bundle that does not belong to this model, or whose edit does nothing to it.

    Strength 0 must leave every logit bitwise as it is, and a strength that is not 0 must change
    some. `siblings` is that of `Fingerprint.check`.

    Raises:
        BundleError: made for another model, incomplete, or without effect.
        ConfigError: its prompt is a chat, but the tokenizer has no template.
    """
    bundle.require()
    bundle.check_values()
    if bundle.fingerprint is not None:
        bundle.fingerprint.check(model.fingerprint, siblings)
    render_of(model, bundle.prompt)
    if bundle.edit is None:
        return
    text = model.encode([bundle.prompt.prefix + bundle.prompt.question + bundle.prompt.open])[0]
    plain = logits_of(model, text)
    if not plain.isfinite().all():
        raise BundleError(
            f"{model.settings.path}: its logits are not finite in {model.model.dtype}; set the "
            "model's dtype to bfloat16 or float32"
        )
    if not torch.equal(plain, logits_of(model, text, bundle.edit, 0.0)):
        raise BundleError(
            "bundle: strength 0 changes the model's logits; report this model, its hooks don't hold"
        )
    if torch.equal(plain, logits_of(model, text, bundle.edit, 10.0)):
        raise BundleError(
            "bundle: strength 10 changes no logit; its vectors are zero or its units are not used"
        )
