"""Scoring: how likely a model finds given answers, steered where they deviate (docs/method.md 1.5).

In: questions with their candidate answers, and a bundle or many. Out: a log-probability per answer.
One unsteered pass gives p and log-probabilities of all. Answers that fired are run again under the
edit, from the first edited position on and behind the last layer that is not edited: what stands
before both is taken from the unsteered pass.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.data.prompts import Asked, Render, answer_tokens, choice_text
from fasb.decoding.deviation import tracker_key
from fasb.decoding.observe import (
    Observation,
    TeacherForcedText,
    TrackerGroup,
    score_again,
    score_batch,
)
from fasb.decoding.suffixes import Suffix
from fasb.errors import DataError
from fasb.model.batch import Prefix, in_batches, shared_prefix
from fasb.model.chat import render_of
from fasb.model.load import LoadedModel
from fasb.model.midway import Entrance, entrance
from fasb.settings import PromptSettings, ScoringSettings, check_places
from fasb.steering.bundle import Bundle
from fasb.steering.decide import decide_choice
from fasb.steering.edit import Active, Edit
from fasb.steering.trace import LIMIT, Decision, Trace
from fasb.steering.tracker import Tracker

LOGITS = 2**25
"""Logits of one pass on a host, where a batch that does not fit is no error that halves it."""
RELEASED_SPAN, RELEASED_START = 3, 4
"""Tokens after the question's own at which the released program begins to score, and to edit (M2,
M3)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate answer behind its question.

    first_state: the first position that may be edited and judged (M2); at `len(tokens)` or beyond
    there is none. scored_start: the first token that counts (M3); the one before it is what
    `when: prompt` judges.
    """

    tokens: tuple[int, ...]
    first_state: int
    scored_start: int

    @property
    def seen_from(self) -> int:
        """The first position whose state or prediction matters."""
        return min(self.first_state, self.scored_start - 1)

    @property
    def n_states(self) -> int:
        """How many of the last positions matter."""
        return len(self.tokens) - self.seen_from

    def strengths(self, active: Active, kept: int, strength: float) -> Float[np.ndarray, " token"]:
        """Return what each token is edited with, where `kept` editable positions stay as they are.

        Within one pass an edit is active on all positions from where it begins (M6).
        """
        begins = {"all": 0, "prompt_end": self.scored_start - 1}
        first = begins.get(active.positions, self.first_state)
        found = np.zeros(len(self.tokens))
        found[first:] = strength * active.shares(kept, len(found[first:]))
        return found


@dataclass(frozen=True, slots=True)
class Scores:
    """Natural log-probabilities of candidate answers, summed over the tokens that count (M9)."""

    logprob: Float[np.ndarray, " row"]
    fired: Bool[np.ndarray, " row"]
    kept: Int[np.ndarray, " row"]
    strength: Float[np.ndarray, " row"]


def encode_choices(
    model: LoadedModel,
    prompt: PromptSettings,
    scoring: ScoringSettings,
    pairs: Sequence[tuple[Asked, str]],
) -> list[Choice]:
    """Tokens and spans of (question, answer) pairs (M2, M3); a question may be a conversation.

    By offsets, the scored tokens are those that hold a character of the answer, and the space
    before it; what a template puts behind it is cut off. As released, they are all but the first
    3 after the question's L tokens.

    Raises:
        DataError: an answer without any token of its own.
        ConfigError: a chat of which the released places are asked for, or without a template.
        ModelError: a text is too long for the model, or a batch for its memory.
    """
    render = render_of(model, prompt)
    check_places(prompt, scoring)
    choices = [_choice(model, prompt, scoring, pair, render) for pair in pairs]
    if choices and all(choice.scored_start >= len(choice.tokens) for choice in choices):
        raise DataError(
            f"answer {pairs[0][1]!r}: neither of it nor of another is a token scored, as the "
            "released places begin behind them; set scoring.span to offsets"
        )
    if scoring.span == "released":
        _warn_of_lost_tokens(model, prompt, choices, pairs)
    model.check_room([choice.tokens for choice in choices], 0, scoring.batch)
    return choices


def score(
    model: LoadedModel, choices: Sequence[Choice], bundle: Bundle, batch: int | None = None
) -> Scores:
    """Return the bundle's scores; `batch` answers in one pass, if not as its settings say.

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
    """Return `score` for each of many bundles: each distinct steered answer is run once.

    Raises:
        BundleError: a policy needs a tracker or an edit that its bundle does not have.
    """
    for bundle in bundles:
        bundle.require()
    n_rows = len(choices)
    found = [_nothing_scored(n_rows) for _ in bundles]
    if not choices or not bundles:
        return found
    size = batch or bundles[0].scoring.batch
    # one answer at least, whatever its length
    size = min(size, _most_tokens(model) // max(c.n_states for c in choices) or 1)
    grid = _Grid.of(model, bundles)
    # of each, a prefix leaves out at least the last token, whose state is looked at
    beginnings = [choice.tokens[: choice.seen_from + 1] for choice in choices]
    prefix = shared_prefix(model, beginnings)

    def run(rows: list[int]) -> None:
        part = [choices[i] for i in rows]
        for scores, of_part in zip(found, _score_block(model, part, grid, prefix), strict=True):
            scores.logprob[rows], scores.fired[rows] = of_part.logprob, of_part.fired
            scores.kept[rows], scores.strength[rows] = of_part.kept, of_part.strength

    in_batches([len(choice.tokens) for choice in choices], size, run)
    return found


@dataclass(frozen=True, slots=True)
class _SharedEdit:
    """An edit, the bundles that share it, and where passes under it may begin."""

    edit: Edit
    bundles: list[int]
    entrance: Entrance | None


@dataclass(frozen=True, slots=True)
class _Grid:
    """Bundles, their distinct trackers, and their distinct edits."""

    bundles: Sequence[Bundle]
    trackers: TrackerGroup
    tracker_of: list[int | None]
    edits: list[_SharedEdit]

    @classmethod
    def of(cls, model: LoadedModel, bundles: Sequence[Bundle]) -> "_Grid":
        trackers: dict[bytes, Tracker] = {}
        edits: dict[bytes, _SharedEdit] = {}
        keys: list[bytes | None] = []
        for i, bundle in enumerate(bundles):
            key = tracker_key(bundle)
            if key is not None and bundle.tracker is not None:
                trackers[key] = bundle.tracker
            keys.append(key)
            if bundle.edit is None or bundle.policy.when == "never":
                continue
            content = bundle.edit.content()
            if content not in edits:
                edits[content] = _SharedEdit(bundle.edit, [], _entrance(model, bundle.edit))
            edits[content].bundles.append(i)
        number = {key: i for i, key in enumerate(trackers)}
        group = TrackerGroup.of(list(trackers.values()), model.device)
        tracker_of = [None if key is None else number[key] for key in keys]
        return cls(bundles, group, tracker_of, list(edits.values()))

    @property
    def layers(self) -> list[int]:
        """Layers behind which passes under the edits begin."""
        return sorted({one.entrance.layer for one in self.edits if one.entrance is not None})


def _entrance(model: LoadedModel, edit: Edit) -> Entrance | None:
    # what all texts share, which the unsteered pass does not run, is edited too
    return None if edit.active.positions == "all" else entrance(model, edit)


def _choice(
    model: LoadedModel,
    prompt: PromptSettings,
    scoring: ScoringSettings,
    pair: tuple[Asked, str],
    render: Render | None,
) -> Choice:
    text = choice_text(prompt, *pair, render)
    if scoring.span == "offsets" or scoring.start != "released":
        tokens, offsets = model.encode_with_offsets(text.text, special=render is None)
        inside = answer_tokens(text, offsets, rendered=render is not None)
        if not inside:
            raise DataError(
                f"answer {pair[1]!r} of {pair[0]!r}: no token of its own; remove it from the data"
            )
    else:
        tokens, inside = model.encode([text.text])[0], []
    n_before = 0
    if scoring.span == "released" or scoring.start == "released":
        n_before = len(model.encode([text.before])[0])
    # released places are counted from the question's tokens (M2, M3)
    scored = inside[0] if scoring.span == "offsets" else n_before + RELEASED_SPAN
    first = n_before + RELEASED_START
    if scoring.start != "released":
        first = inside[0] - (scoring.start == "answer")
    end = inside[-1] + 1 if scoring.span == "offsets" else len(tokens)
    return Choice(tuple(tokens[:end]), first, scored)


def _warn_of_lost_tokens(
    model: LoadedModel,
    prompt: PromptSettings,
    choices: Sequence[Choice],
    pairs: Sequence[tuple[Asked, str]],
) -> None:
    r"""Say so where the released span begins behind an answer's first token (M3).

    It supposes that "\nA:" is three tokens after a question. Where a tokenizer joins the line
    break with what stands before it, as Llama 3's and Qwen's do with "?", every answer loses one.
    """
    lost = 0
    for choice, pair in zip(choices, pairs, strict=True):
        by_offsets = _choice(model, prompt, ScoringSettings(), pair, None)
        lost += choice.scored_start > by_offsets.scored_start
    if lost:
        logging.getLogger(__name__).warning(
            f"scoring.span: released, but in {lost} of {len(pairs)} answers it leaves out the "
            "answer's first token, for this tokenizer joins the line break with the question; MC "
            "values are the released program's, not the answers'; for those set it to offsets"
        )


def _score_block(
    model: LoadedModel, choices: Sequence[Choice], grid: _Grid, prefix: Prefix | None
) -> list[Scores]:
    """Score the answers of one batch under every bundle."""
    texts = [TeacherForcedText(choice.tokens, choice.n_states) for choice in choices]
    seen = score_batch(model, texts, prefix, grid.trackers, grid.layers)
    plain = _PlainPass(choices, texts, seen)
    found = []
    for bundle, number in zip(grid.bundles, grid.tracker_of, strict=True):
        if bundle.policy.draws_several and number is not None:
            found.append(_ranked(plain.states(number)))
            continue
        if bundle.policy.guide and number is not None:
            found.append(_guided(plain, plain.states(number), bundle.policy.guide))
            continue
        decision = _decide(choices, bundle, None if number is None else plain.states(number))
        logprob = plain.total.copy()
        found.append(Scores(logprob, decision.fired, decision.kept, decision.strength))
    budget = len(choices) * max(len(choice.tokens) for choice in choices)
    budget = min(budget, _most_tokens(model))
    for shared in grid.edits:
        wanted: dict[Suffix, None] = {}
        for i in shared.bundles:
            wanted |= dict.fromkeys(_suffixes(found[i]))
        steered = _score_suffixes(model, plain, list(wanted), shared, budget)
        for i in shared.bundles:
            for suffix in _suffixes(found[i]):
                found[i].logprob[suffix[0]] = steered[suffix]
    return found


def _most_tokens(model: LoadedModel) -> int:
    """Return of how many tokens a pass may give logits; a GPU's memory halves the batch itself."""
    return max(1, LOGITS // model.vocab_size) if model.device.type == "cpu" else 2**62


class _PlainPass:
    """What the unsteered pass saw of each answer: p of its states, log-probabilities of tokens."""

    def __init__(
        self, choices: Sequence[Choice], texts: Sequence[TeacherForcedText], seen: Observation
    ) -> None:
        self.choices, self.seen, self._texts = choices, seen, texts
        self.total = np.array(
            [self.before(row, len(choices[row].tokens)) for row in range(len(choices))]
        )

    def states(self, tracker: int) -> list[Float[np.ndarray, " _"]]:
        """Return p of each answer's states from `seen_from` on."""
        p = self.seen.p[tracker]
        return [row[len(row) - text.n_states :] for row, text in zip(p, self._texts, strict=True)]

    def before(self, row: int, end: int) -> float:
        """Return the summed log-probability of an answer's tokens that count, up to token `end`."""
        choice, n = self.choices[row], len(self.choices[row].tokens)
        of_tokens = self.seen.logprob[row]
        # its columns are the last tokens of the batch: token i is at n_columns - n + i
        n_columns = len(of_tokens)
        first, last = n_columns - (n - choice.scored_start), n_columns - (n - end)
        return float(of_tokens[first : max(first, last)].sum(dtype=np.float64))


def _decide(
    choices: Sequence[Choice], bundle: Bundle, seen: list[Float[np.ndarray, " _"]] | None
) -> Decision:
    """Ask the policy about each row's editable positions; state 0 is the first of them."""
    # number of each row's last state; -1 where there is none (M7)
    length = np.array([max(len(choice.tokens) - 1 - choice.first_state, -1) for choice in choices])
    p = None
    if seen is not None:
        width = max(int(length.max(initial=0)), 0) + 1
        p = np.full((len(choices), width), np.nan, dtype=seen[0].dtype)
        for row, choice in enumerate(choices):
            first = choice.first_state
            # state 0 is then the one before the answer, wherever editing begins
            if bundle.policy.when == "prompt":
                first = choice.scored_start - 1
            states = seen[row][first - choice.seen_from :][: length[row] + 1]
            p[row, : len(states)] = states
    nothing = np.zeros((len(choices), 0), dtype=np.int64)
    ended = np.full(len(choices), LIMIT)
    return decide_choice(Trace(nothing, length, ended, p), bundle.policy)


def _ranked(seen: Sequence[Float[np.ndarray, " _"]]) -> Scores:
    """Return log(1 - p) at each answer's last token as its log-probability: p alone ranks (C7)."""
    p = np.array([states[-1] for states in seen], dtype=np.float64)
    nothing = _nothing_scored(len(seen))
    # 1 - p of 0 would be minus infinity
    return replace(nothing, logprob=np.log1p(-np.minimum(p, 1 - 1e-12)))


def _guided(plain: _PlainPass, seen: Sequence[Float[np.ndarray, " _"]], weight: float) -> Scores:
    """Return log-probabilities minus weight times p, summed over the tokens that count (C11)."""
    found = replace(_nothing_scored(len(seen)), logprob=plain.total.copy())
    for row, choice in enumerate(plain.choices):
        of_tokens = seen[row][choice.scored_start - choice.seen_from :]
        found.logprob[row] -= weight * float(of_tokens.sum(dtype=np.float64))
    return found


def _suffixes(scores: Scores) -> list[Suffix]:
    """Return (row, kept, strength) of rows that fired; kept counts editable positions."""
    rows = scores.fired.nonzero()[0]
    kept, strength = scores.kept[rows].tolist(), scores.strength[rows].tolist()
    return list(zip(rows.tolist(), kept, strength, strict=True))


def _score_suffixes(
    model: LoadedModel,
    plain: _PlainPass,
    wanted: Sequence[Suffix],
    shared: _SharedEdit,
    budget: int,
) -> dict[Suffix, float]:
    """Score answers under the edit; what stands before the first edited token is not run again.

    Batches hold as many tokens as the unsteered one did, so that they fit the memory as it did.
    """
    found: dict[Suffix, float] = {}
    texts, suffixes = [], []
    for suffix in wanted:
        row, kept, strength = suffix
        tokens = plain.choices[row].tokens
        strengths = plain.choices[row].strengths(shared.edit.active, kept, strength)
        edited = strengths.nonzero()[0]
        if not len(edited) or edited[0] >= len(tokens) - 1:
            found[suffix] = float(plain.total[row])  # no token follows an edited one
            continue
        first = int(edited[0])
        suffixes.append(suffix)
        texts.append(
            TeacherForcedText(tokens, len(tokens) - first, strengths[first:], (row, first))
        )
    order = sorted(range(len(texts)), key=lambda i: -texts[i].n_states)
    while order:
        size = max(1, budget // texts[order[0]].n_states)
        part, order = order[:size], order[size:]
        chosen = [texts[i] for i in part]
        logprob = score_again(model, chosen, plain.seen, shared.edit, shared.entrance)
        for i, of_tokens in zip(part, logprob, strict=True):
            row = suffixes[i][0]
            choice = plain.choices[row]
            first = len(choice.tokens) - texts[i].n_states
            # tokens up to the first edited one are as likely as they were
            n_new = len(choice.tokens) - max(choice.scored_start, first + 1)
            new = of_tokens[len(of_tokens) - n_new :].sum(dtype=np.float64)
            found[suffixes[i]] = plain.before(row, first + 1) + float(new)
    return found


def _nothing_scored(n_rows: int) -> Scores:
    kept = np.zeros(n_rows, dtype=np.int64)
    return Scores(np.zeros(n_rows), np.zeros(n_rows, dtype=bool), kept, np.zeros(n_rows))
