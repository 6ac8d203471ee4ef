"""Guards: what keeps a setting from doing harm (docs/method.md X7, X8).

In: a model's unsteered answers, bundles of a grid. Out: how low each threshold may be, and why a
setting may not be chosen. Knows no objective.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from fasb.data.protocol import Question
from fasb.decoding.deviation import observe_all
from fasb.metrics.answers import degenerate
from fasb.metrics.calibration import conformal_threshold
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.decide import highest_judged
from fasb.steering.trace import LIMIT, Answers, Trace
from fasb.user.asking import Answered, encoded_choices, surprise
from fasb.user.steering import cleaned_texts

ROUNDING = 1e-6
"""What p of one state may differ by between batches."""
REASONS = {
    "touch": "would steer too many answers that should stay",
    "changed": "changed too many control answers",
    "degenerate": "wrote empty or repeating answers",
    "perplexity": "wrote answers that the model itself finds unlikely",
}
"""Why a setting may not be chosen, in print."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a setting may do at most.

    touch: share of answers that should stay and are steered, or of control answers that change.
    perplexity: of steered answers under the unsteered model, as a multiple of the same answers'
    unsteered.
    """

    touch: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Harm:
    """What steering did to some answers.

    changed: share of control answers with another text. degenerate: answers, controls or not, that
    are empty or repeat and were not so before. perplexity: of changed answers under the unsteered
    model, as a multiple of what it was before; 1 where none changed.
    """

    changed: float
    degenerate: int
    perplexity: float

    def reason(self, limits: Limits) -> str:
        """Return the first of `REASONS` that holds, else nothing."""
        if self.changed > limits.touch:
            return "changed"
        if self.degenerate:
            return "degenerate"
        return "perplexity" if self.perplexity > limits.perplexity else ""


def thresholds(
    model: LoadedModel,
    bundles: Sequence[Bundle],
    controls: Answered,
    questions: Sequence[Question],
    touch: float,
) -> list[float]:
    """Return the lowest beta of each bundle that leaves enough answers alone (docs/method.md X7).

    Answers that should stay are the unsteered ones to control questions, and true reference answers
    under the evaluation prompt. A new control answer fires at most `touch` often, and so does a new
    one of both kinds together. Infinite where there are too few answers to promise that.
    """
    seen_controls = controls.seen
    if seen_controls is None:
        seen_controls = observe_all(model, controls.prompts, controls.before, bundles)
    prompts, true = _true(model, bundles[0], questions)
    kinds = (
        (controls.before, seen_controls),
        (true, observe_all(model, prompts, true, bundles)),
    )
    found = []
    for bundle in bundles:
        assert bundle.tracker is not None
        highest = []
        for before, seen in kinds:
            tracked = replace(before, p=seen[bundle.tracker.content()])
            highest.append(highest_judged(tracked, bundle.policy).astype(np.float64))
        # the references are not bounded alone: of a small table there are too few for a promise
        of_controls = conformal_threshold(highest[0], touch)
        lowest = max(of_controls, conformal_threshold(np.concatenate(highest), touch))
        # up, so that what lies at the threshold stays below it in batches of another size too
        found.append(min(lowest + ROUNDING, 1.0) if lowest <= 1 else lowest)
    return found


def harm(
    model: LoadedModel,
    bundle: Bundle,
    asked: Answered,
    answers: Answers,
    control: Bool[np.ndarray, " answer"],
    plain: Float[np.ndarray, " answer"],
) -> Harm:
    """Return what a bundle's answers did.

    control: which are to control questions. plain: `surprise` of the unsteered answers.
    """
    fired = answers.decision.fired.nonzero()[0].tolist()
    rows = answers.after.rows()
    texts = dict(zip(fired, cleaned_texts(model, bundle, [rows[i] for i in fired]), strict=True))
    changed = [i for i in fired if texts[i] != asked.texts[i]]
    broken = [i for i in changed if degenerate(texts[i]) and not degenerate(asked.texts[i])]
    perplexity = 1.0
    if changed:
        prompts = [asked.prompts[i] for i in changed]
        steered = surprise(model, bundle, prompts, [rows[i] for i in changed])
        # nats a token: their difference is the logarithm of the ratio of perplexities
        perplexity = math.exp(float(steered.mean() - plain[changed].mean()))
    share = float(control[changed].sum() / max(control.sum(), 1))
    return Harm(share, len(broken), perplexity)


def _true(
    model: LoadedModel, bundle: Bundle, questions: Sequence[Question]
) -> tuple[list[list[int]], Trace]:
    """Return the true reference answers as if the model had written them."""
    prompts, answers = [], []
    choices = iter(encoded_choices(model, bundle, questions))
    for question in questions:
        own = [next(choices) for _ in question.references]
        for choice in own[: len(question.true)]:
            prompts.append(list(choice.tokens[: choice.scored_start]))
            answers.append(list(choice.tokens[choice.scored_start :]))
    return prompts, Trace.of(answers, [LIMIT] * len(answers))
