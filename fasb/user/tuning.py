"""Tuning: which setting of a grid helps most, among those that do no harm.

In: bundles of a grid, questions to tune on, control questions. Out: each setting with its value,
or the reason why it is out; the best of them. Not to steer is one of them, and never out.

Without a judge the value is MC2 as generated (docs/method.md X9), with one True*Info of the free
answers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fasb.data.prompts import unended_thought
from fasb.data.protocol import Question
from fasb.errors import ConfigError, DataError
from fasb.judges.ask import run_judge
from fasb.metrics.answers import true_info, verdict
from fasb.model.load import LoadedModel
from fasb.search import Tried, index_of_best
from fasb.settings import JudgeSettings
from fasb.steering.bundle import Bundle
from fasb.steering.trace import Answers
from fasb.user.asking import Answered, ask, mc2_as_generated, observed, steered, surprise
from fasb.user.guards import Harm, Limits, harm, thresholds
from fasb.user.steering import cleaned_texts


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one setting came to on the questions it was tuned on.

    steered: share of free answers that fired. out: why it may not be chosen, of
    `fasb.user.guards.REASONS`; empty where it may.
    """

    point: dict[str, Any]
    bundle: Bundle
    value: float
    steered: float
    out: str = ""
    harm: Harm | None = None

    @property
    def tried(self) -> Tried:
        """What decides which setting is best."""
        return Tried(self.value, self.steered, float(self.point.get("alpha", 0.0)))

    @property
    def row(self) -> dict[str, Any]:
        """What a bundle remembers of it; no figures where it was left out before it was tried."""
        if self.harm is None:
            return {"point": self.point, "out": self.out}
        figures = {"value": self.value, "steered": self.steered, **asdict(self.harm)}
        return {"point": self.point, "out": self.out, **figures}

    @property
    def steers(self) -> bool:
        """Whether it is more than the model as it is."""
        return self.bundle.policy.when != "never"


def check_tunable(questions: Sequence[Question], judge: JudgeSettings | None, what: str) -> None:
    """Refuse questions that cannot tell a better setting from a worse one; `what` names them.

    Raises:
        DataError: no question has a false answer, and nobody judges free answers.
    """
    if judge is None and not any(question.false for question in questions):
        raise DataError(
            f"fit: no question {what} has a false answer, and nobody judges free text; "
            "add false answers, name a judge, or set another seed"
        )


def tried(
    model: LoadedModel,
    questions: Sequence[Question],
    controls: Sequence[str],
    candidates: Sequence[tuple[dict[str, Any], Bundle]],
    limits: Limits,
    judge: JudgeSettings | None,
) -> list[Candidate]:
    """Return each point and its bundle with what it comes to; the last is not to steer.

    A point without a beta gets the lowest that `limits.touch` allows.

    Raises:
        ConfigError: most free answers are thoughts that do not end.
    """
    texts = [question.text for question in questions]
    given = [bundle for _, bundle in candidates]
    first = given[0]
    # controls first: `first`, `is_control` and `_values` count on it
    asked = ask(model, first, [*controls, *texts])
    _refuse_thoughts(model, first, asked)
    asked = observed(model, asked, given)
    bounded, out = _bounded(model, questions, asked.first(len(controls)), candidates, limits)
    # not to steer is a setting too, whose parts are those of the first
    bounded.append(({}, first.with_policy(when="never")))
    bundles = [bundle for _, bundle in bounded]
    answers = steered(model, asked, bundles)
    is_control = np.arange(len(asked.texts)) < len(controls)
    plain = surprise(model, first, asked.prompts, asked.before.rows())
    values = _values(model, questions, bundles, answers, len(controls), judge)
    found = []
    for (point, bundle), value, got in zip(bounded, values, answers, strict=True):
        done = harm(model, bundle, asked, got, is_control, plain)
        share = float(np.mean(got.decision.fired[len(controls) :]))
        found.append(Candidate(point, bundle, value, share, done.reason(limits), done))
    return [*out, *found]


def best(found: Sequence[Candidate]) -> Candidate:
    """Return the highest value of those that may be chosen.

    Ties: fewer answers steered, then the smaller strength.
    """
    allowed = [one for one in found if not one.out]
    return allowed[index_of_best([one.tried for one in allowed])]


def _refuse_thoughts(model: LoadedModel, bundle: Bundle, asked: Answered) -> None:
    """Refuse answers of which most have not begun: their guards would guard nothing (D5).

    Raises:
        ConfigError: saying how many.
    """
    texts = [model.decode(row) for row in asked.before.rows()]
    unended = sum(unended_thought(text, bundle.prompt) for text in texts)
    if 2 * unended > len(texts):
        raise ConfigError(
            f"decoding.tokens: after {bundle.decoding.tokens}, {unended} of {len(texts)} answers "
            "are thoughts without an end; raise it in --settings"
        )


def _bounded(
    model: LoadedModel,
    questions: Sequence[Question],
    controls: Answered,
    candidates: Sequence[tuple[dict[str, Any], Bundle]],
    limits: Limits,
) -> tuple[list[tuple[dict[str, Any], Bundle]], list[Candidate]]:
    """Return points whose beta is high enough, and those that are out because it is not."""
    bundles = [bundle for _, bundle in candidates]
    lowest = thresholds(model, bundles, controls, questions, limits.touch)
    kept, out = [], []
    for (point, bundle), bound in zip(candidates, lowest, strict=True):
        beta = point.get("beta", bound)
        # above 1: too few answers to promise anything (X7)
        if beta < bound or bound > 1:
            out.append(Candidate(point, bundle, np.nan, np.nan, "touch"))
        else:
            policy = replace(bundle.policy, beta=beta)
            kept.append(({**point, "beta": beta}, replace(bundle, policy=policy)))
    return kept, out


def _values(
    model: LoadedModel,
    questions: Sequence[Question],
    bundles: Sequence[Bundle],
    answers: Sequence[Answers],
    n_controls: int,
    judge: JudgeSettings | None,
) -> list[float]:
    """Return what each bundle's answers to the questions behind the controls are worth."""
    if judge is None:
        strengths = [got.decision.strength[n_controls:] for got in answers]
        mc2 = mc2_as_generated(model, questions, bundles, strengths)
        # questions without false answers have no MC2
        return np.nanmean(mc2, axis=1).tolist()
    texts = []
    for bundle, got in zip(bundles, answers, strict=True):
        texts.append(cleaned_texts(model, bundle, got.after.rows()[n_controls:]))
    return _true_info(judge, questions, texts)


def _true_info(
    judge: JudgeSettings, questions: Sequence[Question], texts: Sequence[Sequence[str]]
) -> list[float]:
    """True*Info of each setting, each distinct answer judged once.

    A judge of one of the two counts alone.
    """
    distinct: dict[tuple[int, str], None] = {}
    for answers in texts:
        distinct |= dict.fromkeys(enumerate(answers))
    pairs = list(distinct)
    said = run_judge(judge, [questions[i] for i, _ in pairs], [text for _, text in pairs])
    yes = {}
    for kind, score in said.items():
        yes[kind] = dict(zip(pairs, verdict(score).astype(float), strict=True))
    every = dict.fromkeys(pairs, 1.0)
    values = []
    for answers in texts:
        shares = []
        for kind in ("true", "info"):
            known = yes.get(kind, every)
            shares.append(np.array([known[pair] for pair in enumerate(answers)]))
        values.append(true_info(*shares))
    return values
