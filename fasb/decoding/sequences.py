"""Sequences: answers while they are written, one per row, on the CPU, and when each is at its end.

In: where rows begin. Out: their tokens so far, what each state was edited with, how each ended.
Knows no batch and no policy; `fasb/decoding/generate.py` runs the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.decoding.sampling import Sampler
from fasb.errors import DataError
from fasb.model.load import LoadedModel
from fasb.settings import DecodingSettings
from fasb.steering.edit import FROM_ANSWER, Active
from fasb.steering.trace import EOS, LIMIT, OPEN, STOP

Prompts = Sequence[Sequence[int]]
"""Token ids of each row's prompt."""


ENCODED = "give token ids, as fasb.user.steering.prompts_of makes them of texts"
"""The remedy where texts were given."""


def check_prompts(model: LoadedModel, prompts: Prompts) -> None:
    """Refuse prompts that are no rows of the model's token ids, with one id or more each.

    Raises:
        DataError: saying which prompt, and what it is.
    """
    if isinstance(prompts, str | bytes) or not hasattr(prompts, "__len__"):
        raise DataError(f"prompts: {prompts!r:.40} is no list of prompts; {ENCODED}")
    n_known = len(model.model.get_input_embeddings().weight)
    for i, prompt in enumerate(prompts):
        ids = None if isinstance(prompt, str | bytes) else np.asarray(prompt)
        if ids is None or ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
            raise DataError(f"prompt {i + 1}: {prompt!r:.40} is no row of token ids; {ENCODED}")
        if not len(ids):
            raise DataError(f"prompt {i + 1}: no token to go on from; give one or more")
        if ids.min() < 0 or ids.max() >= n_known:
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise DataError(
                f"prompt {i + 1}: token {wrong}, but the model knows 0 to {n_known - 1}; encode "
                "texts by the model's own tokenizer"
            )


@dataclass(frozen=True, slots=True)
class Start:
    """Where a row begins: its prompt, the tokens of its answer that stay, and the most it may have.

    The tokens that stay were written unsteered; what follows them is edited `strength` times.
    begins: which text of the batch's prefix the row begins with.
    """

    prompt: Sequence[int]
    kept: Sequence[int]
    limit: int
    strength: float = 0.0
    begins: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of a row.

    The tokens that followed, and how it ended (`fasb/steering/trace.py`).
    """

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
        """Return the endings of a model's answers, as tables over its vocabulary.

        A stop string that is a special token is an end: texts of answers have no such tokens.
        """
        eos = np.zeros(model.vocab_size, dtype=bool)
        special = dict(zip(model.tokenizer.all_special_tokens, model.tokenizer.all_special_ids))
        ends = {*model.eos, *(special[text] for text in stop if text in special)}
        eos[[token for token in ends if token < model.vocab_size]] = True
        return cls(eos, _suspects(model.tokenizer, model.vocab_size, stop), stop)

    def stopped(self, model: LoadedModel, tokens: Sequence[int]) -> bool:
        """Return whether the text of an answer holds a stop string."""
        text = model.decode(tokens)
        return any(stop in text for stop in self.stop)


@lru_cache(maxsize=8)
def _suspects(tokenizer: Any, vocab_size: int, stop: tuple[str, ...]) -> Bool[np.ndarray, " vocab"]:
    """Return tokens that may complete a stop string: their text holds the last character of one.

    Spaces come and go between tokens, and bytes of one character may be spread over several: then
    any token may.
    """
    last = {text[-1] for text in stop}
    suspect = np.full(vocab_size, " " in last)
    if not last or " " in last:
        return suspect
    special = set(tokenizer.all_special_ids)
    n_tokens = min(len(tokenizer), vocab_size)
    pieces = tokenizer.batch_decode([[token] for token in range(n_tokens)])
    for token, piece in enumerate(pieces):
        holds = not last.isdisjoint(piece) or "\ufffd" in piece or not piece
        suspect[token] = holds and token not in special
    return suspect


class Sequences:
    """Answers while they grow; every array by row. State 0 is the last token of the prompt.

    tokens [row, limit], n: an answer's tokens, and how many. ended (`fasb/steering/trace.py`).
    strength: what the edit is multiplied with, where it is active; edited [row, state]: what it was
    in the pass that ran each state, 0 where it was not. p [row, state]: of the newest pass of each
    state, NaN where nothing looked. decoded: tokens so far, those that were dropped included.
    """

    def __init__(
        self,
        model: LoadedModel,
        starts: Sequence[Start],
        decoding: DecodingSettings,
        stop: tuple[str, ...] = (),
        active: Active = FROM_ANSWER,
        dtype: Any = np.float32,
    ) -> None:
        self._model, self._starts, self._ending = model, starts, Ending.of(model, stop)
        self.active = active
        self.sampler = Sampler.of(decoding)
        n_rows, most = len(starts), max((start.limit for start in starts), default=0)
        self.limit = np.array([start.limit for start in starts], dtype=np.int64)
        self.n_prompt = np.array([len(start.prompt) for start in starts], dtype=np.int64)
        self.n = np.array([len(start.kept) for start in starts], dtype=np.int64)
        self.tokens = np.zeros((n_rows, most), dtype=np.int64)
        self.ended = np.full(n_rows, OPEN)
        self.strength = np.zeros(n_rows)
        self.edited = np.zeros((n_rows, most + 1))
        self.p = np.full((n_rows, most + 1), np.nan, dtype=dtype)
        self.decoded = np.zeros(n_rows, dtype=np.int64)
        self.chance = self.sampler.chances([start.prompt for start in starts], most)
        for row, start in enumerate(starts):
            self.tokens[row, : len(start.kept)] = start.kept
            self.roll_back(row, len(start.kept), start.strength)

    def text(self, row: int) -> list[int]:
        """Return prompt and answer so far."""
        return [*self._starts[row].prompt, *self.answer(row)]

    def answer(self, row: int) -> list[int]:
        """Return the answer so far."""
        return self.tokens[row, : self.n[row]].tolist()

    def strengths(self, row: int) -> list[float]:
        """Return what each token of the row's text is edited with when all of it is run."""
        # state 0 is the prompt's last token: n_prompt - 1 tokens stand before the states
        n = int(self.n[row])
        states = [*self.edited[row, :n].tolist(), *self.next_strength(np.array([row])).tolist()]
        before = states[0] if self.active.positions == "all" else 0.0
        return [*[before] * (int(self.n_prompt[row]) - 1), *states]

    def next_strength(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return what the newest state of each of the rows is edited with in the next pass."""
        shares = self.active.shares(0, self.edited.shape[1])
        return self.strength[rows] * shares[self.n[rows]]

    def begins(self, row: int) -> int:
        """Return which text of the batch's prefix a row begins with."""
        return self._starts[row].begins

    def plain_beginning(self, row: int) -> int:
        """Return how many tokens a row begins with that are not edited."""
        start = self._starts[row]
        # the last kept token is run under the edit, as its state predicts the first new one (G9)
        n_plain = len(start.prompt) + len(start.kept) - 1
        strengths = self.strengths(row)[:n_plain]
        return next((i for i, strength in enumerate(strengths) if strength), n_plain)

    def order(self, rows: Iterable[int]) -> list[int]:
        """Return rows in the order in which they should start.

        Most tokens to come, then longest.
        """
        more = self.n - self.limit
        return sorted(set(rows), key=lambda row: (more[row], -self.n_prompt[row]))

    def record_pass(self, rows: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"] | None) -> None:
        """Note that the newest state of each of the rows was run; and its p, if it was tracked."""
        self.edited[rows, self.n[rows]] = self.next_strength(rows)
        if p is not None:
            self.p[rows, self.n[rows]] = p

    def accept(self, rows: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"]) -> None:
        """Append a token to each of the rows, and note which end with it."""
        self.tokens[rows, self.n[rows]] = token
        self.n[rows] += 1
        self.decoded[rows] += 1
        # later lines win: an end of sequence over a stop string, and both over the limit
        self.ended[rows[self.n[rows] >= self.limit[rows]]] = LIMIT
        for row in rows[self._ending.suspect[token]].tolist():
            if self._ending.stopped(self._model, self.answer(row)):
                self.ended[row] = STOP
        self.ended[rows[self._ending.eos[token]]] = EOS

    def roll_back(self, row: int, kept: int, strength: float) -> bool:
        """Keep only `kept` tokens of the answer, edited `strength` times where the edit is active.

        Returns whether tokens before the last one that stays are now edited otherwise, so that
        they have to be run again.
        """
        shares = self.active.shares(kept, kept)
        wanted = np.where(shares, strength * shares, self.edited[row, :kept])
        again = self.edited[row, :kept] != wanted
        self.edited[row, :kept] = wanted
        self.n[row], self.ended[row], self.strength[row] = kept, OPEN, strength
        prompt_too = self.active.positions == "all" and bool(strength) and self.n_prompt[row] > 1
        return bool(again.any()) or bool(prompt_too)

    def completions(self) -> list[Completion]:
        """Return what followed in every row, in the order of the starts."""
        found = []
        for row, start in enumerate(self._starts):
            tokens = self.tokens[row, len(start.kept) : self.n[row]].tolist()
            found.append(Completion(tokens, int(self.ended[row])))
        return found
