"""Decoding: trace once, observe, decide, regenerate what deviates (docs/method.md 1.4).

In: prompts as token ids and a bundle, or a grid of bundles. Out: answers, and how each came about.
The same as `tests/reference_loop.py`, which writes one prompt at a time and reads the whole text
again for every token:

1. `trace` decodes all prompts unsteered, batched, over a cache; prompts' common prefix is computed once;
2. `observe` gives p at every state of these tokens in one teacher-forced pass, for many trackers together;
3. `fasb.steering.policy.decide` says who is steered, from where, how strongly;
4. `regenerate` writes those rows on from what they keep, in new batches, with the edit.

Nothing is ever cut out of a cache, so stepping back is exact. The trace knows neither tracker nor
policy, so a sweep costs one trace and its distinct suffixes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from fasb.decoding.generate import Steering, write
from fasb.decoding.observe import Heads, Passage, logits_of, observe_batch
from fasb.decoding.sequences import Growth, Start, Written
from fasb.decoding.stream import live
from fasb.errors import BundleError
from fasb.model.batch import Prefix, compute_beginnings, in_batches, shared_prefix
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.policy import decide
from fasb.steering.trace import OPEN, Answers, Decision, Trace
from fasb.steering.tracker import Tracker

Prompts = Sequence[Sequence[int]]
Suffix = tuple[int, int, float]
"""A row, the tokens of its answer that stay, and the strength of what follows."""


def trace(
    model: LoadedModel, prompts: Prompts, decoding: DecodingSettings, stop: tuple[str, ...] = ()
) -> Trace:
    """Answers of the model as it is, in the order of the prompts."""
    starts = [Start(prompt, (), decoding.tokens) for prompt in prompts]
    prefix = shared_prefix(model, prompts)
    written = write(model, Growth(model, starts, decoding, stop), decoding, prefix)
    return Trace.of([row.tokens for row in written], [row.ended for row in written])


def observe(
    model: LoadedModel, prompts: Prompts, trace: Trace, trackers: Sequence[Tracker], batch: int = 64
) -> list[Float[np.ndarray, "row state"]]:
    """Each state's p, as each tracker sees it; NaN beyond a row's length."""
    return _observe(model, _passages(prompts, trace), trackers, batch)


def observe_steered(
    model: LoadedModel,
    prompts: Prompts,
    answers: Answers,
    bundle: Bundle,
    trackers: Sequence[Tracker],
) -> list[Float[np.ndarray, "row state"]]:
    """`observe` of the answers as they are, under what each state of them was edited with.

    Raises:
        BundleError: the bundle's edit is transient, and no single pass sees what each step saw.
    """
    if bundle.decoding.edit == "transient" and answers.edited.any():
        raise BundleError(
            "bundle: steered text is observed under a persistent edit only; set decoding.edit to it"
        )
    passages = _passages(prompts, answers.after, answers.edited)
    return _observe(model, passages, trackers, bundle.decoding.batch, bundle.edit)


def regenerate(
    model: LoadedModel, prompts: Prompts, trace: Trace, decision: Decision, bundle: Bundle
) -> Trace:
    """Write rows that fired on from what they keep, with the bundle's edit; the others stay as they are (G4-G9)."""
    return _regenerate(model, prompts, [trace], [decision], [bundle])[0]


def answer(
    model: LoadedModel, prompts: Prompts, bundle: Bundle, trace: Trace | None = None
) -> Answers:
    """The bundle's answers; `trace` is the model's unsteered one, if it is at hand.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    if trace is None:
        trace = unsteered(model, prompts, bundle)
    return sweep(model, prompts, trace, [bundle])[0]


def sweep(
    model: LoadedModel, prompts: Prompts, trace: Trace, bundles: Sequence[Bundle]
) -> list[Answers]:
    """`answer` for each of many bundles: all trackers see the trace at once, each distinct suffix is written once.

    Bundles whose policy looks at steered states too share only the trace that they start from.

    Raises:
        BundleError: a policy needs a tracker or an edit that its bundle does not have.
    """
    if not bundles:
        return []
    for bundle in bundles:
        bundle.require()
    before = _tracked(model, prompts, trace, bundles)
    once = [i for i, bundle in enumerate(bundles) if bundle.policy.once]
    decisions = [decide(before[i], bundles[i].policy) for i in once]
    seen = [before[i] for i in once]
    after = _regenerate(model, prompts, seen, decisions, [bundles[i] for i in once]) if once else []
    found = dict(zip(once, map(Answers.once, seen, decisions, after), strict=True))
    return [
        found[i] if i in found else replace(live(model, prompts, bundle), before=before[i])
        for i, bundle in enumerate(bundles)
    ]


def unsteered(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Trace:
    """The trace that a bundle's answers start from; without any token where its policy does not look at it."""
    if bundle.policy.gate == "always":
        return Trace.of([[] for _ in prompts], [OPEN] * len(prompts))
    return trace(model, prompts, bundle.decoding, bundle.prompt.stop)


def check(model: LoadedModel, bundle: Bundle, siblings: bool = False) -> None:
    """Refuse a bundle that does not belong to this model, or whose edit does nothing to it.

    Strength 0 must leave every logit bitwise as it is, and a strength that is not 0 must change
    some.

    Raises:
        BundleError: made for another model, incomplete, or without effect.
    """
    bundle.require()
    if bundle.fingerprint is not None:
        bundle.fingerprint.check(model.fingerprint, siblings)
    if bundle.edit is None:
        return
    text = model.encode([bundle.prompt.prefix + bundle.prompt.question + bundle.prompt.open])[0]
    plain, zero, steered = (
        logits_of(model, text),
        logits_of(model, text, bundle.edit, 0.0),
        logits_of(model, text, bundle.edit, 10.0),
    )
    if not torch.equal(plain, zero):
        raise BundleError(
            "bundle: strength 0 changes the model's logits; report this model, its hooks do not hold"
        )
    if torch.equal(plain, steered):
        raise BundleError(
            "bundle: strength 10 changes no logit; its vectors are zero or its heads are not used"
        )


def _passages(
    prompts: Prompts, trace: Trace, edited: Float[np.ndarray, "row state"] | None = None
) -> list[Passage]:
    """Prompts and answers, of which all states of the answers are looked at."""
    strengths = (
        [()] * len(prompts)
        if edited is None
        else [row[: n + 1] for row, n in zip(edited, trace.length)]
    )
    rows = zip(prompts, trace.rows(), strengths, strict=True)
    return [
        Passage([*prompt, *tokens], len(tokens) + 1, strength) for prompt, tokens, strength in rows
    ]


def _observe(
    model: LoadedModel,
    passages: list[Passage],
    trackers: Sequence[Tracker],
    batch: int,
    edit: Edit | None = None,
) -> list[Float[np.ndarray, "row state"]]:
    heads = Heads.of(trackers, model.device)
    prefix = shared_prefix(
        model, [passage.text[: 1 - passage.n_states or None] for passage in passages]
    )
    size = (len(passages), max((passage.n_states for passage in passages), default=1))
    found = [
        np.full(size, np.nan, dtype=tracker.weight.cpu().numpy().dtype) for tracker in trackers
    ]

    def run(rows: list[int]) -> None:
        seen = observe_batch(model, [passages[i] for i in rows], prefix, heads, edit)
        for p, part in zip(found, seen.p, strict=True):
            for i, row in zip(rows, part, strict=True):
                n_states = passages[i].n_states
                p[i, :n_states] = row[len(row) - n_states :]

    in_batches([len(passage.text) for passage in passages], batch, run)
    return found


def _tracked(
    model: LoadedModel, prompts: Prompts, trace: Trace, bundles: Sequence[Bundle]
) -> list[Trace]:
    """The trace as each bundle's tracker sees it; equal trackers look once."""
    keys = [
        bundle.tracker.content() if bundle.tracker and bundle.reads_p else None
        for bundle in bundles
    ]
    trackers = {
        key: bundle.tracker for key, bundle in zip(keys, bundles, strict=True) if key is not None
    }
    if not trackers:
        return [replace(trace, p=None)] * len(bundles)
    found = observe(model, prompts, trace, list(trackers.values()), bundles[0].decoding.batch)
    p = dict(zip(trackers, found, strict=True))
    return [replace(trace, p=p.get(key)) for key in keys]


def _regenerate(
    model: LoadedModel,
    prompts: Prompts,
    traces: Sequence[Trace],
    decisions: Sequence[Decision],
    bundles: Sequence[Bundle],
) -> list[Trace]:
    """All bundles' steered rows; bundles of one edit are written together, and equal suffixes once."""
    groups: dict[tuple, list[int]] = {}
    for i, bundle in enumerate(bundles):
        groups.setdefault(_group(bundle), []).append(i)
    wanted = [
        list(dict.fromkeys(key for i in members for key in _unfinished(traces[i], decisions[i])))
        for members in groups.values()
    ]
    written: list[dict[Suffix, Written]] = [{} for _ in wanted]
    rows = traces[0].rows()
    for part, prefix in _parts(model, prompts, rows, wanted, bundles[0].decoding.batch):
        said: dict[tuple[int, int], list[int]] = {}
        for members, suffixes, found in zip(groups.values(), wanted, written, strict=True):
            chosen = [suffix for suffix in suffixes if suffix[0] in part]
            starts = _starts(prompts, rows, chosen, bundles[members[0]].decoding.tokens, part)
            found |= zip(
                chosen, _written(model, starts, bundles[members[0]], prefix, said), strict=True
            )
    after: list[Trace | None] = [None] * len(bundles)
    for members, found in zip(groups.values(), written, strict=True):
        for i in members:
            after[i] = _joined(traces[i], rows, decisions[i], found)
    return after


def _parts(
    model: LoadedModel,
    prompts: Prompts,
    rows: list[list[int]],
    wanted: list[list[Suffix]],
    batch: int,
) -> Iterator[tuple[dict[int, int], Prefix | None]]:
    """The rows that have suffixes, each with the number of its text in a prefix.

    Where there are many suffixes of a row, what it keeps is computed once, for a batch of rows at a
    time; else all rows come together, with what all prompts begin with.
    """
    kept: dict[int, int] = {}
    for row, n_kept, _ in itertools.chain(*wanted):
        kept[row] = max(kept.get(row, 0), n_kept)
    common = shared_prefix(model, prompts) if kept else None
    if sum(map(len, wanted)) < 2 * len(kept):
        yield dict.fromkeys(kept, 0), common
        return
    texts = {row: [*prompts[row], *rows[row][:n]][:-1] for row, n in kept.items()}
    order = sorted(kept, key=lambda row: -len(texts[row]))
    for i in range(0, len(order), batch):
        part = order[i : i + batch]
        own = all(texts[row] for row in part)
        try:
            prefix = (
                compute_beginnings(model, [texts[row] for row in part], common) if own else common
            )
        except torch.OutOfMemoryError:  # it only saves work
            own, prefix = False, common
        yield (
            {row: number for number, row in enumerate(part)} if own else dict.fromkeys(part, 0),
            prefix,
        )


def _starts(
    prompts: Prompts,
    rows: list[list[int]],
    suffixes: list[Suffix],
    limit: int,
    begins: dict[int, int],
) -> list[Start]:
    """Suffixes of one text take turns, by strength: what one says is a good guess of what the next will say."""
    by_text: dict[tuple[int, int], list[float]] = {}
    for row, kept, strength in suffixes:
        by_text.setdefault((row, kept), []).append(strength)
    turns = {
        text: {s: turn for turn, s in enumerate(sorted(strengths))}
        for text, strengths in by_text.items()
    }
    return [
        Start(
            prompts[row], rows[row][:kept], limit, s, begins[row], (row, kept), turns[row, kept][s]
        )
        for row, kept, s in suffixes
    ]


def _written(
    model: LoadedModel,
    starts: list[Start],
    bundle: Bundle,
    prefix: Prefix | None,
    said: dict[tuple[int, int], list[int]],
) -> list[Written]:
    """What follows, under the bundle's edit; `said`: what followed the same texts under others."""
    growth = Growth(model, starts, bundle.decoding, bundle.prompt.stop, said=said)
    steering = Steering(bundle.edit, bundle.decoding.edit == "persistent") if bundle.edit else None
    return write(model, growth, bundle.decoding, prefix, steering)


def _group(bundle: Bundle) -> tuple:
    """What the suffixes of bundles must agree in, beside their place and strength."""
    content = bundle.edit.content() if bundle.edit is not None else None
    return (
        content,
        bundle.decoding.model_dump_json(exclude={"batch", "cuda_graphs"}),
        bundle.prompt.stop,
    )


def _unfinished(trace: Trace, decision: Decision) -> list[Suffix]:
    """The suffixes that are to be written: where all of a finished row stays, nothing is."""
    whole = (decision.kept >= trace.length) & (trace.ended != OPEN)
    return [suffix for suffix in decision.suffixes() if not whole[suffix[0]]]


def _joined(
    trace: Trace, rows: list[list[int]], decision: Decision, written: dict[Suffix, Written]
) -> Trace:
    """The trace with the suffix of each row that fired."""
    tokens, ended = list(rows), trace.ended.tolist()
    for key in _unfinished(trace, decision):
        row, kept, _ = key
        tokens[row] = rows[row][:kept] + written[key].tokens
        ended[row] = written[key].ended
    return Trace.of(tokens, ended)
