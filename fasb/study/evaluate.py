"""Test questions: what the tuned bundles answer and prefer.

In: the bundles that tuning wrote, splits, questions, unsteered answers. Out: `generations.parquet`,
one row per fold, method and phrasing with all details of the answer (see `run.py`),
`scores.parquet`:

    scores        fold, method, tuned_for (generation, mc2), question, phrasing, mc1, mc2, mc3,
                  fired (share of answers)

and `side_effects.parquet`, one row per fold, method and text or unrelated question:

    side effects  fold, method, question (`text0`, … or a question's id), group, ce, kl, ce_policy,
                  kl_policy, steered_policy (of texts, see `run.py`), unrelated (MC1 of an unrelated
                  question, 0 to 1)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fasb.data.prompts import instructed
from fasb.data.protocol import Question, Split, with_ids
from fasb.data.splits import tested_groups
from fasb.errors import ArtifactError, DataError
from fasb.settings import PromptSettings, ScoringSettings, StageSettings
from fasb.steering.bundle import Bundle
from fasb.study.run import ANSWERS, DETAIL, EFFECTS, SCORES, Asked, Runner
from fasb.study.shards import ordered, units
from fasb.study.sweep import joined
from fasb.study.tune import PURPOSES, bundle_path

GENERATIONS = ["fold", "method", *ANSWERS[:2], "group", "text", *ANSWERS[2:], *DETAIL[1:]]
SIDE_EFFECTS = ["fold", "method", "question", "group", *EFFECTS, "unrelated"]
SCORED = ["fold", "method", "tuned_for", *SCORES]


@dataclass(frozen=True, slots=True)
class Bundles:
    """The folder and methods of tuned bundles; in transfer also how other questions are put."""

    folder: Path
    methods: Sequence[str]
    asked: StageSettings | None = None

    def load(
        self, method: str, fold: int, questions: Sequence[Question], split: Split
    ) -> dict[str, Bundle]:
        """Return a fold's bundles by what they were tuned for."""
        loaded = {}
        for purpose in PURPOSES:
            path = bundle_path(self.folder, method, fold, purpose)
            bundle = tuned_bundle(path, questions, split)
            if self.asked is not None:
                tokens = {"tokens": self.asked.decoding.tokens}
                decoding = bundle.decoding.model_copy(update=tokens)
                bundle = _put(bundle, self.asked.prompt, self.asked.scoring)
                bundle = replace(bundle, decoding=decoding)
            loaded[purpose] = bundle
        return loaded


def _put(bundle: Bundle, prompt: PromptSettings, scoring: ScoringSettings) -> Bundle:
    """Return a bundle for other questions, put in their own way; its instruction stays (C12)."""
    settings = (bundle.about or {}).get("settings") or {}
    asked = instructed(prompt, settings.get("instruction"))
    return replace(bundle, prompt=asked, scoring=scoring)


def generate(
    runner: Runner,
    splits: Sequence[Split],
    questions: Sequence[Question],
    traces: pd.DataFrame | None,
    bundles: Bundles,
    batch: int,
) -> pd.DataFrame:
    """Return answers of the bundles tuned for generation to each fold's test questions.

    Without `traces` nothing is answered.
    """
    if traces is None:
        return joined([], GENERATIONS)
    parts, group = [], tested_groups(questions)
    for unit in units(splits, bundles.methods, lambda split: split.test, runner.shard):
        asked = Asked.of(questions, unit.ids, traces)
        bundle = bundles.load(unit.method, unit.fold, questions, splits[unit.fold])["generation"]
        bundle = replace(bundle, decoding=bundle.decoding.model_copy(update={"batch": batch}))
        found = runner.answers(asked, [bundle], f"generate, {unit.what}", detail=True)
        # beside each answer what is drawn together in its intervals
        of = {"fold": unit.fold, "method": unit.method, "group": found["question"].map(group)}
        parts.append(found.assign(**of))
    return ordered(joined(parts, GENERATIONS), questions, bundles.methods)


def score(
    runner: Runner,
    splits: Sequence[Split],
    questions: Sequence[Question],
    bundles: Bundles,
    batch: int,
) -> pd.DataFrame:
    """Return choice metrics of each fold's test questions, at both tuned settings.

    Settings that are equal are scored once.
    """
    parts = []
    for unit in units(splits, bundles.methods, lambda split: split.test, runner.shard):
        asked = with_ids(questions, unit.ids)
        loaded = bundles.load(unit.method, unit.fold, questions, splits[unit.fold])
        for purpose, bundle in loaded.items():
            scoring = bundle.scoring.model_copy(update={"batch": batch})
            loaded[purpose] = replace(bundle, scoring=scoring)
        different = {bundle.key(): bundle for bundle in loaded.values()}
        found = runner.scores(asked, list(different.values()), f"score, {unit.what}")
        for purpose, bundle in loaded.items():
            rows = found[found["setting"] == list(different).index(bundle.key())]
            parts.append(rows.assign(fold=unit.fold, method=unit.method, tuned_for=purpose))
    return ordered(joined(parts, SCORED), questions, bundles.methods)


@dataclass(frozen=True, slots=True)
class Unrelated:
    """What side effects are measured on: texts, and choices put as their own dataset has it."""

    texts: Sequence[str]
    tokens: int
    batch: int
    choices: Sequence[Question]
    prompt: PromptSettings
    scoring: ScoringSettings

    def measure(self, runner: Runner, bundle: Bundle, what: str) -> pd.DataFrame:
        """Return one bundle's rows."""
        effects = runner.side_effects(self.texts, bundle, self.tokens, self.batch, f"{what}, texts")
        # texts belong to nothing, so each is a group of its own
        names = [f"text{i}" for i in range(len(effects))]
        effects = effects.assign(question=names, group=names, unrelated=np.nan)
        if not self.choices:
            return effects
        # by keys: the same question may have another id in another dataset
        seen = bundle.seen
        unseen = [question for question in self.choices if not question.keys & seen]
        if not unseen:
            raise DataError(
                f"side_effects.choices: the bundle of {what} was fitted or tuned on all of these "
                "questions; name another dataset"
            )
        asked = _put(bundle, self.prompt, self.scoring)
        scores = runner.scores(unseen, [asked], f"{what}, choices")
        mc1 = scores.groupby("question", sort=False)["mc1"].mean()
        groups = tested_groups(self.choices)
        rows = pd.DataFrame(
            {"question": mc1.index, "group": mc1.index.map(groups), "unrelated": mc1.to_numpy()}
        )
        return pd.concat([effects, rows], ignore_index=True)


def measure_side_effects(
    runner: Runner, n_folds: int, bundles: Bundles, unrelated: Unrelated
) -> pd.DataFrame:
    """Return the side effects of every method's tuned bundle of every fold."""
    parts = []
    for fold in range(n_folds):
        for method in bundles.methods:
            bundle = Bundle.load(bundle_path(bundles.folder, method, fold))
            found = unrelated.measure(runner, bundle, f"side effects, fold {fold}, {method}")
            parts.append(found.assign(fold=fold, method=method))
    return joined(parts, SIDE_EFFECTS)


def tuned_bundle(path: Path, questions: Sequence[Question], split: Split) -> Bundle:
    """Return the bundle in a file that has seen this fold's questions but its test questions.

    A fold without training questions (transfer) may have seen whatever is not tested.

    Raises:
        ArtifactError: it has not.
    """
    bundle = Bundle.load(path)
    seen = bundle.seen
    keys = {question.id: question.keys for question in questions}
    if split.train:
        own: set[str] = set()
        for name in (*split.train, *split.validation):
            own |= keys[name]
        # equal, not only within: a bundle that has seen fewer is of other splits
        if seen != own:
            raise ArtifactError(
                f"{path}: tuned on other questions than its fold has in these splits; run the "
                "stage 'tune' again"
            )
        return bundle
    if both := [name for name in split.test if keys[name] & seen]:
        raise ArtifactError(
            f"{path}: was fitted or tuned on question {both[0]!r}; test on other questions"
        )
    return bundle
