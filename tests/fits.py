"""Fitted folds of a tiny bank, made by the stages themselves."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tiny import tiny_bank

from fasb.artifacts import seal
from fasb.data.protocol import Question, Split
from fasb.data.splits import split
from fasb.fitting.bank import Bank
from fasb.fitting.fold import fit_anchors, fit_trackers, fit_vectors
from fasb.fitting.training import Fitted, Sections, read_fitted
from fasb.settings import ProbeSettings, SplitSettings, VectorSettings


@dataclass(frozen=True)
class Fits:
    """The banks and files of a cell."""

    folder: Path
    banks: tuple[Bank, Bank]
    splits: list[Split]

    @property
    def files(self) -> tuple[Path, Path, Path]:
        return tuple(
            self.folder / name
            for name in ("anchors.h5", "vectors.safetensors", "trackers.safetensors")
        )

    def fit(self, **vectors) -> "Fits":
        anchors, *files = self.files
        fit_anchors(self.banks[0], self.splits, ProbeSettings(), anchors, {})
        fit_vectors(self.banks, self.splits, anchors, VectorSettings(**vectors), files[0], {})
        fit_trackers(anchors, files[1], {})
        return self

    def read(self, **sections) -> list[Fitted]:
        return read_fitted(*self.files, Sections(**sections))


def some_questions(n: int, per_group: int = 1) -> list[Question]:
    return [
        Question(f"q{i}", f"what is {i} ?", ("yes",), ("no",), "yes", f"g{i // per_group}")
        for i in range(n)
    ]


def some_fits(
    folder: Path, shape: tuple[int, int, int] = (2, 3, 5), n: int = 20, n_folds: int = 2
) -> Fits:
    """Files of a cell with `n` questions, four answers each; not yet fitted."""
    banks = tuple(
        tiny_bank(folder / f"{name}.h5", 4 * n, shape, seed, ahead=3 * seed)
        for seed, name in enumerate(("answer_end", "next"))
    )
    splits = split(some_questions(n), SplitSettings(folds=n_folds, validation=0.3), 0)
    return Fits(folder, banks, splits)


def spoil(bank: Bank, questions: tuple[str, ...]) -> None:
    """Write nonsense into the rows that hold a text of these questions, and turn their labels."""
    rows = np.isin(bank.question, questions) | np.isin(bank.drawn, questions)
    with h5py.File(bank.path, "r+") as file:
        x = file["activations"][:]
        x[rows] = 100 - 3 * x[rows]
        file["activations"][:] = x
        file["label"][:] = abs(file["label"][:] - rows.astype("int8"))
    seal(bank.path)
