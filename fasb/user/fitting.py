"""Fitting a bundle to one's own model and questions.

In: a model, questions with true and false answers, control questions, settings. Out: a tuned bundle
that remembers how good it is and which questions it has seen. Questions are split into three:
fitted on, tuned on, held out; controls into two. A setting that harms is never returned: where what
was held out shows harm, the bundle does not steer (docs/decisions.md).
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fasb.data.protocol import Question, Split, with_ids
from fasb.data.splits import split
from fasb.errors import ArtifactError
from fasb.fitting.anchors import tied_units
from fasb.fitting.bank import Bank, collect, texts_of
from fasb.fitting.calibration import calibrated, p_of_bank
from fasb.fitting.fold import fit_parts
from fasb.fitting.probes import ClassifierKind
from fasb.fitting.reads import Read
from fasb.fitting.training import Training
from fasb.metrics.answers import degenerate
from fasb.metrics.calibration import reliability
from fasb.model.chat import render_of, settled
from fasb.model.generation import passed_over
from fasb.model.load import LoadedModel
from fasb.provenance import content_hash, content_of
from fasb.search import at_edge, values_of
from fasb.sourcecode import version_of
from fasb.steering.bundle import Bundle
from fasb.steering.tracker import Cosine, Tracker
from fasb.user import steering
from fasb.user.asking import ask, steered, surprise
from fasb.user.controls import controls_of
from fasb.user.evaluation import evaluate, n_choices, questions_of
from fasb.user.fitsettings import FitSettings, checked_settings, method_of, points_of
from fasb.user.guards import Limits, harm
from fasb.user.report import harms
from fasb.user.tuning import Candidate, best, check_tunable, tried
from fasb.wholefiles import check_out


def fit(
    model: Any,
    data: str | Path | Sequence[Question],
    settings: FitSettings | dict[str, Any] | None = None,
    work: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Return a bundle fitted to `data` and tuned; it does not steer where that would not help.

    `bundle.about` says how good it is and what it has seen. `work`: folder for activations, from
    where a killed run goes on; else they are not kept. `say` is told what happens, line by line.

    Raises:
        DataError: a file is wrong, or there are too few questions.
        ConfigError, ArtifactError: a setting is wrong; `work` cannot be written to.
    """
    settings = checked_settings(settings)
    # files that may be wrong are read before a model is loaded
    questions = questions_of(data, settings.separator)
    controls = controls_of(settings.controls)
    # of a model that is in memory, they have said how it was loaded
    given = settings.model if isinstance(model, str | Path) else {}
    parts, train, validation, test = tunable_parts(questions, settings)
    if work is not None:
        check_out(Path(work) / "bank.h5")
    judge, model = settings.judge, steering.load(model, **given)
    settings = settings.model_copy(update={"prompt": settled(model, settings.prompt)})
    points = points_of(settings, model.layout.n_layers * model.layout.n_heads)
    say(
        f"{len(questions)} questions: {len(train)} to fit, {len(validation)} to tune, "
        f"{len(test)} held out"
    )
    say(f"prompt: {PROMPTS[settings.prompt.chat]}")
    with tempfile.TemporaryDirectory() if work is None else contextlib.nullcontext(work) as folder:
        training = training_of(model, questions, parts, settings, Path(folder))
        bundles = bundles_of(training, points, settings)
        say(f"trying {len(points)} settings, and none, on the questions to tune")
        limits = Limits(settings.touch, settings.perplexity)
        grid = list(zip(points, bundles, strict=True))
        found = tried(model, validation, controls.calibration, grid, limits, judge)
        chosen = best(found)
        quality = _quality(training, chosen.bundle, Read("head", settings.read))
    about: dict[str, Any] = {
        "use": settings.use,
        "tracker": quality,
        "tuned": _tuned(chosen, found, settings),
        "tried": [one.row for one in found],
        "edge": at_edge(chosen.point, values_of(points)) if chosen.steers else [],
        "questions": _counted(train, validation, test),
        "passed_over": passed_over(model.model),
    }
    # before it is evaluated, as it must know which questions it has seen
    bundle = replace(chosen.bundle, about=about)
    say("comparing with the unsteered model on the questions and controls held out")
    about |= held_out(model, bundle, test, controls.held_out, settings)
    bundle = replace(bundle, about=about)
    # what is held out may switch a bundle off, never choose another (docs/decisions.md)
    if chosen.steers and harms(about, settings.touch):
        bundle = replace(bundle, policy=replace(bundle.policy, when="never"))
    return bundle


def bundles_of(
    training: Training, points: Sequence[dict[str, Any]], settings: FitSettings
) -> list[Bundle]:
    """Return the bundle of each point, its tracker calibrated on the questions to tune (X6)."""
    method = method_of(settings)
    recipes = [method.recipe(point, settings, settings.use) for point in points]
    bank = training.bank(Read("head", settings.read))
    fitted = fit_parts(training, recipes, bank.fingerprint)
    rows = bank.rows(training.split.validation)
    trackers = {key: calibrated(one, bank, rows) for key, one in fitted.trackers.items()}
    fitted = replace(fitted, trackers=trackers)
    return [fitted.bundle(recipe, {"use": settings.use}) for recipe in recipes]


def held_out(
    model: LoadedModel,
    bundle: Bundle,
    questions: Sequence[Question],
    controls: Sequence[str],
    settings: FitSettings,
) -> dict[str, Any]:
    """Return what `about` holds of questions and controls that nothing was chosen by.

    It holds `tuned` as well, with the measure that was tuned on, by what was measured.
    """
    found = evaluate(model, bundle, questions, settings.judge)
    asked = ask(model, bundle, controls)
    (answers,) = steered(model, asked, [bundle])
    plain = surprise(model, bundle, asked.prompts, asked.before.rows())
    done = harm(model, bundle, asked, answers, np.ones(len(controls), dtype=bool), plain)
    changed = [row for row in found.answers if row["steered"] != row["unsteered"]]
    broken = 0
    for row in changed:
        if degenerate(row["steered"]) and not degenerate(row["unsteered"]):
            broken += 1
    about_controls = {
        "n": len(controls),
        "steered": float(answers.decision.fired.mean()),
        **asdict(done),
    }
    tuned_on = _tuned_on(settings, {measure.name for measure in found.measures})
    return {
        "tuned": {**(bundle.about or {})["tuned"], "on": tuned_on},
        "held_out": [asdict(measure) for measure in found.measures],
        "broken": broken,
        "controls": about_controls,
        "examples": changed[:3],
    }


def _tuned(chosen: Candidate, found: Sequence[Candidate], settings: FitSettings) -> dict[str, Any]:
    """Return what `about` holds of tuning."""
    judge, none = settings.judge, found[-1]  # the last is not to steer
    return {
        "point": chosen.point,
        "value": chosen.value,
        "unsteered": none.value,
        "steered": chosen.steered,
        "judge": judge.model_dump(mode="json") if judge else None,
        "settings": len(found) - 1,
        "out": dict(Counter(one.out for one in found if one.out)),
        "fired": sum(one.steered > 0 for one in found if not one.out),
        "touch": settings.touch,
        "perplexity": settings.perplexity,
    }


def _counted(
    train: Sequence[Question], validation: Sequence[Question], test: Sequence[Question]
) -> dict[str, Any]:
    """Return how many questions there were for what, and the keys of those that chose something."""
    seen: set[str] = set()
    for question in (*train, *validation):
        seen |= question.keys
    counts = {"train": len(train), "validation": len(validation), "test": len(test)}
    choices = {"validation": n_choices(validation), "test": n_choices(test)}
    return {**counts, "choices": choices, "seen": sorted(seen)}


def _tuned_on(settings: FitSettings, measured: Container[str]) -> str:
    """Return the measure that was tuned on: of a judge that gives one score, that score."""
    if settings.judge is None:
        return "mc2_as_generated"
    return next(name for name in ("true_info", "true", "info") if name in measured)


def tunable_parts(
    questions: Sequence[Question], settings: FitSettings
) -> tuple[Split, list[Question], list[Question], list[Question]]:
    """Return the split, and the questions to fit, tune and hold out; no model is needed.

    Raises:
        DataError: too few of them can be tuned on or measured.
    """
    parts = split_of(questions, settings)
    train, validation = with_ids(questions, parts.train), with_ids(questions, parts.validation)
    test = with_ids(questions, parts.test)
    check_tunable(validation, settings.judge, "to tune on")
    check_tunable(test, settings.judge, "held out")
    return parts, train, validation, test


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
    bank = cache(lambda read: _bank(model, questions, read, settings, folder))
    seen = tuple(with_ids(questions, (*parts.train, *parts.validation)))
    return Training(0, parts, bank, settings, seen, lambda: model, settings.seed)


PROMPTS = {
    "on": "the tokenizer's chat template (prompt.chat on)",
    "off": "plain text (prompt.chat off)",
}
"""How questions are put, in print."""


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
    # what other code has read may be something else
    code = version_of(collect.__module__)
    source = [*of_model, content_of(model.settings.path), settings.activations.dtype, code]
    path = folder / f"{read.name}-{content_hash([asdict(texts), *source])}.h5"
    # one that is missing, damaged or half-written is made (again)
    with contextlib.suppress(ArtifactError):
        return Bank.open(path)
    return collect(model, texts, settings.activations, path, {"stage": "fit"})


def _quality(training: Training, bundle: Bundle, read: Read) -> dict[str, Any]:
    """Say how accurate the anchors are, and how well p tells held-out answers apart.

    auc: None where they are of one class. ece: expected calibration error of p on held-out answers,
    as fitted and as calibrated.
    """
    from sklearn.metrics import roc_auc_score

    # with the labels of the test, which no method sees
    bank, tracker = training.banks(read), bundle.tracker
    assert tracker is not None
    validation = bank.rows(training.split.validation)
    test = bank.rows(training.split.test)
    true = bank.label[validation] == 1
    wrong, auc = bank.label[test] == 0, None
    p = p_of_bank(bank, test, tracker)
    # Platt's numbers keep the order of p, so one AUC is enough; its error differs (X6)
    raw = p_of_bank(bank, test, replace(tracker, calibration=None))
    if 0 < wrong.sum() < len(wrong):
        auc = float(roc_auc_score(wrong, p))
    once = np.ones((1, len(wrong)))  # one draw in which every state counts once
    ece = [float(reliability(one, wrong, once).error[0]) for one in (raw, p)]
    kind = kind_of_score(tracker)
    accuracy = training.accuracy(kind, read)
    heads = [(layer, head, float(accuracy[layer, head])) for layer, head in tracker.at.tolist()]
    return {
        "kind": kind,
        "heads": heads,
        "chance": max(float(true.mean()), float((~true).mean())),
        "auc": auc,
        "ece": ece,
        "n_validation": int(validation.sum()),
        "n_test": int(test.sum()),
        "tied": tied_units(accuracy, len(heads))[1],
    }


def kind_of_score(tracker: Tracker) -> ClassifierKind:
    """Return which classifiers a tracker of heads is made of."""
    return "cosine" if isinstance(tracker.score, Cosine) else "logistic"
