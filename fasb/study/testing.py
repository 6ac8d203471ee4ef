"""Test questions: what the tuned bundles answer and prefer.

In: the bundles that tuning wrote, splits, questions, unsteered answers. Out: `generations.parquet`, one row per fold,
method and phrasing with all details of the answer (see `fasb/study/run.py`), and `scores.parquet`:

    scores    fold, method, tuned_for (generation, mc2), question, phrasing, mc1, mc2, mc3, fired (share of answers)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fasb.artifacts import content_hash
from fasb.bundle import Bundle
from fasb.data.protocol import Question, Split
from fasb.errors import ArtifactError
from fasb.settings import PromptSettings
from fasb.study.run import ANSWERS, DETAIL, SCORES, Asked, Runner
from fasb.study.sweep import joined
from fasb.study.tune import PURPOSES, bundle_path

GENERATIONS = ["fold", "method", *ANSWERS[:2], "text", *ANSWERS[2:], *DETAIL[1:]]
SCORED = ["fold", "method", "tuned_for", *SCORES]


@dataclass(frozen=True, slots=True)
class Bundles:
    """The folder and methods of tuned bundles; in transfer also how the other dataset's questions are put."""

    folder: Path
    methods: Sequence[str]
    prompt: PromptSettings | None = None
    tokens: int | None = None

    def load(self, method: str, fold: int, questions: Sequence[Question], split: Split) -> dict[str, Bundle]:
        """A fold's bundles by what they were tuned for.

        Raises:
            ArtifactError: one was tuned on other questions than its fold's, or on one that it would be tested on.
        """
        paths = {purpose: bundle_path(self.folder, method, fold, purpose) for purpose in PURPOSES}
        loaded = {purpose: tuned_bundle(path, questions, split) for purpose, path in paths.items()}
        if self.prompt is None:
            return loaded
        sections = {p: bundle.decoding.model_copy(update={"tokens": self.tokens}) for p, bundle in loaded.items()}
        return {p: replace(bundle, prompt=self.prompt, decoding=sections[p]) for p, bundle in loaded.items()}


def generate(
    runner: Runner,
    splits: Sequence[Split],
    questions: Sequence[Question],
    traces: pd.DataFrame,
    bundles: Bundles,
    batch: int,
) -> pd.DataFrame:
    """Answers of the bundles tuned for generation to each fold's test questions.

    Raises:
        ArtifactError: a bundle was tuned on other questions than its fold's, or on one of its test questions.
    """
    parts = []
    for fold, split in enumerate(splits):
        asked = Asked.of(questions, split.test, traces)
        for method in bundles.methods:
            bundle = bundles.load(method, fold, questions, split)["generation"]
            bundle = replace(bundle, decoding=bundle.decoding.model_copy(update={"batch": batch}))
            found = runner.answers(asked, [bundle], f"generate, fold {fold}, {method}", detail=True)
            parts.append(found.assign(fold=fold, method=method))
    return joined(parts, GENERATIONS)


def score(
    runner: Runner, splits: Sequence[Split], questions: Sequence[Question], bundles: Bundles, batch: int
) -> pd.DataFrame:
    """Multiple-choice metrics of each fold's test questions, at both tuned settings; equal ones are scored once.

    Raises:
        ArtifactError: a bundle was tuned on other questions than its fold's, or on one of its test questions.
    """
    parts = []
    for fold, split in enumerate(splits):
        asked = [question for question in questions if question.id in set(split.test)]
        for method in bundles.methods:
            loaded = bundles.load(method, fold, questions, split)
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

    A fold without any (transfer) may have seen whatever is not tested.

    Raises:
        ArtifactError: it has not.
    """
    bundle = Bundle.load(path)
    seen = set(((bundle.about or {}).get("questions") or {}).get("seen", ()))
    texts = {question.id: content_hash(question.text) for question in questions}
    if not split.train:
        if both := [name for name in split.test if texts[name] in seen]:
            raise ArtifactError(f"{path}: was fitted or tuned on question {both[0]!r}; test on other questions")
    elif seen != {texts[name] for name in (*split.train, *split.validation)}:
        raise ArtifactError(
            f"{path}: tuned on other questions than its fold has in these splits; run 'fasb tune' again"
        )
    return bundle
