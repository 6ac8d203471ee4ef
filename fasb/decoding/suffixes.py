"""Suffixes: what follows the tokens that stay where answers fired (docs/method.md G4-G9).

Each distinct suffix of a grid of bundles is written once: bundles that share an edit and differ in
beta, s or strength often want the same row, from the same place, at the same strength. What stands
before the suffixes of a row is run once for all of them.
"""

from collections.abc import Sequence

from fasb.decoding.generate import DecodingBatch, complete
from fasb.decoding.sequences import Completion, Prompts, Sequences, Start
from fasb.model.batch import Prefix, in_batches, prefixes, shared_prefix
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.trace import OPEN, Decision, Trace

Suffix = tuple[int, int, float]
"""A row, the tokens of its answer that stay (of a scored candidate, its editable positions that
stay), and the strength of what follows."""


def regenerate(
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
        written = _written(model, prompts, rows, list(wanted), bundles[members[0]], prefix)
        for i in members:
            after[i] = _with_suffixes(trace, rows, decisions[i], written)
    return after


def _written(
    model: LoadedModel,
    prompts: Prompts,
    rows: Sequence[Sequence[int]],
    wanted: Sequence[Suffix],
    bundle: Bundle,
    prefix: Prefix | None,
) -> dict[Suffix, Completion]:
    """Write these suffixes, all as the bundle has it, behind what a pass makes of the beginnings.

    Some rows at a time, so that the memory holds their beginnings.
    """
    of_row: dict[int, list[Suffix]] = {}
    for suffix in wanted:
        of_row.setdefault(suffix[0], []).append(suffix)
    # one suffix a row: each reads its own beginning as it comes in
    if len(wanted) < 2 * len(of_row):
        starts = [_start(prompts, rows, suffix, bundle) for suffix in wanted]
        return dict(zip(wanted, _completions(model, starts, bundle, prefix), strict=True))
    found: dict[Suffix, Completion] = {}
    by_row, texts = list(of_row.items()), []
    for row, suffixes in by_row:
        most_kept = max(kept for _, kept, _ in suffixes)
        texts.append([*prompts[row], *rows[row][:most_kept]])

    def write(part: list[int]) -> None:
        known = prefixes(model, [texts[i] for i in part], prefix)
        chosen: list[Suffix] = []
        starts: list[Start] = []
        for number, i in enumerate(part):
            for suffix in by_row[i][1]:
                chosen.append(suffix)
                starts.append(_start(prompts, rows, suffix, bundle, number))
        found.update(zip(chosen, _completions(model, starts, bundle, known), strict=True))

    in_batches([len(text) for text in texts], bundle.decoding.batch, write)
    return found


def _start(
    prompts: Prompts,
    rows: Sequence[Sequence[int]],
    suffix: Suffix,
    bundle: Bundle,
    begins: int = 0,
) -> Start:
    row, kept, strength = suffix
    return Start(prompts[row], rows[row][:kept], bundle.decoding.tokens, strength, begins)


def _completions(
    model: LoadedModel, starts: Sequence[Start], bundle: Bundle, prefix: Prefix | None
) -> list[Completion]:
    sequences = Sequences(model, starts, bundle.decoding, bundle.prompt.stop, bundle.active)
    return complete(
        sequences, DecodingBatch(model, sequences, bundle.decoding, prefix, bundle.edit)
    )


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
