"""What a cell fits for all heads and every fold: `anchors.h5`, `vectors.safetensors`, `trackers.safetensors`.

In: banks and splits. Out: files that all methods share; `fasb/fitting/training.py` reads them. Labels of
validation rows only rank heads, those of test rows are only reported.

    anchors.h5   fold{i}/{logistic,cosine}/accuracy [layer, head] on validation rows, accuracy_test on test rows
                 fold{i}/logistic/{weight [layer, head, head_dim], bias [layer, head]}
                 fold{i}/cosine/{mean, true, false [layer, head, head_dim], temperature [layer,
                 head]} fold{i}/{train, validation}: ids of questions; attribute `pairs`: how many
                 were fitted on attribute `fingerprint`: the bank's model
    vectors      fold{i}.{probe,prototype}.{direction [layer, head, head_dim], scale [layer, head]}
    trackers     fold{i}.{logistic,cosine}.{weight [layer, head, head_dim], bias [layer, head], centre like weight}
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from fasb.artifacts import write_tensors, writing_hdf5
from fasb.data.protocol import Split
from fasb.errors import ArtifactError
from fasb.fitting.bank import Bank
from fasb.fitting.directions import probe_vectors, prototype_vectors, with_sigma
from fasb.fitting.probes import Probes, Prototypes, accuracy, fit_probes, fit_prototypes
from fasb.fitting.training import Classifiers, opened_anchors
from fasb.settings import ProbeSettings, VectorSettings

CLASSIFIERS: dict[str, type[Probes] | type[Prototypes]] = {"logistic": Probes, "cosine": Prototypes}


def fit_anchors(
    bank: Bank, splits: Sequence[Split], settings: ProbeSettings, out: Path, made_by: dict[str, Any]
) -> None:
    """Classifiers of all heads on each fold's training rows, and their accuracy on the others (P1, P2, P7)."""
    import h5py

    with writing_hdf5(out, made_by) as file:
        file.attrs["fingerprint"] = json.dumps(asdict(bank.fingerprint))
        for i, split in enumerate(splits):
            train = bank.rows(split.train)
            classifiers = {
                "logistic": fit_probes(bank, train, settings),
                "cosine": fit_prototypes(bank, train),
            }
            for kind, fitted in classifiers.items():
                group = file.create_group(f"fold{i}/{kind}")
                for field in fields(fitted):
                    group[field.name] = getattr(fitted, field.name)
                group["accuracy"] = accuracy(fitted, bank, bank.rows(split.validation))
                group["accuracy_test"] = accuracy(fitted, bank, bank.rows(split.test))
            file[f"fold{i}"].attrs["pairs"] = int(train.sum())
            for part in ("train", "validation"):
                file[f"fold{i}"].create_dataset(
                    part, data=list(getattr(split, part)), dtype=h5py.string_dtype()
                )


def fit_vectors(
    banks: tuple[Bank, Bank],
    splits: Sequence[Split],
    anchors: Path,
    settings: VectorSettings,
    out: Path,
    made_by: dict[str, Any],
) -> None:
    """Directions of both kinds, scaled by sigma or raw (P5, P6, P8, T3).

    `banks` are those at the answers' ends and behind the next question; sigma is taken from the
    second, unless `sigma_rows` is `all` from rows whose own and next question are both among the
    fold's training questions.

    Raises:
        BundleError: the banks are of different models.
    """
    bank, next_bank = banks
    bank.fingerprint.check(next_bank.fingerprint, what=str(bank.path))
    tensors = {}
    for i, (split, classifiers) in enumerate(zip(splits, read_classifiers(anchors), strict=True)):
        questions = (
            split.train if settings.prototype_rows == "train" else (*split.train, *split.validation)
        )
        kinds = {
            "probe": probe_vectors(classifiers["logistic"]),
            "prototype": prototype_vectors(bank, bank.rows(questions)),
        }
        for kind, vectors in kinds.items():
            if settings.scale == "sigma":
                every = np.ones(len(next_bank.label), dtype=bool)
                rows = every if settings.sigma_rows == "all" else next_bank.rows(split.train)
                vectors = with_sigma(vectors, next_bank, rows)
            tensors |= {
                f"fold{i}.{kind}.direction": vectors.direction,
                f"fold{i}.{kind}.scale": vectors.scale,
            }
    write_tensors(out, tensors, made_by)


def fit_trackers(anchors: Path, out: Path, made_by: dict[str, Any]) -> None:
    """Every head's classifier as a tracker evaluates it, in float32 (T1, P7)."""
    tensors = {}
    for i, classifiers in enumerate(read_classifiers(anchors)):
        for kind, fitted in classifiers.items():
            found = Classifiers.of(fitted)
            parts = {"weight": found.weight, "bias": found.bias, "centre": found.centre}
            tensors |= {
                f"fold{i}.{kind}.{name}": value
                for name, value in parts.items()
                if value is not None
            }
    write_tensors(out, tensors, made_by)


def read_classifiers(anchors: Path) -> list[dict[str, Any]]:
    """Each fold's `Probes` (logistic) and `Prototypes` (cosine)."""
    with opened_anchors(anchors) as file:
        folds = [file[f"fold{i}"] for i in range(len(file))]
        return [
            {
                kind: made(**{field.name: fold[kind][field.name][:] for field in fields(made)})
                for kind, made in CLASSIFIERS.items()
            }
            for fold in folds
        ]


def check_splits(anchors: Path, splits: Sequence[Split]) -> None:
    """Refuse anchors that were fitted on other folds.

    Raises:
        ArtifactError: naming the file.
    """
    with opened_anchors(anchors) as file:
        found = [tuple(file[f"fold{i}/train"].asstr()[:]) for i in range(len(file))]
    if found != [split.train for split in splits]:
        raise ArtifactError(
            f"{anchors}: fitted on other folds than these; run 'fasb anchors' again"
        )
