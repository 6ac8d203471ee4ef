"""Fitted folds of small banks, made by the stages themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from tiny import tiny_bank

from fasb import search
from fasb.data.protocol import Question, Split
from fasb.data.splits import split
from fasb.fitting.bank import Bank, collect, texts_of
from fasb.fitting.fold import (
    FittedFold,
    fit_parts,
    fit_trackers,
    fit_vectors,
    know_fitted,
    rank_anchors,
    read_folds,
)
from fasb.fitting.reads import HEAD_READS, Read
from fasb.fitting.recipe import Recipe
from fasb.fitting.training import Training
from fasb.hdf5files import seal
from fasb.search import Method
from fasb.settings import ActivationSettings, PromptSettings, SplitSettings, StageSettings
from fasb.steering.bundle import Bundle
from fasb.steering.fingerprint import Fingerprint

ENTRY = Method(
    use="head_vectors", gate="probe", settings={"k": 2}, grid={"vector": ("probe", "prototype")}
)


@dataclass(frozen=True)
class Fits:
    """The banks and files of a cell. `make` makes a bank when it is first asked for."""

    folder: Path
    splits: list[Split]
    make: Callable[[Read], Bank]
    banks: dict[Read, Bank] = field(default_factory=dict)
    questions: Sequence[Question] = ()

    def bank(self, read: Read) -> Bank:
        if read not in self.banks:
            self.banks[read] = self.make(read)
        return self.banks[read]

    @property
    def trackers(self) -> Path:
        return self.folder / "trackers.safetensors"

    @property
    def anchors(self) -> Path:
        return self.folder / "anchors.h5"

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors.safetensors"

    def training(self, fold: int = 0, **sections) -> Training:
        """A fold that knows nothing yet."""
        own = {*self.splits[fold].train, *self.splits[fold].validation}
        seen = tuple(question for question in self.questions if question.id in own)
        return Training(fold, self.splits[fold], self.bank, StageSettings(**sections), seen)

    def fit(
        self, entries: Sequence[Method] | Mapping[str, Method] = (ENTRY,), **sections
    ) -> "Fits":
        """Run the three stages; a mapping may hold methods that are `like` another."""
        answers, settings = self.bank(HEAD_READS[0]), StageSettings(**sections)
        fit_trackers(answers, self.splits, settings.probes, self.trackers, {})
        rank_anchors(answers, self.splits, self.trackers, self.anchors, {})
        trainings = [self.training(i, **sections) for i in range(len(self.splits))]
        for training in trainings:
            know_fitted(training, self.trackers, self.anchors)
        by_name = isinstance(entries, Mapping)
        recipes = (search.recipes_of if by_name else recipes_of)(entries, settings)
        fit_vectors(trainings, recipes, self.vectors, {})
        return self

    def read(self, **sections) -> list[FittedFold]:
        return read_folds(self.anchors, self.vectors, StageSettings(**sections))


def recipes_of(entries: Sequence[Method], sections: StageSettings) -> list[Recipe]:
    """All points of the grids of some entries."""
    found = []
    for entry in entries:
        for point in entry.points():
            found.append(entry.recipe(point, sections, "test"))
    return found


def some_questions(n: int, per_group: int = 1) -> list[Question]:
    return [
        Question(f"q{i}", f"what is {i} ?", ("yes",), ("no",), "yes", f"g{i // per_group}")
        for i in range(n)
    ]


def some_fits(
    folder: Path, shape: tuple[int, int, int] = (2, 3, 5), n: int = 20, n_folds: int = 2
) -> Fits:
    """Files of a cell with `n` questions, four answers each; random banks, not yet fitted."""

    def make(read: Read) -> Bank:
        n_layers, n_heads, width = shape
        size = shape if read.site == "head" else (n_layers, 1, n_heads * width)
        behind = read.position == "next_question_end"
        path = folder / f"{read.name}.h5"
        return tiny_bank(path, 4 * n, size, int(behind), ahead=3 * behind, site=read.site)

    splits = split(some_questions(n), SplitSettings(folds=n_folds, validation=0.3), 0)
    return Fits(folder, splits, make)


def model_fits(folder: Path, model, questions: list[Question]) -> Fits:
    """Files of a cell whose banks are a model's own."""

    def make(read: Read) -> Bank:
        texts = texts_of(questions, read, PromptSettings())
        return collect(model, texts, ActivationSettings(), folder / f"{read.name}.h5", {})

    splits = split(questions, SplitSettings(validation=0.3), 0)
    return Fits(folder, splits, make, questions=questions)


def spoil(bank: Bank, questions: tuple[str, ...]) -> Bank:
    """Write nonsense into the rows that hold a text of these questions, and turn their labels."""
    rows = np.isin(bank.question, questions) | np.isin(bank.drawn, questions)
    with h5py.File(bank.path, "r+") as file:
        x = file["activations"][:]
        x[rows] = 30 * np.random.default_rng(0).normal(size=x[rows].shape)
        file["activations"][:] = x
        file["label"][:] = abs(file["label"][:] - rows.astype("int8"))
    seal(bank.path)
    return Bank.open(bank.path)


def fit_bundle(training: Training, recipe: Recipe, fingerprint: Fingerprint, about: dict) -> Bundle:
    """The bundle of a recipe, fitted on one fold."""
    fold = fit_parts(training, [recipe], fingerprint)
    return recipe.bundle(
        *(next(iter(parts.values()), None) for parts in (fold.edits, fold.trackers)),
        training.sections,
        fingerprint,
        about,
    )
