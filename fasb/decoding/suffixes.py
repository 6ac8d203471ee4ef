"""Suffixes: what follows the tokens that stay where answers fired (docs/method.md G4-G9).

Each distinct suffix of a grid of bundles is written once: bundles that share an edit and differ in
beta, s or strength often want the same row, from the same place, at the same strength. What stands
before the suffixes of a row is run once for all of them.
"""

from collections.abc import Mapping, Sequence

from fasb.decoding.generate import DecodingBatch, complete
from fasb.decoding.sequences import Completion, Prompts, Sequences, Start
from fasb.model.batch import Prefix, compute_prefixes, in_batches, shared_prefix
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
    found: dict[Suffix, Completion] = {}
    of_row: dict[int, list[Suffix]] = {}
    for suffix in wanted:
        of_row.setdefault(suffix[0], []).append(suffix)

    def write(some: Sequence[Suffix], known: Prefix | None, text_of: Mapping[int, int]) -> None:
        limit, starts = bundle.decoding.tokens, []
        for row, kept, strength in some:
            begins = text_of.get(row, 0)
            starts.append(Start(prompts[row], rows[row][:kept], limit, strength, begins))
        sequences = Sequences(model, starts, bundle.decoding, bundle.prompt.stop, bundle.active)
        batch = DecodingBatch(model, sequences, bundle.decoding, known, bundle.edit)
        found.update(zip(some, complete(sequences, batch), strict=True))

    # one suffix a row: each reads its own beginning as it comes in
    if len(wanted) < 2 * len(of_row):
        write(wanted, prefix, {})
        return found
    begun, texts = list(of_row), []
    for row, suffixes in of_row.items():
        most_kept = max(kept for _, kept, _ in suffixes)
        texts.append([*prompts[row], *rows[row][:most_kept]])

    def write_behind(part: list[int]) -> None:
        known = compute_prefixes(model, [texts[i] for i in part], prefix)
        text_of = {begun[i]: number for number, i in enumerate(part)}
        some: list[Suffix] = []
        for row in text_of:
            some += of_row[row]
        write(some, known, text_of)

    in_batches([len(text) for text in texts], bundle.decoding.batch, write_behind)
    return found


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
