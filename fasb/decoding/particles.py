"""Particles: several draws of an answer, resampled by p while they are written (C10).

In: prompts, and a bundle whose policy resamples. Out: of each prompt the draw with the lowest p at
its end. Nothing is edited. After every s tokens a draw goes on from the text of one that was drawn
among all of its prompt, finished ones too, in proportion to exp(-resample * p).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fasb.decoding.generate import DecodingBatch, complete
from fasb.decoding.observe import TeacherForcedText, TrackerGroup, observe_batch
from fasb.decoding.sampling import Sampler, seed_of, seeded
from fasb.decoding.sequences import Prompts, Sequences, Start
from fasb.model.batch import in_batches, shared_prefix
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.trace import LIMIT, OPEN, Trace


@dataclass(frozen=True, slots=True)
class Chosen:
    """Answers that were chosen while they were written.

    decoded: tokens that were run for each, whatever became of them. looks: how often p was asked.
    """

    answers: Trace
    decoded: Int[np.ndarray, " row"]
    looks: Int[np.ndarray, " row"]


def write_particles(model: LoadedModel, prompts: Prompts, bundle: Bundle) -> Chosen:
    """Return each prompt's best draw; random numbers are a prompt's own, whatever the batch."""
    particles, seed = Particles(model, prompts, bundle), bundle.decoding.seed
    # a seed of its own: draws are numbered from 0 to best_of - 1
    chooser = Sampler(temperature=1.0, seed=seed_of(seed, bundle.policy.best_of))
    chance = chooser.chances(prompts, bundle.decoding.tokens)
    looks = np.zeros(len(prompts), dtype=np.int64)
    while len(rows := particles.open_rows()):
        particles.write_on()
        particles.look(rows)
        looks[rows] += 1
        # where all draws have ended, `best` chooses among them as they are
        for row in particles.open_rows().tolist():
            particles.resample(row, chance[row, looks[row] - 1])
    return Chosen(particles.best(), particles.decoded, looks)


class Particles:
    """Draws of all prompts while they grow; texts[draw][row] are tokens of answers.

    ended [draw, row], p [draw, row] of their last states. decoded [row]: tokens written so far,
    those of draws that were dropped included.
    """

    def __init__(self, model: LoadedModel, prompts: Prompts, bundle: Bundle) -> None:
        assert bundle.tracker is not None  # a policy that resamples reads p
        self._model, self._prompts, self._bundle = model, prompts, bundle
        self._prefix = shared_prefix(model, prompts)
        self._trackers = TrackerGroup.of([bundle.tracker], model.device)
        size = (bundle.policy.best_of, len(prompts))
        self.texts: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(size[0])]
        self.ended, self.p = np.full(size, OPEN), np.zeros(size)
        self.decoded = np.zeros(len(prompts), dtype=np.int64)

    def open_rows(self) -> Int[np.ndarray, " some"]:
        """Return the prompts of which a draw goes on."""
        return (self.ended == OPEN).any(axis=0).nonzero()[0]

    def write_on(self) -> None:
        """Write s more tokens of every draw that goes on, each by its own seed."""
        bundle, most = self._bundle, self._bundle.decoding.tokens
        for draw, texts in enumerate(self.texts):
            rows = (self.ended[draw] == OPEN).nonzero()[0].tolist()
            starts = []
            for row in rows:
                limit = min(len(texts[row]) + bundle.policy.s, most)
                starts.append(Start(self._prompts[row], texts[row], limit))
            # draws that go on from one text part again, as each has its own random numbers
            decoding = seeded(bundle.decoding, draw)
            sequences = Sequences(self._model, starts, decoding, bundle.prompt.stop)
            batch = DecodingBatch(self._model, sequences, decoding, self._prefix)
            written = complete(sequences, batch)
            for row, one in zip(rows, written, strict=True):
                texts[row] = texts[row] + one.tokens
                # LIMIT may be that of these s tokens only
                unfinished = one.ended == LIMIT and len(texts[row]) < most
                self.ended[draw, row] = OPEN if unfinished else one.ended
                self.decoded[row] += len(one.tokens)

    def look(self, rows: Int[np.ndarray, " some"]) -> None:
        """Take p of the last state of all draws of some rows."""
        draws = np.repeat(np.arange(len(self.texts)), len(rows))
        at = np.tile(rows, len(self.texts))
        ends = []
        for draw, row in zip(draws.tolist(), at.tolist(), strict=True):
            ends.append(TeacherForcedText([*self._prompts[row], *self.texts[draw][row]], 1))

        def run(part: list[int]) -> None:
            texts = [ends[i] for i in part]
            seen = observe_batch(self._model, texts, self._prefix, self._trackers)[0]
            self.p[draws[part], at[part]] = seen[:, -1]

        in_batches([len(end.text) for end in ends], self._bundle.decoding.batch, run)

    def resample(self, row: int, chance: float) -> None:
        """Let each draw of a row go on from one that is drawn among all of them."""
        chosen = resampled(self.p[:, row], self._bundle.policy.resample, chance)
        # all are looked up before any is replaced
        of_row = [self.texts[draw][row] for draw in chosen]
        for texts, text in zip(self.texts, of_row, strict=True):
            texts[row] = text
        self.ended[:, row], self.p[:, row] = self.ended[chosen, row], self.p[chosen, row]

    def best(self) -> Trace:
        """Return each row's draw with the lowest p at its end, the first among equals."""
        best = self.p.argmin(axis=0).tolist()
        answers = [self.texts[draw][row] for row, draw in enumerate(best)]
        return Trace.of(answers, [int(self.ended[draw, row]) for row, draw in enumerate(best)])


def resampled(
    p: Float[np.ndarray, " draw"], weight: float, chance: float
) -> Int[np.ndarray, " draw"]:
    """Return which draw each goes on from: systematic resampling in proportion to exp(-weight p).

    chance: one number in [0, 1). A draw with share w of n is taken floor(n w) or ceil(n w) times.
    """
    # the lowest p weighs 1, so that never all of them underflow to 0
    share = np.exp(-weight * (p - p.min()))
    upto = np.cumsum(share / share.sum())
    places = (chance + np.arange(len(p))) / len(p)
    return np.searchsorted(upto, places, side="right").clip(max=len(p) - 1)
