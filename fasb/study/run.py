"""What a model answers and prefers, steered by given bundles: rows of results, each finished cell kept in a store.

In: questions, the trace file's rows, bundles. Out: frames with a row per phrasing. Knows no fold,
no grid and no verdict. A model is loaded when the first cell that is not in the store needs it.

    trace         question, phrasing (int), prompt, tokens (lists of ids), ended (0 limit, 1 eos, 2 stop),
                  text (the cleaned answer), pieces (what each token adds to the text)
    answers       setting (the bundle's number), question, phrasing, answer, n_tokens, decoded (tokens traced and
                  written anew), passes (forward passes of a live run: each reads a prompt, a text
                  that is taken up again, or one token), ended, fired, kept, strength; in detail
                  also text (of the question), fired_at (tokens there were when it fired), p (of
                  states 0..n of the unsteered answer; empty if not tracked), trace_pieces,
                  answer_pieces, trace_answer
    scores        setting, question, phrasing, mc1, mc2, mc3, fired (share of its reference answers)
    side effects  ce, kl (nats per token of each text, steered by alpha everywhere), ce_gated, kl_gated (as the
                  bundle's own gate has it), steered_gated (share of positions it steers)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from fasb.artifacts import Store, content_hash, weights_of
from fasb.data.prompts import clean_answer, generation_prompt
from fasb.data.protocol import Question
from fasb.decoding.decode import Answers, check, sweep, trace
from fasb.decoding.score import Scores, encode_choices, score_sweep
from fasb.decoding.side_effects import side_effects
from fasb.errors import ArtifactError
from fasb.metrics.answers import choice_metrics
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings, ModelSettings, PromptSettings
from fasb.steering.bundle import Bundle
from fasb.steering.policy import Policy
from fasb.steering.trace import Trace
from fasb.study.progress import say

ANSWERS = (
    "question",
    "phrasing",
    "answer",
    "n_tokens",
    "decoded",
    "passes",
    "ended",
    "fired",
    "kept",
    "strength",
)
DETAIL = ("text", "fired_at", "p", "trace_pieces", "answer_pieces", "trace_answer")
EFFECTS = ("ce", "kl", "ce_gated", "kl_gated", "steered_gated")
SCORES = ("question", "phrasing", "mc1", "mc2", "mc3", "fired")


def traced(
    model: LoadedModel,
    questions: Sequence[Question],
    prompt: PromptSettings,
    decoding: DecodingSettings,
) -> pd.DataFrame:
    """Unsteered answers to all phrasings of all questions."""
    rows = [
        (question.id, i, text)
        for question in questions
        for i, text in enumerate(question.phrasings)
    ]
    prompts = model.encode([generation_prompt(prompt, text) for _, _, text in rows])
    model.check_room(prompts, decoding.tokens, decoding.batch)
    found = trace(model, prompts, decoding, prompt.stop)
    tokens = found.rows()
    return pd.DataFrame(
        {
            "question": [row[0] for row in rows],
            "phrasing": [row[1] for row in rows],
            "prompt": prompts,
            "tokens": tokens,
            "ended": found.ended,
            "text": [clean_answer(model.decode(row), prompt) for row in tokens],
            "pieces": [model.pieces(row) for row in tokens],
        }
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """Some questions, what the model was given for each of their phrasings, and what it answered by itself."""

    questions: tuple[Question, ...]
    rows: pd.DataFrame

    @classmethod
    def of(cls, questions: Sequence[Question], ids: Sequence[str], rows: pd.DataFrame) -> "Asked":
        """The questions called `ids`, of all questions and all rows of a trace file.

        Raises:
            ArtifactError: the trace has other phrasings than the questions.
        """
        wanted = set(ids)
        chosen = tuple(question for question in questions if question.id in wanted)
        found = rows[rows["question"].isin(wanted)].reset_index(drop=True)
        expected = [(question.id, i) for question in chosen for i in range(len(question.phrasings))]
        if [*zip(found["question"], found["phrasing"])] != expected:
            raise ArtifactError(
                "trace: its rows are not the phrasings of these questions; run 'fasb trace' again"
            )
        return cls(chosen, found)

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids of each row."""
        return [list(map(int, prompt)) for prompt in self.rows["prompt"]]

    @property
    def trace(self) -> Trace:
        """The unsteered answers."""
        return Trace.of(
            [list(map(int, row)) for row in self.rows["tokens"]], self.rows["ended"].tolist()
        )

    @property
    def texts(self) -> list[str]:
        """The question of each row, as it was phrased."""
        return [text for question in self.questions for text in question.phrasings]


@dataclass(frozen=True, slots=True)
class Runner:
    """A model, loaded when needed, and the store of what it has finished.

    A cell's key holds all that its result depends on: the bundles, the prompts with their unsteered
    answers or the reference answers, the model and its settings, and the library's version.
    """

    settings: ModelSettings
    model: Callable[[], LoadedModel]
    store: Store
    siblings: bool = False
    """Whether bundles of another model of the same build are taken."""

    def answers(
        self, asked: Asked, bundles: Sequence[Bundle], what: str, detail: bool = False
    ) -> pd.DataFrame:
        """Each bundle's answers; `what` names the cell in progress lines."""
        rows = asked.rows
        content = [[*map(list, rows[column])] for column in ("prompt", "tokens")]
        content += [rows[column].tolist() for column in ("question", "phrasing", "ended")]
        key = [
            "answers",
            list(DETAIL) if detail else [],
            content_hash([content, list(asked.texts)]),
        ]

        def make(model: LoadedModel) -> pd.DataFrame:
            found = sweep(model, asked.prompts, asked.trace, bundles)
            cache: dict[tuple[int, ...], str] = {}
            parts = [
                _answer_rows(model, asked, *pair, cache)
                for pair in zip(bundles, found, strict=True)
            ]
            if detail:
                parts = [_detailed(model, asked, *pair) for pair in zip(parts, found, strict=True)]
            return _numbered(parts)

        return self._kept(key, bundles, what, make)

    def scores(
        self, questions: Sequence[Question], bundles: Sequence[Bundle], what: str
    ) -> pd.DataFrame:
        """Each bundle's multiple-choice metrics of the questions that have false answers."""
        questions = [question for question in questions if question.false]
        key = ["scores", content_hash([asdict(question) for question in questions])]

        def make(model: LoadedModel) -> pd.DataFrame:
            first = bundles[0]
            pairs = [
                (text, answer)
                for text, question in _phrased(questions)
                for answer in question.references
            ]
            choices = encode_choices(model, first.prompt, first.scoring, pairs)
            return _numbered(
                [_score_rows(questions, found) for found in score_sweep(model, choices, bundles)]
            )

        if not questions:
            return pd.DataFrame(columns=["setting", *SCORES])
        return self._kept(key, bundles, what, make)

    def side_effects(
        self, texts: Sequence[str], bundle: Bundle, tokens: int, batch: int, what: str
    ) -> pd.DataFrame:
        """What the bundle does to texts that are cut to `tokens`: see `EFFECTS`."""

        def make(model: LoadedModel) -> pd.DataFrame:
            cut = [row[:tokens] for row in model.encode(texts)]
            everywhere, gated = side_effects(model, cut, [bundle], batch)[0]
            values = (everywhere.ce, everywhere.kl, gated.ce, gated.kl, gated.steered)
            return pd.DataFrame(dict(zip(EFFECTS, values, strict=True)))

        return self._kept(
            ["side effects", content_hash([list(texts), tokens])], [bundle], what, make
        )

    def _kept(
        self,
        key: list[Any],
        bundles: Sequence[Bundle],
        what: str,
        make: Callable[[LoadedModel], pd.DataFrame],
    ) -> pd.DataFrame:
        made_for = [
            asdict(bundle.fingerprint) if bundle.fingerprint else None for bundle in bundles[:1]
        ]
        key = [
            *key,
            [bundle.key() for bundle in bundles],
            made_for,
            self.settings.model_dump(mode="json"),
            weights_of(self.settings.path),
            metadata.version("fasb"),
        ]
        kept = self.store.load(key)
        if kept is not None:
            say(f"{what}: taken from the store")
            return kept
        model = self.model()
        check(model, bundles[0], self.siblings)
        start = time.monotonic()
        frame = self.store.keep(key, make(model))
        say(
            f"{what}: {len(bundles)} settings, {len(frame)} rows in {time.monotonic() - start:.1f} s"
        )
        return frame


def choice_rows(questions: Sequence[Question], scores: Scores) -> Float[np.ndarray, "question 4"]:
    """MC1, MC2, MC3 (NaN without false answers) and the share of answers that fired.

    `scores` are of all references of each question in turn, the true ones first; a question stands
    once per phrasing.
    """
    rows, start = [], 0
    logprob = scores.logprob.astype(np.float64)
    for question in questions:
        middle, end = start + len(question.true), start + len(question.references)
        metrics = choice_metrics(
            logprob[start:middle], logprob[middle:end], question.true.index(question.best)
        )
        rows.append((*metrics, scores.fired[start:end].mean()))
        start = end
    return np.array(rows, dtype=np.float64)


def _numbered(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat([part.assign(setting=i) for i, part in enumerate(parts)], ignore_index=True)
    return frame[["setting", *parts[0].columns]]


def _answer_rows(
    model: LoadedModel,
    asked: Asked,
    bundle: Bundle,
    found: Answers,
    cache: dict[tuple[int, ...], str],
) -> pd.DataFrame:
    """One bundle's rows; `cache` holds texts of tokens, since many settings write the same."""
    texts = []
    for tokens, fired, unsteered in zip(
        found.after.rows(), found.decision.fired, asked.rows["text"]
    ):
        key = tuple(tokens)
        if fired and key not in cache:
            cache[key] = clean_answer(model.decode(tokens), bundle.prompt)
        texts.append(cache[key] if fired else unsteered)
    columns = {
        "question": asked.rows["question"],
        "phrasing": asked.rows["phrasing"],
        "answer": texts,
        "n_tokens": found.after.length,
        "decoded": found.decoded,
        "passes": found.decoded + _unwritten(bundle.policy, found.rounds),
        "ended": found.after.ended,
        "fired": found.decision.fired,
        "kept": found.decision.kept,
        "strength": found.decision.strength,
    }
    return pd.DataFrame(columns)


def _unwritten(policy: Policy, rounds: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """Passes whose token was not taken: of each state that fired, and of a last token that was read for its p."""
    reads_last = policy.when in ("token", "always") and policy.judged == "newest"
    if policy.when == "token" and not reads_last:
        return np.zeros_like(rounds)
    return rounds - (policy.when == "always") + (reads_last & (rounds < policy.backtracks))


def _detailed(
    model: LoadedModel, asked: Asked, frame: pd.DataFrame, found: Answers
) -> pd.DataFrame:
    before = found.before
    n_states = before.length + 1
    p = before.p
    pieces = [
        model.pieces(tokens) if fired else list(unsteered)
        for tokens, fired, unsteered in zip(
            found.after.rows(), found.decision.fired, asked.rows["pieces"]
        )
    ]
    return frame.assign(
        text=asked.texts,
        fired_at=found.decision.fired_at,
        p=[
            [] if p is None else p[row, :n].astype(np.float64).tolist()
            for row, n in enumerate(n_states)
        ],
        trace_pieces=[list(part) for part in asked.rows["pieces"]],
        answer_pieces=pieces,
        trace_answer=asked.rows["text"],
    )


def _phrased(questions: Sequence[Question]) -> list[tuple[str, Question]]:
    return [(text, question) for question in questions for text in question.phrasings]


def _score_rows(questions: Sequence[Question], found: Scores) -> pd.DataFrame:
    rows = [
        (question.id, phrasing)
        for question in questions
        for phrasing in range(len(question.phrasings))
    ]
    values = choice_rows([question for _, question in _phrased(questions)], found)
    return pd.DataFrame(
        [(*row, *map(float, line)) for row, line in zip(rows, values)], columns=list(SCORES)
    )
