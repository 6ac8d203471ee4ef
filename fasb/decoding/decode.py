"""Decoding: answers of a model under a bundle, or under a grid of bundles (docs/method.md 1.4).

In: prompts as token ids. Out: answers, and how each came about. The same as
`tests/reference_loop.py`, which writes one prompt at a time and reads the whole text again for
every token. There are two ways, which give the same answers:

- `decode` writes, tracks and rolls back at once;
- `sweep` needs the unsteered answers (`trace`): it observes p at all of their states in one pass,
  replays each bundle's policy over them, and writes each distinct suffix once. So a grid costs one
  trace and its distinct suffixes. Policies that judge steered states too are decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from fasb.decoding.controller import BacktrackController
from fasb.decoding.generate import DecodingBatch, complete, generate
from fasb.decoding.guided import write_guided
from fasb.decoding.observe import TeacherForcedText, TrackerGroup, logits_of, observe_batch
from fasb.decoding.particles import write_particles
from fasb.decoding.sampling import seeded
from fasb.decoding.sequences import Completion, Sequences, Start
from fasb.errors import BundleError
from fasb.model.batch import in_batches, shared_prefix
from fasb.model.chat import render_of
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import decide
from fasb.steering.trace import OPEN, STOP, Answers, Decision, Trace
from fasb.steering.tracker import Tracker

Prompts = Sequence[Sequence[int]]
Suffix = tuple[int, int, float]
"""A row, the tokens of its answer that stay, and the strength of what follows."""
Seen = Mapping[bytes, Float[np.ndarray, "row state"]]
"""P of every state as each tracker sees it, by the tracker's content."""


def trace(
    model: LoadedModel, prompts: Prompts, decoding: DecodingSettings, stop: tuple[str, ...] = ()
) -> Trace:
    """Return answers of the model as it is, in the order of the prompts."""
    starts = [Start(prompt, (), decoding.tokens) for prompt in prompts]
    sequences = Sequences(model, starts, decoding, stop)
    batch = DecodingBatch(model, sequences, decoding, shared_prefix(model, prompts))
    written = complete(sequences, batch)
    return Trace.of([row.tokens for row in written], [row.ended for row in written])


def decode(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Answers:
    """Return the bundle's answers, written, tracked and rolled back at once.

    `before` ends where a row fired. Its p is NaN at the last state of a row that did not fire,
    where the policy does not judge it.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    if not bundle.policy.live:
        return answer(model, prompts, bundle)
    sequences, batch, controller = begin(model, prompts, bundle)
    with batch.hooked():
        for _ in generate(sequences, batch, controller):
            pass
    return controller.answers(sequences)


def begin(
    model: LoadedModel, prompts: Prompts, bundle: Bundle
) -> tuple[Sequences, DecodingBatch, BacktrackController]:
    """Return what `generate` needs to write a bundle's answers.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    bundle.require()
    if bundle.policy.when == "oracle":
        raise _no_verdicts()
    if not bundle.policy.live:
        raise BundleError(
            "bundle: best_of, guide and abstain show no answer while it is written; use `decode`, "
            "or leave them out"
        )
    policy, decoding = bundle.policy, bundle.decoding
    alpha = policy.alpha if policy.steers_from_start else 0.0
    starts = [Start(prompt, (), decoding.tokens, alpha) for prompt in prompts]
    tracker = bundle.tracker if bundle.reads_p else None
    dtype = np.float64 if tracker is not None and tracker.dtype == torch.float64 else np.float32
    stop, edit = bundle.prompt.stop, bundle.edit if policy.when != "never" else None
    positions = edit.positions if edit is not None else "from_answer"
    sequences = Sequences(model, starts, decoding, stop, positions, dtype)
    prefix = shared_prefix(model, prompts)
    batch = DecodingBatch(model, sequences, decoding, prefix, edit, tracker)
    return sequences, batch, BacktrackController(bundle, sequences)


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
        key = _tracker_key(bundle)
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


def regenerate(
    model: LoadedModel, prompts: Prompts, trace: Trace, decision: Decision, bundle: Bundle
) -> Trace:
    """Write rows that fired on from what they keep, with the bundle's edit; others stay (G4-G9)."""
    return _regenerate(model, prompts, trace, [decision], [bundle])[0]


def answer(
    model: LoadedModel, prompts: Prompts, bundle: Bundle, trace: Trace | None = None
) -> Answers:
    """Return the bundle's answers; `trace` is the model's unsteered one, if it is at hand.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    if trace is None:
        trace = unsteered(model, prompts, bundle)
    return sweep(model, prompts, trace, [bundle])[0]


def sweep(
    model: LoadedModel,
    prompts: Prompts,
    trace: Trace,
    bundles: Sequence[Bundle],
    seen: Seen | None = None,
) -> list[Answers]:
    """Return `answer` for each of many bundles.

    All trackers see the trace at once, and each distinct suffix is written once. Bundles whose
    policy looks at steered states too share only the trace that they start from. seen: what
    `observe_all` gave, where the trackers have looked already.

    Raises:
        BundleError: a policy needs a tracker or an edit that its bundle does not have.
    """
    if not bundles:
        return []
    for bundle in bundles:
        bundle.require()
        if bundle.policy.when == "oracle" and trace.wrong is None:
            raise _no_verdicts()
    seen = observe_all(model, prompts, trace, bundles) if seen is None else seen
    keys = [_tracker_key(bundle) for bundle in bundles]
    before = [replace(trace, p=None if key is None else seen[key]) for key in keys]
    chosen = [i for i, bundle in enumerate(bundles) if bundle.policy.chooses_within]
    several = [
        i for i, bundle in enumerate(bundles) if bundle.policy.draws_several and i not in chosen
    ]
    declining = [i for i, bundle in enumerate(bundles) if bundle.policy.abstain]
    apart = {*chosen, *several, *declining}
    once = [i for i, bundle in enumerate(bundles) if bundle.policy.once and i not in apart]
    decisions = [decide(before[i], bundles[i].policy) for i in once]
    after = _regenerate(model, prompts, trace, decisions, [bundles[i] for i in once])
    found: dict[int, Answers] = {}
    for i, decision, steered in zip(once, decisions, after, strict=True):
        found[i] = Answers.once(before[i], decision, steered, bundles[i].positions)
    best = _best_of(model, prompts, [before[i] for i in several], [bundles[i] for i in several])
    found |= dict(zip(several, best, strict=True))
    found |= {i: _abstained(model, before[i], bundles[i]) for i in declining}
    found |= {i: _chosen_within(model, prompts, before[i], bundles[i]) for i in chosen}
    for i, bundle in enumerate(bundles):
        if i not in found:
            found[i] = replace(decode(model, prompts, bundle), before=before[i])
    return [found[i] for i in range(len(bundles))]


def unsteered(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Trace:
    """Return the trace that a bundle's answers start from; empty where its policy ignores it."""
    if bundle.policy.steers_from_start:
        return Trace.of([[] for _ in prompts], [OPEN] * len(prompts))
    return trace(model, prompts, bundle.decoding, bundle.prompt.stop)


def check(model: LoadedModel, bundle: Bundle, siblings: bool = False) -> None:
    """Refuse a bundle that does not belong to this model, or whose edit does nothing to it.

    Strength 0 must leave every logit bitwise as it is, and a strength that is not 0 must change
    some.

    Raises:
        BundleError: made for another model, incomplete, or without effect.
        ConfigError: its prompt is a chat, but the tokenizer has no template.
    """
    bundle.require()
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


def _abstained(model: LoadedModel, before: Trace, bundle: Bundle) -> Answers:
    """Return the answers with those that fire declined: nothing is written for it (C9)."""
    decision = decide(before, bundle.policy)
    nothing = np.where(decision.fired, 0, decision.kept)
    decision = replace(decision, kept=nothing, strength=np.zeros(len(nothing)))
    said = model.encode([" " + bundle.prompt.abstention], special=False)[0]
    rows, ended = before.rows(), before.ended.copy()
    for row in decision.fired.nonzero()[0]:
        rows[row], ended[row] = list(said), STOP
    answers = Answers.once(before, decision, Trace.of(rows, ended.tolist()), bundle.positions)
    return replace(answers, decoded=np.where(decision.fired, decision.fired_at, before.length))


def _chosen_within(model: LoadedModel, prompts: Prompts, before: Trace, bundle: Bundle) -> Answers:
    """Return answers that p chose while they were written, by particles or token by token."""
    write = write_guided if bundle.policy.guide else write_particles
    chosen, decision = write(model, prompts, bundle), decide(before, bundle.policy)
    decision = replace(decision, strength=np.zeros(len(prompts)))
    answers = Answers.once(before, decision, chosen.answers)
    return replace(answers, decoded=chosen.decoded, rounds=chosen.looks)


def _no_verdicts() -> BundleError:
    return BundleError(
        "bundle: when 'oracle' needs a judge's verdicts on unsteered answers, which only a study "
        "has; set another `when`"
    )


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


def _tracker_key(bundle: Bundle) -> bytes | None:
    return bundle.tracker.content() if bundle.tracker and bundle.reads_p else None


def _regenerate(
    model: LoadedModel,
    prompts: Prompts,
    trace: Trace,
    decisions: Sequence[Decision],
    bundles: Sequence[Bundle],
) -> list[Trace]:
    """Write all bundles' steered rows; bundles of one edit together, and equal suffixes once."""
    groups: dict[tuple[bytes, str, tuple[str, ...]], list[int]] = {}
    for i, bundle in enumerate(bundles):
        groups.setdefault(_writes_alike(bundle), []).append(i)
    rows, after = trace.rows(), [trace] * len(bundles)
    prefix = shared_prefix(model, prompts) if any(d.fired.any() for d in decisions) else None
    for members in groups.values():
        wanted: dict[Suffix, None] = {}
        for i in members:
            wanted |= dict.fromkeys(_unfinished(trace, decisions[i]))
        first = bundles[members[0]]
        starts = [
            Start(prompts[row], rows[row][:kept], first.decoding.tokens, strength)
            for row, kept, strength in wanted
        ]
        stop, decoding = first.prompt.stop, first.decoding
        sequences = Sequences(model, starts, decoding, stop, first.positions)
        batch = DecodingBatch(model, sequences, decoding, prefix, first.edit)
        written = dict(zip(wanted, complete(sequences, batch), strict=True))
        for i in members:
            after[i] = _with_suffixes(trace, rows, decisions[i], written)
    return after


def _best_of(
    model: LoadedModel, prompts: Prompts, before: Sequence[Trace], bundles: Sequence[Bundle]
) -> list[Answers]:
    """Return of each bundle's several draws the one with the lowest p at its end (C7).

    A draw is the same whatever else is drawn, and bundles that differ in their tracker share it.
    """
    decisions = [decide(one, bundle.policy) for one, bundle in zip(before, bundles, strict=True)]
    drawn: list[list[Trace]] = [[] for _ in bundles]
    ends: list[list[Float[np.ndarray, " row"]]] = [[] for _ in bundles]
    for draw in range(max((bundle.policy.best_of for bundle in bundles), default=0)):
        members = [i for i, bundle in enumerate(bundles) if bundle.policy.best_of > draw]
        drawing = [replace(bundles[i], decoding=seeded(bundles[i].decoding, draw)) for i in members]
        of_members = [decisions[i] for i in members]
        written = _regenerate(model, prompts, before[0], of_members, drawing)
        alike: dict[bytes, list[int]] = {}
        for i, found in zip(members, written, strict=True):
            drawn[i].append(found)
            alike.setdefault(found.tokens.tobytes(), []).append(i)
        for same in alike.values():
            one = drawn[same[0]][draw]
            seen = observe_all(model, prompts, one, [bundles[i] for i in same])
            for i in same:
                key = _tracker_key(bundles[i])
                assert key is not None  # a policy with several draws reads p
                ends[i].append(seen[key][np.arange(len(prompts)), one.length])
    answers = []
    for i, bundle in enumerate(bundles):
        answers.append(_kept_draw(before[i], decisions[i], drawn[i], np.stack(ends[i]), bundle))
    return answers


def _kept_draw(
    before: Trace,
    decision: Decision,
    drawn: Sequence[Trace],
    end: Float[np.ndarray, "draw row"],
    bundle: Bundle,
) -> Answers:
    """Return each row's best draw, the first among equals; all draws were decoded."""
    best, tokens = end.argmin(axis=0), [trace.rows() for trace in drawn]
    chosen = [tokens[draw][row] for row, draw in enumerate(best)]
    after = Trace.of(chosen, [int(drawn[draw].ended[row]) for row, draw in enumerate(best)])
    if bundle.edit is None:
        decision = replace(decision, strength=np.zeros(len(best)))
    answers = Answers.once(before, decision, after, bundle.positions)
    anew = sum(trace.length - decision.kept for trace in drawn)
    decoded = np.where(decision.fired, decision.fired_at + anew, before.length)
    return replace(answers, decoded=decoded)


def _writes_alike(bundle: Bundle) -> tuple[bytes, str, tuple[str, ...]]:
    """Return what the suffixes of bundles must agree in, beside their place and strength."""
    content = bundle.edit.content() if bundle.edit is not None else b""
    return content, bundle.decoding.model_dump_json(exclude={"batch"}), bundle.prompt.stop


def _unfinished(trace: Trace, decision: Decision) -> list[Suffix]:
    """Return the suffixes to be written: where all of a finished row stays, nothing is."""
    whole = (decision.kept >= trace.length) & (trace.ended != OPEN)
    return [suffix for suffix in decision.suffixes() if not whole[suffix[0]]]


def _with_suffixes(
    trace: Trace, rows: list[list[int]], decision: Decision, written: dict[Suffix, Completion]
) -> Trace:
    """Return the trace with the suffix of each row that fired."""
    tokens, ended = list(rows), trace.ended.tolist()
    for suffix in _unfinished(trace, decision):
        row, kept, _ = suffix
        tokens[row] = rows[row][:kept] + written[suffix].tokens
        ended[row] = written[suffix].ended
    return Trace.of(tokens, ended)
