"""Steering one's own model: load it, attach a bundle, ask.

In: a model (hub id, folder, or already in memory), a bundle, questions. Out: answers, each with
what the tracker saw and what was taken back. Knows no training data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.data.prompts import Asked, clean_answer
from fasb.decoding.decode import check, decode
from fasb.errors import ConfigError, DataError, ModelError
from fasb.extensions import validated
from fasb.model.chat import encode_prompts
from fasb.model.generation import say_what_is_passed_over
from fasb.model.load import LoadedModel, load_model, wrap
from fasb.model.weights import weights_hash
from fasb.settings import ModelSettings
from fasb.steering.bundle import Bundle
from fasb.steering.trace import Answers


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    unsteered: what the model says without the bundle; None where that was not asked. fired: it was
    steered. kept: generated tokens that stayed when it fired, else all. strength: what the vectors
    were multiplied with, 0 if it did not fire. p: of every state of the unsteered answer, state 0
    before its first token; empty without a tracker.
    """

    question: str
    text: str
    unsteered: str | None
    fired: bool
    kept: int
    strength: float
    p: tuple[float, ...]


def load(model: Any, tokenizer: Any = None, **settings: Any) -> LoadedModel:
    """Load a model to fit, steer or evaluate.

    Of a hub id or folder, or one in memory with its tokenizer.

    `settings` are those of `fasb.settings.ModelSettings`: revision, tokenizer, dtype, device. A
    model in memory takes none: it is as it was loaded. What its generation config asks for beyond
    greedy decoding is left out, and warned of.

    Raises:
        ModelError: it cannot be loaded or has an unknown layout, or its weights were changed since;
            the message says what to do.
        ConfigError: a setting is unknown or wrong, or given for a model in memory.
    """
    if settings and not isinstance(model, str | Path):
        raise ConfigError(
            f"model.{min(settings)}: the model is in memory already, and stays as it was loaded; "
            "leave it out, or give the model's name"
        )
    if isinstance(model, LoadedModel):
        if tokenizer is not None:
            raise ConfigError("tokenizer: the model is loaded, with its own; leave it out")
        if weights_hash(model.model) != model.fingerprint.weights:
            # a training step, another adapter or a merge: nothing that was fitted belongs to it
            raise ModelError(
                f"{model.settings.path}: its weights were changed since it was loaded; load it "
                "again, as fasb.load(model.model, model.tokenizer)"
            )
        return model
    if isinstance(model, str | Path):
        if not isinstance(tokenizer, str | Path | None):
            raise ConfigError(
                f"tokenizer: {type(tokenizer).__name__}, but of a model that is given by name; "
                "give the tokenizer's name too, or the model itself"
            )
        named = {} if tokenizer is None else {"tokenizer": str(tokenizer)}
        return load_model(
            validated(ModelSettings, {"path": str(model), **named, **settings}, "model")
        )
    loaded = wrap(model, tokenizer)
    say_what_is_passed_over(loaded.model, loaded.settings.path)
    return loaded


def attach(model: LoadedModel, bundle: Bundle | str | Path, siblings: bool = False) -> Bundle:
    """Return the bundle, checked against the model.

    `siblings` allows other weights and config of the same build.

    Raises:
        BundleError: it was made for another model, or does nothing to this one.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    check(model, bundle, siblings)
    return bundle


def steer(
    model: Any,
    bundle: Bundle | str | Path,
    questions: Asked | Sequence[Asked],
    siblings: bool = False,
) -> list[Answer]:
    """Answer questions under a bundle, in their order.

    A question may be a conversation that ends with one: a list of `{"role": …, "content": …}`, of
    which the newest answer is steered. One question, or one conversation, needs no list around it.

    Raises:
        BundleError: the bundle was made for another model, or does nothing to this one.
        DataError: messages that are no conversation, or more than one under a plain prompt.
    """
    model = load(model)
    bundle = attach(model, bundle, siblings)
    asked = _each(questions)
    if not asked:
        return []
    answers = decode(model, prompts_of(model, bundle, asked), bundle)
    texts = cleaned_texts(model, bundle, answers.after.rows())
    unsteered = None
    # what is steered from its first token was never written unsteered
    if not bundle.policy.steers_from_start:
        unsteered = cleaned_texts(model, bundle, answers.before.rows())
    found = []
    for row, question in enumerate(asked):
        found.append(
            Answer(
                question=question if isinstance(question, str) else question[-1]["content"],
                text=texts[row],
                unsteered=unsteered[row] if unsteered else None,
                fired=bool(answers.decision.fired[row]),
                kept=int(answers.decision.kept[row]),
                strength=float(answers.decision.strength[row]),
                p=p_of(answers, row),
            )
        )
    return found


def _each(questions: Asked | Sequence[Asked]) -> list[Asked]:
    """Return the questions; messages without a list around them are one conversation."""
    if isinstance(questions, str):
        return [questions]
    if isinstance(questions, Mapping):
        return [[questions]]
    try:
        given: list[Any] = list(questions)
    except TypeError:
        given = [questions]
    if given and isinstance(given[0], Mapping):
        return [given]
    for one in given:
        if not isinstance(one, str | list | tuple):
            raise DataError(
                f"questions: {one!r} is no question; give texts, or conversations as lists of "
                "messages"
            )
    return given


def prompts_of(
    model: LoadedModel, bundle: Bundle, questions: Asked | Sequence[Asked]
) -> list[list[int]]:
    """Return the questions, or conversations, as the bundle's prompt puts them, as token ids.

    One question, or one conversation, needs no list around it, as in `steer`.

    Raises:
        DataError: what is no question, or messages that are no conversation.
        ModelError: a prompt that is too long for the model, its answer included.
    """
    prompts = encode_prompts(model, bundle.prompt, _each(questions))
    model.check_room(prompts, bundle.decoding.tokens, bundle.decoding.batch)
    return prompts


def cleaned_texts(model: LoadedModel, bundle: Bundle, rows: Sequence[Sequence[int]]) -> list[str]:
    """Return generated tokens as cleaned answers (docs/method.md Q6)."""
    return [clean_answer(model.decode(row), bundle.prompt) for row in rows]


def p_of(answers: Answers, row: int) -> tuple[float, ...]:
    """P of every state of a row's unsteered answer; empty if nothing was tracked."""
    trace = answers.before
    # behind a row's own states p is padding
    return () if trace.p is None else tuple(trace.p[row, : trace.length[row] + 1].tolist())
