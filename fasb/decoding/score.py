"""Scoring: how likely a model finds given answers, steered where their text deviates (docs/method.md 1.5).

In: questions with their candidate answers, and a bundle or many. Out: a log-probability per answer.
One unsteered pass gives p and log-probabilities of all; only answers that fired run again, with the
edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.data.prompts import choice_text
from fasb.decoding.observe import Heads, Passage, score_batch
from fasb.errors import DataError
from fasb.model.batch import Prefix, in_batches, shared_prefix
from fasb.model.load import LoadedModel
from fasb.settings import PromptSettings, ScoringSettings
from fasb.steering.bundle import Bundle
from fasb.steering.policy import decide_choice
from fasb.steering.trace import LIMIT, Decision, Trace

RELEASED_SPAN, RELEASED_START = 3, 4
"""Tokens after the question's own at which the released program begins to score, and to edit (M2,
M3)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate answer behind its question.

    first_state: the first position that may be edited and judged (M2); at `len(tokens)` or beyond
    there is none. scored_start: the first token that counts (M3); the one before it is what the
    gate `question` judges.
    """

    tokens: tuple[int, ...]
    first_state: int
    scored_start: int

    @property
    def seen_from(self) -> int:
        """The first position whose state or prediction matters."""
        return min(self.first_state, self.scored_start - 1)


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of the candidate answers, natural logarithm, summed over the tokens that count (M9)."""

    logprob: Float[np.ndarray, " row"]
    fired: Bool[np.ndarray, " row"]
    kept: Int[np.ndarray, " row"]
    strength: Float[np.ndarray, " row"]


def encode_choices(
    model: LoadedModel,
    prompt: PromptSettings,
    scoring: ScoringSettings,
    pairs: Sequence[tuple[str, str]],
) -> list[Choice]:
    """Tokens and spans of (question, answer) pairs (M2, M3).

    By offsets, the scored tokens are those that hold a character of the answer; what a template
    puts behind it is cut off. As released, they are all but the first 3 after the question's L
    tokens.

    Raises:
        DataError: an answer without any token of its own.
        ModelError: a text is too long for the model, or a batch for its memory.
    """
    choices = [_choice(model, prompt, scoring, *pair) for pair in pairs]
    model.check_room([choice.tokens for choice in choices], 0, scoring.batch)
    return choices


def score(
    model: LoadedModel, choices: Sequence[Choice], bundle: Bundle, batch: int | None = None
) -> Scores:
    """The bundle's scores; `batch` answers in one pass, if not as many as its settings say.

    Raises:
        BundleError: the policy needs a tracker or an edit that the bundle does not have.
    """
    return score_sweep(model, choices, [bundle], batch)[0]


def score_sweep(
    model: LoadedModel,
    choices: Sequence[Choice],
    bundles: Sequence[Bundle],
    batch: int | None = None,
) -> list[Scores]:
    """`score` for each of many bundles: one unsteered pass for all, and each distinct steered answer once.

    Raises:
        BundleError: a policy needs a tracker or an edit that its bundle does not have.
    """
    for bundle in bundles:
        bundle.require()
    if not choices or not bundles:
        nothing = np.zeros(0)
        return [
            Scores(nothing, nothing.astype(bool), nothing.astype(int), nothing) for _ in bundles
        ]
    size = batch or bundles[0].scoring.batch
    prefix = shared_prefix(model, [choice.tokens[: choice.seen_from + 1] for choice in choices])
    p, plain = _unsteered(model, choices, bundles, size, prefix)
    decisions = [_decide(choices, bundle, seen) for bundle, seen in zip(bundles, p, strict=True)]
    groups: dict[bytes, list[int]] = {}
    for i, bundle in enumerate(bundles):
        if bundle.edit is not None:
            groups.setdefault(bundle.edit.content(), []).append(i)
    logprob = [plain.copy() for _ in bundles]
    for members in groups.values():
        wanted = list({key: None for i in members for key in decisions[i].suffixes()})
        edited = _edited(model, choices, wanted, bundles[members[0]], size, prefix)
        found = dict(zip(wanted, edited.tolist(), strict=True))
        for i in members:
            for key in decisions[i].suffixes():
                logprob[i][key[0]] = found[key]
    return [
        Scores(found, d.fired, d.kept, d.strength)
        for found, d in zip(logprob, decisions, strict=True)
    ]


def _choice(
    model: LoadedModel, prompt: PromptSettings, scoring: ScoringSettings, question: str, answer: str
) -> Choice:
    text = choice_text(prompt, question, answer)
    if scoring.span == "offsets" or scoring.start != "released":
        tokens, offsets = model.encode_with_offsets(text.text)
        inside = [
            i for i, (start, end) in enumerate(offsets) if end > text.start and start < text.end
        ]
        if not inside:
            raise DataError(
                f"answer {answer!r} of {question!r}: no token of its own; remove it from the data"
            )
    else:
        tokens, inside = model.encode([text.text])[0], []
    if scoring.span == "released" or scoring.start == "released":
        n_before = len(model.encode([text.before])[0])
    scored = inside[0] if scoring.span == "offsets" else n_before + RELEASED_SPAN
    first = (
        n_before + RELEASED_START
        if scoring.start == "released"
        else inside[0] - (scoring.start == "answer")
    )
    end = inside[-1] + 1 if scoring.span == "offsets" else len(tokens)
    return Choice(tuple(tokens[:end]), first, scored)


def _unsteered(
    model: LoadedModel,
    choices: Sequence[Choice],
    bundles: Sequence[Bundle],
    size: int,
    prefix: Prefix | None,
) -> tuple[list[list[np.ndarray] | None], Float[np.ndarray, " row"]]:
    """For each bundle that reads p, each row's p from `seen_from` on; and every row's log-probability."""
    keys = [b.tracker.content() if b.tracker and b.reads_p else None for b in bundles]
    trackers = {key: b.tracker for key, b in zip(keys, bundles, strict=True) if key is not None}
    heads = Heads.of(list(trackers.values()), model.device) if trackers else None
    p = {key: [np.zeros(0)] * len(choices) for key in trackers}
    logprob = np.zeros(len(choices))
    passages = [Passage(choice.tokens, len(choice.tokens) - choice.seen_from) for choice in choices]

    def run(rows: list[int]) -> None:
        seen = score_batch(model, [passages[i] for i in rows], prefix, heads)
        logprob[rows] = _summed(seen.logprob, [choices[i] for i in rows])
        for found, part in zip(p.values(), seen.p, strict=True):
            for i, row in zip(rows, part, strict=True):
                found[i] = row[len(row) - passages[i].n_states :]

    in_batches([len(choice.tokens) for choice in choices], size, run)
    return [None if key is None else p[key] for key in keys], logprob


def _decide(choices: Sequence[Choice], bundle: Bundle, seen: list[np.ndarray] | None) -> Decision:
    """The policy's schedule over each row's editable positions; state 0 is the first of them."""
    length = np.array([max(len(choice.tokens) - 1 - choice.first_state, -1) for choice in choices])
    p = None
    if seen is not None:
        p = np.full((len(choices), max(length.max(initial=0), 0) + 1), np.nan, dtype=seen[0].dtype)
        for row, choice, n, found in zip(p, choices, length, seen, strict=True):
            first = (
                choice.scored_start - 1 if bundle.policy.gate == "question" else choice.first_state
            )
            states = found[first - choice.seen_from :][: n + 1]
            row[: len(states)] = states
    nothing = np.zeros((len(choices), 0), dtype=np.int64)
    return decide_choice(Trace(nothing, length, np.full(len(choices), LIMIT), p), bundle.policy)


def _edited(
    model: LoadedModel,
    choices: Sequence[Choice],
    wanted: Sequence[tuple[int, int, float]],
    bundle: Bundle,
    size: int,
    prefix: Prefix | None,
) -> Float[np.ndarray, " row"]:
    """Log-probabilities under the edit, which is active on all positions from where it begins (M6)."""
    rows = [choices[row] for row, _, _ in wanted]
    passages = [
        Passage(
            choice.tokens,
            len(choice.tokens) - choice.seen_from,
            [strength] * (len(choice.tokens) - choice.first_state - kept),
        )
        for choice, (_, kept, strength) in zip(rows, wanted, strict=True)
    ]
    logprob = np.zeros(len(rows))

    def run(part: list[int]) -> None:
        seen = score_batch(model, [passages[i] for i in part], prefix, edit=bundle.edit)
        logprob[part] = _summed(seen.logprob, [rows[i] for i in part])

    in_batches([len(choice.tokens) for choice in rows], size, run)
    return logprob


def _summed(
    logprob: Float[np.ndarray, "row token"], choices: Sequence[Choice]
) -> Float[np.ndarray, " row"]:
    """The sum over each row's last tokens, those that count."""
    n_scored = np.array([len(choice.tokens) - choice.scored_start for choice in choices])
    counts = np.arange(logprob.shape[1], 0, -1) <= n_scored[:, None]
    return np.where(counts, logprob, 0.0).sum(1, dtype=np.float64)
