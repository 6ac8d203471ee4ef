"""Test questions: what the tuned bundles answer and prefer.

In: the bundles that tuning wrote, splits, questions, unsteered answers. Out: `generations.parquet`, one row per fold,
method and phrasing with all details of the answer (see `fasb/study/run.py`), and `scores.parquet`:

    scores    fold, method, tuned_for (generation, mc2), question, phrasing, mc1, mc2, mc3, fired (share of answers)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fasb.artifacts import content_hash
from fasb.bundle import Bundle
from fasb.data.protocol import Question, Split
from fasb.errors import ArtifactError
from fasb.study.run import ANSWERS, DETAIL, SCORES, Asked, Runner
from fasb.study.sweep import joined
from fasb.study.tune import PURPOSES, bundle_path

GENERATIONS = ["fold", "method", *ANSWERS[:2], "text", *ANSWERS[2:], *DETAIL[1:]]
SCORED = ["fold", "method", "tuned_for", *SCORES]


def generate(
    runner: Runner,
    splits: Sequence[Split],
    questions: Sequence[Question],
    traces: pd.DataFrame,
    bundles: tuple[Path, Sequence[str]],
    batch: int,
) -> pd.DataFrame:
    """Answers to each fold's test questions; `bundles` are their folder and the methods.

    Raises:
        ArtifactError: a bundle was tuned on other questions than its fold's.
    """
    folder, methods = bundles
    parts = []
    for fold, split in enumerate(splits):
        asked = Asked.of(questions, split.test, traces)
        for method in methods:
            bundle = tuned_bundle(bundle_path(folder, method, fold), questions, split)
            bundle = replace(bundle, decoding=bundle.decoding.model_copy(update={"batch": batch}))
            found = runner.answers(asked, [bundle], f"generate, fold {fold}, {method}", detail=True)
            parts.append(found.assign(fold=fold, method=method))
    return joined(parts, GENERATIONS)


def score(
    runner: Runner,
    splits: Sequence[Split],
    questions: Sequence[Question],
    bundles: tuple[Path, Sequence[str]],
    batch: int,
) -> pd.DataFrame:
    """Multiple-choice metrics of each fold's test questions, at both tuned settings; equal ones are scored once.

    Raises:
        ArtifactError: a bundle was tuned on other questions than its fold's.
    """
    folder, methods = bundles
    parts = []
    for fold, split in enumerate(splits):
        asked = [question for question in questions if question.id in set(split.test)]
        for method in methods:
            paths = {purpose: bundle_path(folder, method, fold, purpose) for purpose in PURPOSES}
            loaded = {purpose: tuned_bundle(path, questions, split) for purpose, path in paths.items()}
            section = {p: bundle.scoring.model_copy(update={"batch": batch}) for p, bundle in loaded.items()}
            loaded = {purpose: replace(bundle, scoring=section[purpose]) for purpose, bundle in loaded.items()}
            different = {bundle.key(): bundle for bundle in loaded.values()}
            found = runner.scores(asked, list(different.values()), f"score, fold {fold}, {method}")
            for purpose, bundle in loaded.items():
                rows = found[found["setting"] == list(different).index(bundle.key())]
                parts.append(rows.assign(fold=fold, method=method, tuned_for=purpose))
    return joined(parts, SCORED)


def tuned_bundle(path: Path, questions: Sequence[Question], split: Split) -> Bundle:
    """The bundle in a file, if it has seen this fold's training and validation questions and no other.

    Raises:
        ArtifactError: it has not.
    """
    bundle = Bundle.load(path)
    ids = {*split.train, *split.validation}
    seen = ((bundle.about or {}).get("questions") or {}).get("seen", ())
    if set(seen) != {content_hash(question.text) for question in questions if question.id in ids}:
        raise ArtifactError(
            f"{path}: tuned on other questions than its fold has in these splits; run 'fasb tune' again"
        )
    return bundle
