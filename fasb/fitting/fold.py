"""What a cell fits in every fold: `trackers.safetensors`, `anchors.h5`, `vectors.safetensors`.

In: banks and splits. Out: files that all methods share, and `FittedFold`, which makes bundles of
them. Labels of validation rows only rank heads, those of test rows are only reported.

    trackers    fold{i}.{logistic,cosine}.{weight [layer, head, head_dim], bias [layer, head],
                centre like weight}, float64: classifiers of all heads
    anchors.h5  fold{i}/{logistic,cosine}/accuracy [layer, head] on validation rows, accuracy_test
                on test rows; fold{i}/{train, validation}: ids of questions; attribute `pairs`: how
                many were fitted on; attribute `fingerprint`: the bank's model
    vectors     the edits and trackers that the run's methods and gates fit, each distinct setting
                once: fold{i}.{hash of the setting}.…, as bundles hold them
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from fasb.artifacts import read_tensors, write_tensors
from fasb.data.protocol import Split
from fasb.errors import ArtifactError, BundleError, ConfigError
from fasb.extensions import find
from fasb.fitting.anchors import read_anchors
from fasb.fitting.bank import Bank
from fasb.fitting.probes import ClassifierKind, Classifiers, accuracy, fit_classifiers
from fasb.fitting.recipe import Recipe
from fasb.fitting.training import HEADS, Training
from fasb.hdf5files import writing_hdf5
from fasb.provenance import content_hash
from fasb.settings import ProbeSettings, StageSettings
from fasb.steering.bundle import Bundle, check_units
from fasb.steering.edit import Edit
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.operations import Remove
from fasb.steering.serialize import (
    edit_layout,
    edit_tensors,
    read_edit,
    read_tracker,
    tracker_layout,
    tracker_tensors,
)
from fasb.steering.tracker import Tracker

KINDS: tuple[ClassifierKind, ...] = get_args(ClassifierKind)


def fit_trackers(
    bank: Bank, splits: Sequence[Split], settings: ProbeSettings, out: Path, made_by: dict[str, Any]
) -> None:
    """Fit classifiers of all heads, of both kinds, on each fold's training rows (P1, P7)."""
    tensors: dict[str, np.ndarray] = {}
    for i, split in enumerate(splits):
        train = bank.rows(split.train)
        for kind in KINDS:
            fitted = fit_classifiers(kind, bank, train, settings)
            tensors |= _classifier_tensors(fitted, f"fold{i}.{kind}")
    write_tensors(out, tensors, made_by, {"fingerprint": asdict(bank.fingerprint)})


def rank_anchors(
    bank: Bank, splits: Sequence[Split], trackers: Path, out: Path, made_by: dict[str, Any]
) -> None:
    """Take the accuracy of all heads' classifiers, by which anchors are ranked (P2)."""
    import h5py

    fitted = read_classifiers(trackers, len(splits))
    with writing_hdf5(out, made_by) as file:
        file.attrs["fingerprint"] = json.dumps(asdict(bank.fingerprint))
        for i, split in enumerate(splits):
            for kind in KINDS:
                group = file.create_group(f"fold{i}/{kind}")
                for name, part in (("accuracy", "validation"), ("accuracy_test", "test")):
                    rows = bank.rows(getattr(split, part))
                    group[name] = accuracy(fitted[i][kind], bank, rows)
            file[f"fold{i}"].attrs["pairs"] = int(bank.rows(split.train).sum())
            for part in ("train", "validation"):
                ids = list(getattr(split, part))
                file[f"fold{i}"].create_dataset(part, data=ids, dtype=h5py.string_dtype())


def fit_vectors(
    trainings: Sequence[Training], recipes: Iterable[Recipe], out: Path, made_by: dict[str, Any]
) -> None:
    """Fit the edit and the tracker of every distinct setting that the recipes ask for."""
    recipes, layouts = list(recipes), {}
    tensors: dict[str, Any] = {}
    for training in trainings:
        fitted = fit_parts(training, recipes)
        for key, edit in fitted.edits.items():
            tensors |= edit_tensors(edit, f"fold{training.fold}.{key}")
            layouts[f"fold{training.fold}.{key}"] = {"edit": edit_layout(edit)}
        for key, tracker in fitted.trackers.items():
            tensors |= tracker_tensors(tracker, f"fold{training.fold}.{key}")
            layouts[f"fold{training.fold}.{key}"] = {"tracker": tracker_layout(tracker)}
    arrays = {name: value.numpy() for name, value in tensors.items()}
    # safetensors refuses a file without tensors, as of a run of the unsteered model alone
    write_tensors(out, arrays or {"nothing": np.zeros(1)}, made_by, layouts)


@dataclass(frozen=True, slots=True)
class FittedFold:
    """What one fold has fitted: edits and trackers by the hash of their settings.

    seen: ids of the questions that were fitted on or tuned on. Equal trackers are the same object.
    """

    fold: int
    edits: dict[str, Edit]
    trackers: dict[str, Tracker]
    fingerprint: Fingerprint
    seen: tuple[str, ...]
    sections: StageSettings

    def bundle(self, recipe: Recipe, about: dict[str, Any]) -> Bundle:
        """Return the bundle of a recipe.

        Raises:
            ArtifactError: the recipe's settings were not among those fitted.
        """
        edit = tracker = None
        try:
            if recipe.use is not None:
                edit = self.edits[edit_hash(recipe)]
            if recipe.gate is not None and recipe.policy.reads_p:
                tracker = self.trackers[tracker_hash(recipe)]
        except KeyError:
            raise ArtifactError(
                f"vectors: fold {self.fold} has none of these settings; fit them again with 'fasb "
                "run vectors'"
            ) from None
        about = {"fold": self.fold, **about}
        return recipe.bundle(edit, tracker, self.sections, self.fingerprint, about)


def fit_parts(
    training: Training, recipes: Iterable[Recipe], fingerprint: Fingerprint | None = None
) -> FittedFold:
    """Fit the distinct edits and trackers of some recipes on one fold.

    Raises:
        ConfigError: what a method or gate gives is no edit or tracker of this model.
    """
    edits: dict[str, Edit] = {}
    trackers: dict[str, Tracker] = {}
    fingerprint = fingerprint or training.bank(HEADS).fingerprint
    for recipe in recipes:
        key = edit_hash(recipe)
        if recipe.use is not None and key not in edits:
            made = _made("methods", recipe.use, training, recipe.method)
            edits[key] = _checked_edit(made, recipe, fingerprint)
        key = tracker_hash(recipe)
        if recipe.gate is not None and recipe.policy.reads_p and key not in trackers:
            made = _made("gates", recipe.gate, training, recipe.gate_settings)
            trackers[key] = _checked_tracker(made, recipe, fingerprint)
    seen = (*training.split.train, *training.split.validation)
    return FittedFold(training.fold, edits, trackers, fingerprint, seen, training.sections)


def _made(package: str, name: str, training: Training, settings: Any) -> Any:
    """Return what a method or gate fits; an edit or tracker that cannot be names who made it."""
    try:
        return find(package, name).fit(training, settings)
    except BundleError as error:
        raise ConfigError(f"{package}: {name}: {error}") from None


def _checked_edit(made: Any, recipe: Recipe, model: Fingerprint) -> Edit:
    """Return what a method gave, if it is an edit that a bundle can hold and the model has."""
    with _naming(f"methods: {recipe.use}"):
        if not isinstance(made, Edit):
            raise ValueError(f"fit gives {type(made).__name__}, not an Edit")
        _check_tensors(edit_tensors(made))
        check_units(read_edit(edit_layout(made), edit_tensors(made)), None, model)
        for change in made.changes:
            if isinstance(change.operation, Remove):
                length = change.operation.direction.norm(dim=-1)
                # of length 0 nothing is removed
                if not torch.where(length == 0, 1.0, length).sub(1).abs().lt(0.01).all():
                    raise ValueError(f"removes a direction of length {length.max():.3g}, not 1")
    return made


def _checked_tracker(made: Any, recipe: Recipe, model: Fingerprint) -> Tracker:
    """Return what a gate gave, if it is a tracker that a bundle can hold and the model has."""
    with _naming(f"gates: {recipe.gate}"):
        if not isinstance(made, Tracker):
            raise ValueError(f"fit gives {type(made).__name__}, not a Tracker")
        _check_tensors(tracker_tensors(made))
        check_units(None, read_tracker(tracker_layout(made), tracker_tensors(made)), model)
    return made


def _check_tensors(tensors: Mapping[str, Any]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name} is {type(value).__name__}, not a torch tensor")
        if value.requires_grad:
            raise ValueError(f"{name} still has its gradient; detach it")


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say of which method or gate an error is: a file of one's own may give anything."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{what}: {error}; correct the module") from None


def edit_hash(recipe: Recipe) -> str:
    """Return a hash of all that a recipe's edit depends on within a cell."""
    # no policy: alpha, beta and s fit nothing anew
    settings = recipe.method.model_dump(mode="json") if recipe.method is not None else {}
    return content_hash(["edit", recipe.use, settings])


def tracker_hash(recipe: Recipe) -> str:
    """Return a hash of all that a recipe's tracker depends on within a cell."""
    settings = recipe.gate_settings.model_dump(mode="json") if recipe.gate_settings else {}
    return content_hash(["tracker", recipe.gate, settings])


def read_folds(anchors: Path, vectors: Path, sections: StageSettings) -> list[FittedFold]:
    """Return what every fold of a cell has fitted.

    Raises:
        ArtifactError: a file is missing, damaged, or of other folds than the other.
    """
    arrays, layouts, _ = read_tensors(vectors)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    found = []
    fingerprint, ranked = read_anchors(anchors)
    for i, fold in enumerate(ranked):
        # with the full stop, as fold1 is the beginning of fold10 too
        edits, trackers = _parts_of_fold(f"fold{i}.", layouts, tensors, vectors)
        seen = (*fold.train, *fold.validation)
        found.append(FittedFold(i, edits, trackers, fingerprint, seen, sections))
    if unknown := {name.partition(".")[0] for name in layouts} - {f"fold{f.fold}" for f in found}:
        raise ArtifactError(
            f"{vectors}: has {min(unknown)}, which {anchors} has not; make both from the same "
            "splits"
        )
    return found


def know_fitted(training: Training, trackers: Path, anchors: Path) -> None:
    """Let a fold's training know the classifiers of its heads, and their accuracy."""
    fitted = read_classifiers(trackers)[training.fold]
    accuracy = read_anchors(anchors)[1][training.fold].accuracy
    for kind in KINDS:
        training.know(kind, fitted[kind], accuracy[kind])


def read_classifiers(
    trackers: Path, n_folds: int | None = None
) -> list[dict[ClassifierKind, Classifiers]]:
    """Return each fold's classifiers of all heads.

    Raises:
        ArtifactError: the file is missing, damaged, or of another number of folds.
    """
    arrays = read_tensors(trackers)[0]
    n_found = len({name.partition(".")[0] for name in arrays})
    if n_folds not in (None, n_found):
        raise ArtifactError(
            f"{trackers}: of {n_found} folds, but the splits have {n_folds}; run 'fasb run "
            "trackers' again"
        )
    folds: list[dict[ClassifierKind, Classifiers]] = []
    for i in range(n_found):
        folds.append({kind: _classifiers(arrays, f"fold{i}.{kind}", trackers) for kind in KINDS})
    return folds


def _classifiers(arrays: Mapping[str, np.ndarray], name: str, trackers: Path) -> Classifiers:
    """Return the classifiers of one kind in one fold of a `trackers.safetensors`."""
    try:
        weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
    except KeyError as error:
        raise ArtifactError(f"{trackers}: lacks {error}; run 'fasb run trackers' again") from None
    centre = arrays.get(f"{name}.centre")
    if not _are_classifiers(weight, bias, centre):
        raise ArtifactError(
            f"{trackers}: {name} is of another shape or type, or not finite; run 'fasb run "
            "trackers' again"
        )
    return Classifiers("head", weight, bias, centre)


def _are_classifiers(weight: np.ndarray, bias: np.ndarray, centre: np.ndarray | None) -> bool:
    """Return whether arrays are [layer, head, width], [layer, head] and like the first."""
    if weight.ndim != 3 or bias.shape != weight.shape[:2]:
        return False
    if centre is not None and centre.shape != weight.shape:
        return False
    for part in (weight, bias, centre):
        if part is not None and (part.dtype != np.float64 or not np.isfinite(part).all()):
            return False
    return True


def check_splits(anchors: Path, splits: Sequence[Split]) -> None:
    """Refuse anchors that were ranked on other folds.

    Raises:
        ArtifactError: naming the file.
    """
    found = [fold.train for fold in read_anchors(anchors)[1]]
    if found != [split.train for split in splits]:
        raise ArtifactError(
            f"{anchors}: fitted on other folds than these; run 'fasb run anchors' again"
        )


def _classifier_tensors(fitted: Classifiers, name: str) -> dict[str, np.ndarray]:
    tensors = {f"{name}.weight": fitted.weight, f"{name}.bias": fitted.bias}
    return tensors if fitted.centre is None else tensors | {f"{name}.centre": fitted.centre}


def _parts_of_fold(
    prefix: str, layouts: Any, tensors: dict[str, torch.Tensor], path: Path
) -> tuple[dict[str, Edit], dict[str, Tracker]]:
    """Return the edits and trackers of one fold of a `vectors.safetensors`, by key."""
    edits: dict[str, Edit] = {}
    trackers: dict[str, Tracker] = {}
    try:
        for name, layout in layouts.items():
            key = name.removeprefix(prefix)
            if key == name:  # of another fold
                continue
            edit = read_edit(layout.get("edit"), tensors, name)
            tracker = read_tracker(layout.get("tracker"), tensors, name)
            if edit is not None:
                edits[key] = edit
            if tracker is not None:
                trackers[key] = tracker
    except (KeyError, TypeError, ValueError, AttributeError, BundleError) as error:
        raise ArtifactError(f"{path}: not what 'fasb run vectors' writes ({error})") from None
    return edits, trackers
