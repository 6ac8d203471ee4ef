"""Asking a model: prompts beside its unsteered answers, and what bundles make of them.

In: a model, a bundle's prompt and settings, questions. Out: tokens and texts. What tuning, guards
and reports all start from, so that nothing is written twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from fasb.data.protocol import Question
from fasb.decoding.decode import sweep, trace
from fasb.decoding.deviation import Seen, observe_all
from fasb.decoding.score import Choice, encode_choices, score, score_sweep
from fasb.metrics.answers import choice_rows
from fasb.model.load import LoadedModel
from fasb.steering.bundle import Bundle
from fasb.steering.policy import Policy
from fasb.steering.trace import Answers, Trace
from fasb.user.steering import cleaned_texts, prompts_of


@dataclass(frozen=True, slots=True)
class Answered:
    """Prompts as token ids, and the unsteered answers to them, as tokens and as cleaned texts.

    seen: p of the answers' states by tracker; None where no tracker has looked yet.
    """

    prompts: list[list[int]]
    before: Trace
    texts: list[str]
    seen: Seen | None = None

    def first(self, n: int) -> "Answered":
        """Return the first n prompts and answers."""
        before = Trace(self.before.tokens[:n], self.before.length[:n], self.before.ended[:n])
        seen = None if self.seen is None else {key: p[:n] for key, p in self.seen.items()}
        return Answered(self.prompts[:n], before, self.texts[:n], seen)


def ask(model: LoadedModel, bundle: Bundle, questions: Sequence[str]) -> Answered:
    """Return the unsteered answers under a bundle's prompt and decoding."""
    prompts = prompts_of(model, bundle, questions)
    before = trace(model, prompts, bundle.decoding, bundle.prompt.stop)
    return Answered(prompts, before, cleaned_texts(model, bundle, before.rows()))


def observed(model: LoadedModel, asked: Answered, bundles: Sequence[Bundle]) -> Answered:
    """Return the answers with what the bundles' trackers see in them."""
    return replace(asked, seen=observe_all(model, asked.prompts, asked.before, bundles))


def steered(model: LoadedModel, asked: Answered, bundles: Sequence[Bundle]) -> list[Answers]:
    """Return what each bundle makes of the answers."""
    return sweep(model, asked.prompts, asked.before, bundles, asked.seen)


def encoded_choices(
    model: LoadedModel, bundle: Bundle, questions: Sequence[Question]
) -> list[Choice]:
    """All reference answers of all questions, the true ones of a question first."""
    pairs: list[tuple[str, str]] = []
    for question in questions:
        pairs += [(question.text, answer) for answer in question.references]
    return encode_choices(model, bundle.prompt, bundle.scoring, pairs)


def surprise(
    model: LoadedModel,
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> Float[np.ndarray, " answer"]:
    """Return how unlikely the unsteered model finds each answer: nats a token, 0 if it has none."""
    choices = []
    for prompt, tokens in zip(prompts, answers, strict=True):
        choices.append(Choice((*prompt, *tokens), len(prompt) - 1, len(prompt)))
    found = score(model, choices, bundle.with_policy(when="never"))
    n_tokens = np.array([len(tokens) for tokens in answers])
    return -found.logprob / np.maximum(n_tokens, 1)


def mc2_as_generated(
    model: LoadedModel,
    questions: Sequence[Question],
    bundles: Sequence[Bundle],
    strengths: Sequence[Float[np.ndarray, " question"]],
) -> Float[np.ndarray, "bundle question"]:
    """Return MC2 of each question under the edit that its own free answer gets (docs/method.md X9).

    strengths: of each bundle, 0 where the free answer was not steered. All reference answers of a
    question are edited alike, from their first token on, so the tracker cannot rank them.
    """
    found = np.full((len(bundles), len(questions)), np.nan)
    for i, question in enumerate(questions):
        wanted: dict[tuple[bytes, float], list[int]] = {}
        for j, bundle in enumerate(bundles):
            strength = float(strengths[j][i])
            # bundles that edit alike at one strength are scored once; unsteered ones need no edit
            content = bundle.edit.content() if bundle.edit is not None and strength else b""
            wanted.setdefault((content, strength), []).append(j)
        tried = []
        for (content, strength), members in wanted.items():
            # the free answer has decided (X9): of the bundle's policy nothing is left
            decided = Policy(alpha=strength, when="always" if content else "never")
            tried.append(replace(bundles[members[0]], policy=decided))
        choices = encoded_choices(model, bundles[0], [question])
        scored = score_sweep(model, choices, tried)
        for members, scores in zip(wanted.values(), scored, strict=True):
            # columns of `choice_rows`: MC1, MC2, MC3, share that fired
            found[members, i] = choice_rows([question], scores.logprob, scores.fired)[0, 1]
    return found
