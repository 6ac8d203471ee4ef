"""Fitting a bundle to one's own model and questions.

In: a model, questions with true and false answers, settings. Out: a tuned bundle that remembers how
good it is and which questions it has seen. Questions are split into three: fitted on, tuned on,
held out. With a judge it is tuned on True*Info of free answers, without one on MC2 over the
reference answers (docs/decisions.md).
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, FiniteFloat, PositiveInt, field_validator

from fasb.data.protocol import Question, Split
from fasb.data.splits import split
from fasb.decoding.decode import sweep, trace
from fasb.decoding.score import score_sweep
from fasb.errors import ArtifactError, ConfigError, DataError
from fasb.extensions import validated
from fasb.fitting.bank import Bank, collect, texts_of
from fasb.fitting.fold import fit_parts
from fasb.fitting.probes import ClassifierKind
from fasb.fitting.reads import Read
from fasb.fitting.training import HEADS, Training
from fasb.judges.ask import run_judge
from fasb.metrics.answers import choice_rows, true_info, verdict
from fasb.model.chat import render_of, settled
from fasb.model.load import LoadedModel
from fasb.provenance import content_hash, weights_of
from fasb.search import Method, Tried, at_edge, best_of, grid_points
from fasb.settings import (
    JudgeSettings,
    PromptSettings,
    Section,
    Seed,
    SplitSettings,
    StageSettings,
)
from fasb.steering.bundle import Bundle
from fasb.steering.tracker import Cosine, Tracker
from fasb.user import steering
from fasb.user.evaluation import LABELS, Measure, encoded_choices, evaluate, judge_of, questions_of


class Grid(Section):
    """Settings that are tried, all with all."""

    k: tuple[PositiveInt, ...] = Field(
        (4, 12, 24), min_length=1, description="Anchors; more than the model has heads: left out"
    )
    alpha: tuple[FiniteFloat, ...] = Field((2, 5, 10, 20, 40), min_length=1)
    beta: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.4, 0.5, 0.6), min_length=1)
    s: tuple[PositiveInt, ...] = Field((5, 10), min_length=1)

    def points(self, n_heads: int) -> list[dict[str, Any]]:
        """Every setting that a model with so many heads allows.

        Raises:
            ConfigError: no k is small enough.
        """
        fitting = [k for k in self.k if k <= n_heads]
        if not fitting:
            raise ConfigError(
                f"grid.k: {min(self.k)}, but this model has {n_heads} heads; add {n_heads} or less"
            )
        return grid_points({**self.model_dump(), "k": fitting})


class FitSettings(StageSettings):
    """How a bundle is fitted; sections as in a study, each with its own default."""

    model: dict[str, Any] = Field(
        {}, description="ModelSettings other than the path; used by the command line"
    )
    prompt: PromptSettings = PromptSettings(chat="auto")
    vector: Literal["probe", "prototype"] = "probe"
    grid: Grid = Grid()
    judge: JudgeSettings | None = Field(
        None, description="Judge of free answers; without one MC2 is tuned on"
    )
    split: SplitSettings = Field(
        SplitSettings(folds=5, validation=0.25),
        description="One of `folds` parts is held out; `validation` is the share of the rest that "
        "tunes",
    )
    seed: Seed = Field(0, description="Of the split")
    separator: str | None = Field(
        "", description="Between the answers of a table's field; null: a field is one answer"
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _chat_by_default(cls, given: Any) -> Any:
        return {"chat": "auto", **given} if isinstance(given, dict) else given


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one setting came to on the questions it was tuned on. steered: share that fired."""

    point: dict[str, Any]
    bundle: Bundle
    value: float
    steered: float

    @property
    def tried(self) -> Tried:
        """What decides which setting is best."""
        return Tried(self.value, self.steered, float(self.point.get("alpha", 0.0)))

    @property
    def steers(self) -> bool:
        """Whether it is more than the model as it is."""
        return self.bundle.policy.when != "never"


def fit(
    model: Any,
    data: str | Path | Sequence[Question],
    settings: FitSettings | dict[str, Any] | None = None,
    work: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Return a bundle fitted to `data` and tuned.

    `bundle.about` says how good it is and what it has seen. `work`: folder for activations, from
    where a killed run goes on; else they are not kept. `say` is told what happens, line by line.

    Raises:
        DataError: a file is wrong, or there are too few questions.
        ConfigError: a setting is wrong.
    """
    settings = checked_settings(settings)
    questions = questions_of(data, settings.separator)
    judge, model = settings.judge, steering.load(model)
    settings = settings.model_copy(update={"prompt": settled(model, settings.prompt)})
    points = settings.grid.points(model.layout.n_layers * model.layout.n_heads)
    parts = split_of(questions, settings)
    train, validation, test = _parted(questions, parts)
    say(
        f"{len(questions)} questions: {len(train)} to fit, {len(validation)} to tune, "
        f"{len(test)} held out"
    )
    say(f"prompt: {PROMPTS[settings.prompt.chat]}")
    with tempfile.TemporaryDirectory() if work is None else contextlib.nullcontext(work) as folder:
        training = training_of(model, questions, parts, settings, Path(folder))
        method = method_of(settings)
        recipes = [method.recipe(point, settings, "grid") for point in points]
        fitted = fit_parts(training, recipes)
        bundles = [fitted.bundle(recipe, {}) for recipe in recipes]
        say(f"trying {len(points)} settings, and none, on the questions to tune")
        # not to steer is a setting too, whose parts are those of the first
        points, bundles = [*points, {}], [*bundles, bundles[0].with_policy(when="never")]
        best = _best(_tried(model, validation, points, bundles, judge))
        quality = _quality(training, best.bundle)
    tuned = {
        "point": best.point,
        "value": best.value,
        "steered": best.steered,
        "on": "true_info" if judge else "mc2",
        "judge": judge.model_dump(mode="json") if judge else None,
        "settings": len(points) - 1,
    }
    seen = sorted(question.key for question in (*train, *validation))
    counts = {"train": len(train), "validation": len(validation), "test": len(test)}
    about = {
        "tracker": quality,
        "tuned": tuned,
        "edge": at_edge(best.point, settings.grid.model_dump()) if best.steers else [],
        "questions": {**counts, "seen": seen},
    }
    bundle = replace(best.bundle, about=about)
    say("comparing with the unsteered model on the questions held out")
    held_out = evaluate(model, bundle, test, judge)
    measures = [asdict(measure) for measure in held_out.measures]
    return replace(bundle, about={**about, "held_out": measures})


def _parted(questions: Sequence[Question], parts: Split) -> tuple[list[Question], ...]:
    return tuple(_of(questions, ids) for ids in (parts.train, parts.validation, parts.test))


def method_of(settings: FitSettings) -> Method:
    """Return FASB with the chosen kind of vector, tracked as the paper's variant of it is (P7)."""
    classifier = "logistic" if settings.vector == "probe" else "prototype"
    own = {"vector": settings.vector, "classifier": classifier}
    return Method(use="head_vectors", gate="probe", settings=own)


def checked_settings(settings: FitSettings | dict[str, Any] | None) -> FitSettings:
    """The settings, their judge found and its own settings checked.

    Raises:
        ConfigError: a key is unknown, a value is wrong, or there is no such judge.
    """
    settings = (
        settings
        if isinstance(settings, FitSettings)
        else validated(FitSettings, settings or {}, "settings")
    )
    judge_of(settings.judge)
    return settings


def split_of(questions: Sequence[Question], settings: FitSettings) -> Split:
    """Questions to fit, tune and hold out.

    The first fold of the questions in an order that the seed draws.
    """
    order = np.random.default_rng(settings.seed).permutation(len(questions))
    return split([questions[i] for i in order], settings.split, settings.seed)[0]


def training_of(
    model: LoadedModel,
    questions: Sequence[Question],
    parts: Split,
    settings: FitSettings,
    folder: Path,
) -> Training:
    """Return what a method may see; banks are read into `folder` when they are asked for."""
    banks: dict[Read, Bank] = {}

    def bank(read: Read) -> Bank:
        if read not in banks:
            banks[read] = _bank(model, questions, read, settings, folder)
        return banks[read]

    seen = tuple(_of(questions, (*parts.train, *parts.validation)))
    return Training(0, parts, bank, settings, seen, lambda: model, settings.seed)


def p_of_bank(
    bank: Bank, rows: Bool[np.ndarray, " answer"], tracker: Tracker
) -> Float[np.ndarray, " chosen"]:
    """P at the end of the given answers, from the bank's activations."""
    layers = {layer: bank.layer(layer)[rows] for layer in sorted(set(tracker.at[:, 0].tolist()))}
    states = np.stack([layers[layer][:, unit] for layer, unit in tracker.at.tolist()], axis=1)
    return tracker.deviation(torch.from_numpy(states)).numpy()


def report(bundle: Bundle) -> str:
    """Say in a few lines what `bundle.about` holds; the first says whether steering helps."""
    about = bundle.about or {}
    tracker, tuned, n = about["tracker"], about["tuned"], about["questions"]
    best = ", ".join(
        f"{layer}.{head} {100 * share:.0f} %" for layer, head, share in tracker["heads"][:4]
    )
    auc = "one class only" if tracker["auc"] is None else f"{tracker['auc']:.2f}"
    point = ", ".join(f"{name} {value:g}" for name, value in tuned["point"].items())
    lines = [
        _verdict(bundle),
        f"tracker   best heads (layer.head): {best} of {tracker['n_validation']} answers told "
        f"right, chance {100 * tracker['chance']:.0f} %; AUC of p on {tracker['n_test']} answers "
        f"held out: {auc}",
        f"setting   {point or 'none'}: {TUNED_ON[tuned['on']]} {100 * tuned['value']:.1f} % on "
        f"{n['validation']} questions, best of {tuned['settings']} settings and none; "
        f"{100 * tuned['steered']:.0f} % steered",
    ]
    for name in about["edge"]:
        lines.append(
            f"          {name} is the smallest or largest that was tried; if answers are still "
            f"fluent, widen grid.{name} in --settings"
        )
    for found in (Measure(**one) for one in about["held_out"]):
        if found.name in ("true_info", "mc1", "mc2", "changed"):
            shares = f"{100 * found.unsteered:5.1f} to {100 * found.steered:5.1f} %"
            lines.append(f"held out  {LABELS[found.name]:9} {shares}  ({_interval(found)})")
    return "\n".join([*lines, f"          n = {n['test']} questions held out"])


PROMPTS = {
    "on": "the tokenizer's chat template (prompt.chat on)",
    "off": "plain text (prompt.chat off)",
}
"""How questions are put, in print."""
TUNED_ON = {"mc2": "MC2", "true_info": "True*Info"}
"""What a setting is chosen by, in print."""


def _verdict(bundle: Bundle) -> str:
    """Say whether steering helps, by what was held out, and what to do if not."""
    about = bundle.about or {}
    tuned, name = about["tuned"], TUNED_ON[about["tuned"]["on"]]
    if bundle.policy.when == "never":
        return (
            f"DOES NOT HELP: of {tuned['settings']} settings none had a better {name} than the "
            "model as it is on the questions to tune, so this bundle does not steer; give more "
            "questions, or another grid in --settings"
        )
    found = next(Measure(**one) for one in about["held_out"] if one["name"] == tuned["on"])
    gain = f"{name} {100 * found.difference:+.1f} points held out"
    if found.low is not None and found.low > 0:
        return f"HELPS: {gain} ({_interval(found)})"
    if found.high is not None and found.high < 0:
        return f"HARMS: {gain} ({_interval(found)}); do not use this bundle"
    return f"NO CLEAR EFFECT: {gain} ({_interval(found)}); hold more questions out, or do not steer"


def _interval(found: Measure) -> str:
    return f"95 % interval of the difference: {found.interval}"


def _bank(
    model: LoadedModel,
    questions: Sequence[Question],
    read: Read,
    settings: FitSettings,
    folder: Path,
) -> Bank:
    """Return the bank in `folder`, made unless it is there; its name holds a hash of its source."""
    render = render_of(model, settings.prompt)
    texts = texts_of(questions, read, settings.prompt, settings.activations.seed, render)
    of_model = model.settings.model_dump(mode="json"), asdict(model.fingerprint)
    source = [*of_model, weights_of(model.settings.path), settings.activations.dtype]
    path = folder / f"{read.name}-{content_hash([asdict(texts), *source])}.h5"
    with contextlib.suppress(ArtifactError):
        return Bank.open(path)
    return collect(model, texts, settings.activations, path, {"stage": "fit"})


def _of(questions: Sequence[Question], ids: Sequence[str]) -> list[Question]:
    wanted = set(ids)
    return [question for question in questions if question.id in wanted]


def _tried(
    model: LoadedModel,
    questions: Sequence[Question],
    points: Sequence[dict[str, Any]],
    bundles: Sequence[Bundle],
    judge: JudgeSettings | None,
) -> list[Candidate]:
    """What each setting comes to on these questions."""
    if judge is None:
        if not any(question.false for question in questions):
            raise DataError(
                "fit: no question to tune on has a false answer, and nobody judges free text; "
                "add false answers, or name a judge"
            )
        scores = score_sweep(model, encoded_choices(model, bundles[0], questions), bundles)
        values = []
        for found in scores:
            mc2 = choice_rows(questions, found.logprob, found.fired)[:, 1]
            values.append(float(np.nanmean(mc2)))
        fired = [found.fired for found in scores]
    else:
        prompts = steering.prompts_of(model, bundles[0], [question.text for question in questions])
        before = trace(model, prompts, bundles[0].decoding, bundles[0].prompt.stop)
        answers = sweep(model, prompts, before, bundles)
        texts = [steering.texts_of(model, bundles[0], found.after.rows()) for found in answers]
        values = _true_info(judge, questions, texts)
        fired = [found.decision.fired for found in answers]
    shares = [float(np.mean(one)) for one in fired]
    return [Candidate(*parts) for parts in zip(points, bundles, values, shares, strict=True)]


def _true_info(
    judge: JudgeSettings, questions: Sequence[Question], texts: Sequence[Sequence[str]]
) -> list[float]:
    """True*Info of each setting, each distinct answer judged once.

    A judge of one of the two counts alone.
    """
    pairs = list(dict.fromkeys((i, text) for answers in texts for i, text in enumerate(answers)))
    said = run_judge(judge, [questions[i] for i, _ in pairs], [text for _, text in pairs])
    yes = {
        kind: dict(zip(pairs, verdict(score).astype(float), strict=True))
        for kind, score in said.items()
    }
    every = dict.fromkeys(pairs, 1.0)
    return [
        true_info(
            *(
                np.array([yes.get(kind, every)[pair] for pair in enumerate(answers)])
                for kind in ("true", "info")
            )
        )
        for answers in texts
    ]


def _best(tried: Sequence[Candidate]) -> Candidate:
    """Return the highest value; then the fewest answers steered, then the smallest strength."""
    return tried[best_of([one.tried for one in tried])]


def _quality(training: Training, bundle: Bundle) -> dict[str, Any]:
    """Say how accurate the anchors are, and how well p tells held-out answers apart."""
    from sklearn.metrics import roc_auc_score

    bank, tracker = training.bank(HEADS), bundle.tracker
    assert tracker is not None
    kind = kind_of_score(tracker)
    rows = bank.rows(training.split.validation)
    test = bank.rows(training.split.test)
    false, true = (float((bank.label[rows] == label).mean()) for label in (0, 1))
    wrong, auc = bank.label[test] == 0, None
    if 0 < wrong.sum() < len(wrong):
        auc = float(roc_auc_score(wrong, p_of_bank(bank, test, tracker)))
    accuracy = training.accuracy(kind)
    heads = [(layer, head, float(accuracy[layer, head])) for layer, head in tracker.at.tolist()]
    counts = {"n_validation": int(rows.sum()), "n_test": int(test.sum())}
    return {"kind": kind, "heads": heads, "chance": max(false, true), "auc": auc, **counts}


def kind_of_score(tracker: Tracker) -> ClassifierKind:
    """Return which classifiers a tracker of heads is made of."""
    return "cosine" if isinstance(tracker.score, Cosine) else "logistic"
