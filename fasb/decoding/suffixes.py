"""Suffixes: what follows the tokens that stay where answers fired (docs/method.md G4-G9).

Each distinct suffix of a grid of bundles is written once: bundles that share an edit and differ in
beta, s or strength often want the same row, from the same place, at the same strength.
"""

from collections.abc import Sequence

from fasb.decoding.generate import DecodingBatch, complete
from fasb.decoding.sequences import Completion, Prompts, Sequences, Start
from fasb.model.batch import shared_prefix
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
        first = bundles[members[0]]
        starts = [
            Start(prompts[row], rows[row][:kept], first.decoding.tokens, strength)
            for row, kept, strength in wanted
        ]
        stop, decoding = first.prompt.stop, first.decoding
        sequences = Sequences(model, starts, decoding, stop, first.active)
        batch = DecodingBatch(model, sequences, decoding, prefix, first.edit)
        written = dict(zip(wanted, complete(sequences, batch), strict=True))
        for i in members:
            after[i] = _with_suffixes(trace, rows, decisions[i], written)
    return after


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
