"""Growth: answers while they are written, row by row on the CPU, and when each is at its end.

In: where rows begin. Out: their texts so far, what each state was edited with, how each ended.
Knows no batch and no policy; `fasb.decoding.generate` runs the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.decoding.sampling import Sampler
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.trace import EOS, LIMIT, OPEN, STOP


@dataclass(frozen=True, slots=True)
class Start:
    """Where a row begins: its prompt, the tokens of its answer that stay, the most tokens of the answer in all.

    From the last token that stays on, it is edited `strength` times. begins: which of the prefix's
    texts the prompt and the tokens that stay are the beginning of. Answers with an equal `like` are
    expected to go on alike: what one of them says is the next one's draft, and its tokens that are
    right are taken over without a step each. Rows start by `turn`.
    """

    prompt: Sequence[int]
    kept: Sequence[int]
    limit: int
    strength: float = 0.0
    begins: int = 0
    like: tuple[int, int] | None = None
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a row: the tokens that followed, and how it ended (`fasb.steering.trace`)."""

    tokens: list[int]
    ended: int


@dataclass(frozen=True, slots=True)
class Ending:
    """When an answer ends before its limit. `suspect`: tokens that can complete a stop string."""

    eos: Bool[np.ndarray, " vocab"]
    suspect: Bool[np.ndarray, " vocab"]
    stop: tuple[str, ...]

    @classmethod
    def of(cls, model: LoadedModel, stop: tuple[str, ...]) -> "Ending":
        """The endings of a model's answers, as tables over its vocabulary."""
        eos = np.zeros(model.vocab_size, dtype=bool)
        eos[[token for token in model.eos if token < model.vocab_size]] = True
        return cls(eos, _suspects(model.tokenizer, model.vocab_size, stop), stop)

    def stopped(self, model: LoadedModel, tokens: Sequence[int]) -> bool:
        """Whether the text of an answer holds a stop string."""
        text = model.decode(tokens)
        return any(stop in text for stop in self.stop)


@lru_cache(maxsize=8)
def _suspects(tokenizer: Any, vocab_size: int, stop: tuple[str, ...]) -> Bool[np.ndarray, " vocab"]:
    """Tokens after which a stop string may be complete: any whose text holds the last character of one.

    Spaces come and go between tokens, and bytes of one character may be spread over several: then
    any token may.
    """
    last = {text[-1] for text in stop}
    suspect = np.full(vocab_size, " " in last)
    if not last or " " in last:
        return suspect
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.batch_decode([[token] for token in range(min(len(tokenizer), vocab_size))])
    for token, piece in enumerate(pieces):
        holds = not last.isdisjoint(piece) or "\ufffd" in piece or not piece
        suspect[token] = holds and token not in special
    return suspect


class Growth:
    """Answers while they grow, on the CPU; every array by row.

    tokens [row, limit], n: an answer's tokens, and how many. ended (`fasb.steering.trace`). strength: what
    the edit is multiplied with in the next pass; edited [row, state]: in the pass that ran each
    state. p [row, state]: of the newest pass of each state, NaN where nothing looked. decoded:
    tokens so far, those that were dropped included. `said`: what followed last, by `Start.like`;
    growths that are given the same one draft from each other.
    """

    def __init__(
        self,
        model: LoadedModel,
        starts: Sequence[Start],
        decoding: DecodingSettings,
        stop: tuple[str, ...] = (),
        dtype: Any = np.float32,
        said: dict[tuple[int, int], list[int]] | None = None,
    ) -> None:
        self._model, self._starts, self._ending = model, starts, Ending.of(model, stop)
        self.sampler = Sampler.of(decoding)
        most = max((start.limit for start in starts), default=0)
        self.limit = np.array([start.limit for start in starts], dtype=np.int64)
        self.tokens = np.zeros((len(starts), most), dtype=np.int64)
        for row, start in enumerate(starts):
            self.tokens[row, : len(start.kept)] = start.kept
        self.n = np.array([len(start.kept) for start in starts], dtype=np.int64)
        self.ended = np.full(len(starts), OPEN)
        self.strength = np.array([start.strength for start in starts], dtype=np.float64)
        self.edited = np.zeros((len(starts), most + 1))
        self.p = np.full((len(starts), most + 1), np.nan, dtype=dtype)
        self.decoded = np.zeros(len(starts), dtype=np.int64)
        self.n_prompt = np.array([len(start.prompt) for start in starts], dtype=np.int64)
        self._said = {} if said is None else said
        self.chance = self.sampler.chances([start.prompt for start in starts], most)

    def text(self, row: int) -> list[int]:
        """Prompt and answer so far."""
        return [*self._starts[row].prompt, *self.answer(row)]

    def answer(self, row: int) -> list[int]:
        """The answer so far."""
        return self.tokens[row, : self.n[row]].tolist()

    def draft(self, row: int) -> list[int]:
        """What may follow: nothing once the row has been written on."""
        start = self._starts[row]
        if start.like is None or self.decoded[row]:
            return []
        return self._said.get(start.like, [])[: start.limit - len(start.kept) - 1]

    def begins(self, row: int) -> tuple[int, int]:
        """Which of the prefix's texts the row begins with, and how many tokens of it were never edited."""
        start = self._starts[row]
        return start.begins, len(start.prompt) + len(start.kept) - 1

    def done(self, rows: Int[np.ndarray, " n"]) -> None:
        """Rows have ended; what they say is the draft of those like them."""
        for row in rows.tolist():
            if (like := self._starts[row].like) is not None:
                self._said[like] = self.answer(row)[len(self._starts[row].kept) :]

    def order(self, rows: Iterable[int]) -> list[int]:
        """Rows in the order in which they should start: by turn, most tokens to come first, then longest texts."""
        more = self.n - self.limit
        return sorted(
            set(rows), key=lambda row: (self._starts[row].turn, more[row], -self.n_prompt[row])
        )

    def run(self, rows: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"] | None) -> None:
        """The newest state of each of the rows was run; its p, if it was tracked."""
        self.edited[rows, self.n[rows]] = self.strength[rows]
        if p is not None:
            self.p[rows, self.n[rows]] = p

    def accept(self, rows: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"]) -> None:
        """Append a token to each of the rows, and note which end with it."""
        self.tokens[rows, self.n[rows]] = token
        self.n[rows] += 1
        self.decoded[rows] += 1
        self.ended[rows[self.n[rows] >= self.limit[rows]]] = LIMIT
        for row in rows[self._ending.suspect[token]].tolist():
            if self._ending.stopped(self._model, self.answer(row)):
                self.ended[row] = STOP
        self.ended[rows[self._ending.eos[token]]] = EOS

    def back(self, row: int, kept: int, strength: float) -> None:
        """Only `kept` tokens of the answer stay; from the last of them on it is edited `strength` times."""
        self.n[row], self.strength[row], self.ended[row] = kept, strength, OPEN

    def written(self) -> list[Written]:
        """All rows, in the order of the starts."""
        rows = zip(
            self._starts, self.tokens.tolist(), self.n.tolist(), self.ended.tolist(), strict=True
        )
        return [Written(tokens[len(start.kept) : n], ended) for start, tokens, n, ended in rows]
