"""Training: all that a method or a gate may see of a fold.

In: banks, the fold's split, fitted classifiers. Out: what `fit` in `fasb/methods/` and
`fasb/gates/` takes. Knows no method. Rows of test questions are nobody's business but for sigma
under `vectors.sigma_rows: all`, which the preset `reference` needs (docs/method.md P8): a bank has
them, without their labels.
"""

import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from fasb.data.protocol import Question, Split
from fasb.errors import ConfigError
from fasb.fitting.anchors import best_units
from fasb.fitting.bank import Bank
from fasb.fitting.probes import ClassifierKind, Classifiers, accuracy, fit_classifiers
from fasb.fitting.reads import Read
from fasb.model.load import LoadedModel
from fasb.settings import StageSettings

Made = TypeVar("Made")
HEADS = Read()


def _no_model() -> LoadedModel:
    raise ConfigError("this step has no model; a method that asks for one needs NEEDS_MODEL = True")


@dataclass(frozen=True, slots=True)
class Training:
    """One fold.

    questions: those fitted and tuned on. banks, model: asked for when a method wants them.
    """

    fold: int
    split: Split
    banks: Callable[[Read], Bank]
    sections: StageSettings = StageSettings()
    questions: tuple[Question, ...] = ()
    model: Callable[[], LoadedModel] = _no_model
    seed: int = 0
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` gives, made once per fold: points of a grid share it."""
        if key not in self._known:
            self._known[key] = make()
        made: Made = self._known[key]
        return made

    def chance(self, what: str) -> np.random.Generator:
        """Return the random numbers that `what` is drawn from: others in each fold and seed."""
        # not hash(), which differs from process to process
        return np.random.default_rng([self.seed, self.fold, zlib.crc32(what.encode())])

    def bank(self, read: Read) -> Bank:
        """Return the activations of a read; labels of answers to other questions are -1."""

        def make() -> Bank:
            return self.banks(read).labelled((*self.split.train, *self.split.validation))

        return self.once(("bank", read), make)

    def train_rows(self, bank: Bank) -> Bool[np.ndarray, " answer"]:
        """Return the rows of a bank that are fitted on."""
        return bank.rows(self.split.train)

    def prototype_rows(self, bank: Bank) -> Bool[np.ndarray, " answer"]:
        """Return the rows that mean differences are taken over: `vectors.prototype_rows` (P6)."""
        both = self.sections.vectors.prototype_rows == "train+validation"
        return bank.rows((*self.split.train, *self.split.validation) if both else self.split.train)

    def sigma_rows(self, bank: Bank) -> Bool[np.ndarray, " answer"]:
        """Return the rows that sigma is taken over: `vectors.sigma_rows` (P8)."""
        if self.sections.vectors.sigma_rows == "all":
            return np.ones(len(bank.label), dtype=bool)
        return bank.rows(self.split.train)

    def classifiers(self, kind: ClassifierKind, read: Read = HEADS) -> Classifiers:
        """Return the classifiers of all units of a read, fitted on the training rows (P1, P7).

        Raises:
            DataError: the rows hold answers of one class only, or an activation is not finite.
        """

        def make() -> Classifiers:
            bank = self.bank(read)
            return fit_classifiers(kind, bank, self.train_rows(bank), self.sections.probes)

        return self.once(("classifiers", read, kind), make)

    def accuracy(self, kind: ClassifierKind, read: Read = HEADS) -> Float[np.ndarray, "layer unit"]:
        """Return each unit's accuracy on the validation rows (P2)."""

        def make() -> Float[np.ndarray, "layer unit"]:
            bank = self.bank(read)
            return accuracy(self.classifiers(kind, read), bank, bank.rows(self.split.validation))

        return self.once(("accuracy", read, kind), make)

    def know(
        self,
        kind: ClassifierKind,
        classifiers: Classifiers,
        accuracy: Float[np.ndarray, "layer head"],
    ) -> None:
        """Take over the heads' classifiers of a kind, and their accuracy, made before."""
        self._known["classifiers", HEADS, kind] = classifiers
        self._known["accuracy", HEADS, kind] = accuracy

    def anchors(self, kind: ClassifierKind, k: int, read: Read = HEADS) -> Int[np.ndarray, "{k} 2"]:
        """Return the k units that classifiers of a kind tell truth by best, best first (P3).

        Raises:
            ConfigError: the model has fewer.
        """
        return best_units(self.accuracy(kind, read), k)
