"""Policies: when to steer, how strongly, how far back. Arithmetic on p; knows no model.

`Policy.fires` is the one place where p becomes "this answer deviates"; decoding, streaming, scoring
and side effects all ask it. `steering/decide.py` replays a whole trace through it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.steering.policy_checks import check

When = Literal["never", "always", "prompt", "token", "oracle"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds and strength (docs/method.md T2-T4, G2-G4).

    when: `token` judges the text so far; `prompt` only the last token of the prompt (After
    Question, CAST); `always` steers from the first token (ITI, All fixed); `never` does not steer;
    `oracle` steers whole answers that a judge found not true (a control that sees verdicts, C8).
    alpha: strength. beta: fires when p > beta, never at equality. s: tokens dropped on firing.
    adaptive: strength is p * alpha, else alpha. backtrack: drop s tokens, else keep all (w/o
    Backtracking). judged: after the n-th token, the state of that token (`newest`), or of the one
    before it (`previous`, the released program). after: with `always`, the first so many tokens of
    an answer are written unsteered (docs/method.md C1); an answer that ends with them stays.
    best_of: what is written anew is drawn so often; the draw with the lowest p at its end stays.
    abstain: what fires is declined instead, with the prompt's `abstention` (C9). resample: the
    `best_of` draws are resampled every s tokens in proportion to exp(-resample * p) (C10). guide:
    of the `among` likeliest tokens the one with the largest log-probability - guide * p (C11).

    Beyond the paper (docs/method.md 6). backtracks: how often a row may fire; later checks begin s
    tokens after the place it went back to, and add their strength to the one in force there. safe:
    step back to the last token with p <= safe instead of s tokens. reestimate: while steered,
    strength is alpha times p of the state before. release: steering stops once p <= release.
    """

    alpha: float = 0.0
    beta: float = 0.5
    s: int = 10
    when: When = "token"
    adaptive: bool = True
    backtrack: bool = True
    judged: Literal["newest", "previous"] = "newest"
    after: int = 0
    best_of: int = 1
    abstain: bool = False
    resample: float = 0.0
    guide: float = 0.0
    among: int = 8
    backtracks: int = 1
    safe: float | None = None
    reestimate: bool = False
    release: float | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def once(self) -> bool:
        """Whether the unsteered answer alone decides, as in the paper."""
        return self.backtracks == 1 and not self.reestimate and self.release is None

    @property
    def reads_p(self) -> bool:
        """Whether it looks at p at all."""
        if self.when == "always":
            return not self.once or self.draws_several or self.chooses_within
        return self.when in ("token", "prompt")

    @property
    def draws_several(self) -> bool:
        """Whether one of several draws is kept."""
        return self.best_of > 1 and self.when != "never"

    @property
    def chooses_within(self) -> bool:
        """Whether p chooses among texts while they are written; nothing is edited then."""
        return self.when != "never" and bool(self.resample or self.guide)

    @property
    def needs_edit(self) -> bool:
        """Whether it may steer: draws, declining and guiding need no edit (C7, C9, C11)."""
        edits = self.best_of == 1 and not (self.abstain or self.guide)
        return self.when != "never" and edits

    @property
    def live(self) -> bool:
        """Whether answers can be shown while they are written: what fires is steered from there."""
        apart = self.draws_several or self.chooses_within or self.abstain
        return not apart and self.when != "oracle"

    @property
    def steers_from_start(self) -> bool:
        """Whether every answer is steered from its first token."""
        return self.when == "always" and not self.after

    @property
    def checks_tokens(self) -> bool:
        """Whether generated tokens are judged: `always` has fired once before the first."""
        return self.when == "token" or (self.when == "always" and self.backtracks > 1)

    def fires(
        self,
        p: Float[np.ndarray, "*row"],
        n: Int[np.ndarray, "*row"],
        base: Int[np.ndarray, "*row"],
        ended: Bool[np.ndarray, "*row"],
    ) -> Bool[np.ndarray, "*row"]:
        """Return which rows fire at the check after n tokens, p being that of the judged state.

        A check is due s tokens after `base`, the tokens that stay whatever follows, and where a row
        ends (G3). What fires at its own end without going back has nothing left to steer.
        """
        if self.when == "always" and self.after:
            return (n == self.after) & ~ended
        return self.due(n, base, ended) & (p > self.beta)

    def due(
        self,
        n: Int[np.ndarray, "*row"],
        base: Int[np.ndarray, "*row"],
        ended: Bool[np.ndarray, "*row"],
    ) -> Bool[np.ndarray, "*row"]:
        """Return which rows are judged at the check after n tokens (G3), as `fires` has it."""
        if self.when == "prompt":
            return n == 0
        return ((n - base >= self.s) | ended) & (self.backtrack | ~ended)

    def never_fires(self, n_tokens: int) -> bool:
        """Return whether no answer of at most so many tokens is ever judged, whatever p is.

        Without going back a check at the end comes too late, so s must be less than that.
        """
        n = np.arange(1, n_tokens + 1)
        return self.when == "token" and not self.due(n, 0 * n, n == n_tokens).any()

    def strength(self, p: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """Return what p at firing gives (T3); what reads no p is steered by alpha."""
        in_proportion = self.adaptive and not self.after
        return self.alpha * (p.astype(np.float64) if in_proportion else np.ones(len(p)))

    def kept(
        self,
        p: Float[np.ndarray, "row state"],
        n: Int[np.ndarray, " row"],
        base: Int[np.ndarray, " row"],
    ) -> Int[np.ndarray, " row"]:
        """Return the tokens that stay where rows fire after n; never fewer than `base` (G4)."""
        if not self.backtrack or self.after:
            return n
        if self.safe is None:
            return np.maximum(n - self.s, base)
        state = np.arange(p.shape[1])
        safe = (p <= self.safe) & (state >= base[:, None]) & (state < n[:, None])
        last_safe = np.where(safe, state, -1).max(axis=1)
        return np.where(last_safe >= 0, last_safe, base)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for provenance and hashes; 3 and 3.0 are one strength."""
        # JSON knows none of numpy's numbers
        values = {k: v.item() if isinstance(v, np.generic) else v for k, v in asdict(self).items()}
        for key in ("alpha", "beta", "resample", "guide", "safe", "release"):
            # with 0 added, -0.0 is 0.0
            values[key] = None if values[key] is None else float(values[key]) + 0.0
        return values
