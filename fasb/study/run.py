"""What a model answers and prefers, steered by given bundles; each finished cell kept in a store.

In: questions, the trace file's rows, bundles. Out: frames with a row per phrasing. Knows no fold,
no grid and no verdict. A model is loaded when the first cell that is not in the store needs it.

    trace         question, phrasing (int), prompt, tokens (lists of ids), ended (0 limit, 1 eos,
                  2 stop), text (the cleaned answer), pieces (what each token adds to the text);
                  where an oracle asks, also wrong (the judge finds it not true)
    answers       setting (the bundle's number), question, phrasing, answer, n_tokens, decoded
                  (tokens traced and written anew), passes (forward passes of a live run: each reads
                  a prompt, a text that is taken up again, or one token), ended, fired, kept,
                  strength; in detail also text (of the question), fired_at (tokens there were
                  when it fired), p (of states 0..n of the
                  unsteered answer; empty if not tracked), trace_pieces, answer_pieces, trace_answer
                  (the unsteered answer by the prompt of the trace, whatever the bundle's is)
    scores        setting, question, phrasing, mc1, mc2, mc3, fired (share of its reference answers)
    side effects  ce, kl (nats per token of each text, steered by alpha everywhere), ce_policy,
                  kl_policy (as the bundle's own policy has it), steered_policy (share of positions
                  it steers)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from fasb.artifacts import Store, stamp_of
from fasb.data.prompts import clean_answer
from fasb.data.protocol import Question
from fasb.decoding.decode import check, sweep, trace
from fasb.decoding.score import Choice, Scores, encode_choices, score_sweep
from fasb.decoding.side_effects import side_effects
from fasb.errors import ArtifactError
from fasb.metrics.answers import choice_rows
from fasb.model.chat import encode_prompts
from fasb.model.load import LoadedModel, load_model
from fasb.provenance import content_hash, contents_of
from fasb.settings import DecodingSettings, ModelSettings, PromptSettings
from fasb.sourcecode import version_of
from fasb.steering.bundle import Bundle
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.steering.trace import Answers, Trace
from fasb.study.progress import say
from fasb.study.shards import WHOLE, Shard

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
EFFECTS = ("ce", "kl", "ce_policy", "kl_policy", "steered_policy")
SCORES = ("question", "phrasing", "mc1", "mc2", "mc3", "fired")


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One way of putting a question; every one is asked by itself."""

    question: Question
    number: int
    text: str


def phrasings(questions: Sequence[Question]) -> list[Phrasing]:
    """Return all phrasings of all questions, in order: the rows of every frame."""
    found = []
    for question in questions:
        found += [Phrasing(question, i, text) for i, text in enumerate(question.phrasings)]
    return found


def traced(
    model: LoadedModel,
    questions: Sequence[Question],
    prompt: PromptSettings,
    decoding: DecodingSettings,
) -> pd.DataFrame:
    """Return unsteered answers to all phrasings of all questions."""
    rows = phrasings(questions)
    prompts = encode_prompts(model, prompt, [row.text for row in rows])
    model.check_room(prompts, decoding.tokens, decoding.batch)
    found = trace(model, prompts, decoding, prompt.stop)
    tokens = found.rows()
    return pd.DataFrame(
        {
            "question": [row.question.id for row in rows],
            "phrasing": [row.number for row in rows],
            "prompt": prompts,
            "tokens": tokens,
            "ended": found.ended,
            "text": [clean_answer(model.decode(row), prompt) for row in tokens],
            "pieces": [model.pieces(row) for row in tokens],
        }
    )


def check_traced_by(model: Fingerprint, path: Path) -> None:
    """Refuse unsteered answers of another model, or another revision, than the activations.

    Raises:
        BundleError: naming the file.
    """
    answered_by = stamp_of(path)["provenance"].get("fingerprint")
    if answered_by is not None:
        Fingerprint.read(answered_by, str(path)).check(model, None, str(path))


@dataclass(frozen=True, slots=True)
class Asked:
    """Some questions, what the model was given for each phrasing, and its own answer."""

    questions: tuple[Question, ...]
    rows: pd.DataFrame

    @classmethod
    def of(cls, questions: Sequence[Question], ids: Sequence[str], rows: pd.DataFrame) -> "Asked":
        """Return the questions called `ids`, of all questions and all rows of a trace file.

        Raises:
            ArtifactError: the trace has other phrasings than the questions.
        """
        wanted = set(ids)
        chosen = tuple(question for question in questions if question.id in wanted)
        found = rows[rows["question"].isin(wanted)].reset_index(drop=True)
        expected = [(row.question.id, row.number) for row in phrasings(chosen)]
        if list(zip(found["question"], found["phrasing"], strict=True)) != expected:
            raise ArtifactError(
                "trace: its rows are not the phrasings of these questions; run the stage 'trace' "
                "again"
            )
        return cls(chosen, found)

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids of each row."""
        return [list(map(int, prompt)) for prompt in self.rows["prompt"]]

    @property
    def trace(self) -> Trace:
        """The unsteered answers."""
        tokens = [list(map(int, row)) for row in self.rows["tokens"]]
        found = Trace.of(tokens, self.rows["ended"].tolist())
        if "wrong" not in self.rows:
            return found
        return replace(found, wrong=self.rows["wrong"].to_numpy(bool))

    @property
    def texts(self) -> list[str]:
        """The question of each row, as it was phrased."""
        return [row.text for row in phrasings(self.questions)]

    def content(self, verdicts: bool = False) -> str:
        """Return a hash of all that answers depend on; of an oracle's, verdicts too."""
        columns = [[*map(list, self.rows[name])] for name in ("prompt", "tokens")]
        columns += [self.rows[name].tolist() for name in ("question", "phrasing", "ended")]
        columns += [self.rows["wrong"].tolist()] if verdicts and "wrong" in self.rows else []
        return content_hash([columns, self.texts])


@dataclass(frozen=True, slots=True)
class Runner:
    """A model, loaded when needed, and the store of what it has finished.

    A cell's key holds all that its result depends on: the bundles, the prompts with their unsteered
    answers or the reference answers, the model and its settings, and the library's code.
    """

    settings: ModelSettings
    model: Callable[[], LoadedModel]
    store: Store
    siblings: bool = False
    """Whether bundles of other weights and config of the same build are taken."""
    shard: Shard = WHOLE
    """The share of a cell's questions that it is for."""
    encoded: dict[Any, list[Choice]] = field(default_factory=dict, init=False)
    """Choices that many methods are scored on, by prompt, scoring and a hash of their questions."""

    @classmethod
    def of(
        cls,
        model: Mapping[str, Any],
        store: Path,
        siblings: bool = False,
        shard: Shard = WHOLE,
    ) -> "Runner":
        """Return the runner of a model that is loaded as these settings say."""
        settings = ModelSettings(**model)
        return cls(settings, cache(lambda: load_model(settings)), Store(store), siblings, shard)

    def answers(
        self, asked: Asked, bundles: Sequence[Bundle], what: str, detail: bool = False
    ) -> pd.DataFrame:
        """Return each bundle's answers; `what` names the cell in progress lines."""

        def make(model: LoadedModel) -> pd.DataFrame:
            texts: dict[tuple[int, ...], str] = {}
            # by number, as bundles of one prompt are run together and not in their order
            parts: dict[int, pd.DataFrame] = {}
            for members, own in _asked_by(model, asked, bundles):
                # all of them at once: what is observed and written is shared
                chosen = [bundles[i] for i in members]
                found = sweep(model, own.prompts, own.trace, chosen)
                for i, answers in zip(members, found, strict=True):
                    rows = _answer_rows(model, own, bundles[i], answers, texts)
                    if detail:
                        rows = _detailed(model, own, rows, answers)
                        # another prompt's own answer is not the unsteered model's
                        rows = rows.assign(trace_answer=asked.rows["text"])
                    parts[i] = rows
            return _numbered([parts[i] for i in range(len(bundles))])

        # verdicts of an oracle beside them change nothing of other methods' answers
        oracle = any(bundle.policy.when == "oracle" for bundle in bundles)
        key = ["answers", list(DETAIL) if detail else [], asked.content(oracle)]
        if detail and any(_asks_anew(bundle) for bundle in bundles):
            # beside their own answers stand those by the prompt of the trace
            key.append(content_hash(asked.rows["text"].tolist()))
        return self._kept(key, bundles, what, make)

    def scores(
        self, questions: Sequence[Question], bundles: Sequence[Bundle], what: str
    ) -> pd.DataFrame:
        """Return each bundle's choice metrics of the questions that have false answers."""
        asked = [question for question in questions if question.false]
        rows, content = phrasings(asked), content_hash([asdict(question) for question in asked])
        if not rows:
            return pd.DataFrame(columns=["setting", *SCORES])

        def make(model: LoadedModel) -> pd.DataFrame:
            pairs = []
            for row in rows:
                pairs += [(row.text, answer) for answer in row.question.references]
            parts: dict[int, pd.DataFrame] = {}
            for prompt, members in _by_prompt(bundles).items():
                chosen = [bundles[i] for i in members]
                scoring = chosen[0].scoring
                choices = self.encoded.get((prompt, scoring, content))
                if choices is None:
                    choices = encode_choices(model, prompt, scoring, pairs)
                    self.encoded[prompt, scoring, content] = choices
                metrics = _choice_metrics(rows, score_sweep(model, choices, chosen))
                parts |= dict(zip(members, metrics, strict=True))
            return _numbered([parts[i] for i in range(len(bundles))])

        return self._kept(["scores", content], bundles, what, make)

    def side_effects(
        self, texts: Sequence[str], bundle: Bundle, tokens: int, batch: int, what: str
    ) -> pd.DataFrame:
        """Return what the bundle does to texts that are cut to `tokens`: see `EFFECTS`."""

        def make(model: LoadedModel) -> pd.DataFrame:
            cut = [row[:tokens] for row in model.encode(texts)]
            everywhere, own = side_effects(model, cut, [bundle], batch)[0]
            values = (everywhere.ce, everywhere.kl, own.ce, own.kl, own.steered)
            return pd.DataFrame(dict(zip(EFFECTS, values, strict=True)))

        key = ["side effects", content_hash([list(texts), tokens])]
        return self._kept(key, [bundle], what, make)

    def _kept(
        self,
        key: list[Any],
        bundles: Sequence[Bundle],
        what: str,
        make: Callable[[LoadedModel], pd.DataFrame],
    ) -> pd.DataFrame:
        fingerprint = bundles[0].fingerprint
        key = [
            *key,
            [bundle.key() for bundle in bundles],
            None if fingerprint is None else asdict(fingerprint),
            self.settings.model_dump(mode="json"),
            # a folder may be trained anew under its name
            contents_of((self.settings.path, self.settings.tokenizer)),
            version_of(__name__),
        ]
        kept = self.store.load(key)
        if kept is not None:
            say(f"{what}: taken from the store")
            return kept
        model = self.model()
        # a study's config cannot allow them
        check(model, bundles[0], self.siblings or None)
        start = time.monotonic()
        frame = self.store.keep(key, make(model))
        took = time.monotonic() - start
        say(f"{what}: {len(bundles)} settings, {len(frame)} rows in {took:.1f} s")
        return frame


def _by_prompt(bundles: Sequence[Bundle]) -> dict[PromptSettings, list[int]]:
    """Return the numbers of the bundles of each prompt."""
    found: dict[PromptSettings, list[int]] = {}
    for i, bundle in enumerate(bundles):
        found.setdefault(bundle.prompt, []).append(i)
    return found


def _asked_by(
    model: LoadedModel, asked: Asked, bundles: Sequence[Bundle]
) -> list[tuple[list[int], Asked]]:
    """Return which bundles start from which unsteered answers.

    Those whose prompt is not the one of the trace are asked anew (docs/method.md C12).
    """
    found = []
    for prompt, members in _by_prompt(bundles).items():
        own = asked
        # by tokens: prompts that differ in settings of other texts (banks, choices) ask the same
        if encode_prompts(model, prompt, asked.texts) != asked.prompts:
            rows = traced(model, asked.questions, prompt, bundles[members[0]].decoding)
            own = replace(asked, rows=rows)
        found.append((members, own))
    return found


def _asks_anew(bundle: Bundle) -> bool:
    """Return whether a bundle has another prompt than its cell (docs/method.md C12)."""
    return "instruction" in ((bundle.about or {}).get("settings") or {})


def _numbered(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat([part.assign(setting=i) for i, part in enumerate(parts)], ignore_index=True)
    return frame[["setting", *parts[0].columns]]


def _answer_rows(
    model: LoadedModel,
    asked: Asked,
    bundle: Bundle,
    found: Answers,
    texts: dict[tuple[int, ...], str],
) -> pd.DataFrame:
    """One bundle's rows; `texts` are of tokens that others wrote: many settings write the same."""
    # what did not fire keeps its unsteered text (G5)
    answers = list(asked.rows["text"])
    for row, tokens in enumerate(found.after.rows()):
        if found.decision.fired[row]:
            written = tuple(tokens)
            if written not in texts:
                texts[written] = clean_answer(model.decode(tokens), bundle.prompt)
            answers[row] = texts[written]
    columns = {
        "question": asked.rows["question"],
        "phrasing": asked.rows["phrasing"],
        "answer": answers,
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
    """Return passes whose token was not taken: states that fired, and a last one read for its p."""
    if policy.chooses_within:  # the prompt, or each draw's end
        return np.ones_like(rounds) if policy.guide else rounds * policy.best_of
    reads_last = policy.checks_tokens and policy.judged == "newest"
    if not policy.reads_p or (policy.when == "token" and not reads_last):
        return np.zeros_like(rounds)
    ends_read = rounds * policy.best_of if policy.best_of > 1 else 0
    again = rounds - (policy.when == "always") + (reads_last & (rounds < policy.backtracks))
    return again + ends_read


def _detailed(
    model: LoadedModel, asked: Asked, frame: pd.DataFrame, found: Answers
) -> pd.DataFrame:
    """Return the rows with p of the unsteered answer, and both answers token by token."""
    unsteered = [list(pieces) for pieces in asked.rows["pieces"]]
    pieces, p = [], []
    for row, tokens in enumerate(found.after.rows()):
        fired = found.decision.fired[row]
        pieces.append(model.pieces(tokens) if fired else unsteered[row])
        # state 0 is the prompt's last token; what lies behind a row's own states is padding
        n_states = found.before.length[row] + 1
        seen = found.before.p
        p.append([] if seen is None else seen[row, :n_states].astype(np.float64).tolist())
    return frame.assign(
        text=asked.texts,
        fired_at=found.decision.fired_at,
        p=p,
        trace_pieces=unsteered,
        answer_pieces=pieces,
    )


def _choice_metrics(rows: Sequence[Phrasing], found: Sequence[Scores]) -> list[pd.DataFrame]:
    """Return each bundle's rows of `scores`."""
    logprob = np.stack([scores.logprob for scores in found])
    fired = np.stack([scores.fired for scores in found])
    ids, numbers = [row.question.id for row in rows], [row.number for row in rows]
    frames = []
    for values in choice_rows([row.question for row in rows], logprob, fired):
        frame = pd.DataFrame(values, columns=list(SCORES[2:]))
        frame.insert(0, "question", ids)
        frame.insert(1, "phrasing", numbers)
        frames.append(frame)
    return frames
