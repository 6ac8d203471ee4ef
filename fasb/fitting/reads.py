"""Reads: which activations a method asks for, and what their bank is called. Needs no torch."""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

from fasb.errors import ConfigError, did_you_mean
from fasb.settings import SiteName

Position = Literal[
    "answer_end", "answer_tail", "next_question_end", "prompted_end", "prompted_tokens"
]
AnswerRead = Literal["answer_end", "prompted_end", "prompted_tokens"]
"""Positions that classifiers of answers may be fitted at."""
TAIL = 4
"""Tokens that `answer_tail` is the mean of (docs/method.md 3.7)."""
STATES = 4
"""States of an answer that `prompted_tokens` reads."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a method reads: the activations of a site at tokens of a kind of text.

    position: `answer_end`, the last token of the probes' texts (A3); `answer_tail`, the mean over
    the last tokens of the same; `next_question_end`, the same with a random question behind, for
    sigma (A4); `prompted_end`, the last token of an answer behind the evaluation prompt;
    `prompted_tokens`, four tokens of it, a quarter of the answer apart (X10).
    """

    site: SiteName = "head"
    position: Position = "answer_end"

    @property
    def name(self) -> str:
        """What its bank's file is called: `answer_end`, `residual-answer_end`."""
        return self.position if self.site == "head" else f"{self.site}-{self.position}"

    @property
    def prompted(self) -> bool:
        """Whether answers stand behind the evaluation prompt."""
        return self.position in ("prompted_end", "prompted_tokens")

    @property
    def n_states(self) -> int:
        """Return how many rows of the bank an answer has."""
        return STATES if self.position == "prompted_tokens" else 1

    @classmethod
    def named(cls, name: str) -> "Read":
        """Return the read of a bank's name.

        Raises:
            ConfigError: there is no such site or position.
        """
        every = itertools.product(get_args(SiteName), get_args(Position))
        reads = [cls(site, position) for site, position in every]
        known = {read.name: read for read in reads}
        if name not in known:
            raise ConfigError(f"read: no {name!r}; {did_you_mean(name, known)}")
        return known[name]


HEAD_READS = (Read("head", "answer_end"), Read("head", "next_question_end"))
"""What head vectors and their sigma are made of."""
