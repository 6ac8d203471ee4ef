"""What a fold has fitted for all heads, before any method chooses its own: accuracies, vectors, trackers.

In: `anchors.h5`, `vectors.safetensors`, `trackers.safetensors`. Out: one `Fitted` per fold, from
which a method's `fit` assembles its bundle. Knows no method and no question.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from fasb.artifacts import read_tensors, reading_hdf5
from fasb.errors import ArtifactError
from fasb.fitting.anchors import anchors
from fasb.fitting.directions import Vectors
from fasb.fitting.probes import Probes, Prototypes
from fasb.settings import DecodingSettings, PromptSettings, ScoringSettings, TrackerSettings
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.steering.tracker import Tracker

TRACKERS = ("logistic", "cosine")
VECTORS = ("probe", "prototype")


@dataclass(frozen=True, slots=True)
class Classifiers:
    """Trackers of all heads of one kind; `centre` as in `fasb.steering.tracker.Tracker`."""

    weight: Float[np.ndarray, "layer head head_dim"]
    bias: Float[np.ndarray, "layer head"]
    centre: Float[np.ndarray, "layer head head_dim"] | None = None

    @classmethod
    def of(cls, fitted: Probes | Prototypes) -> "Classifiers":
        """From the probes or prototypes of all heads."""
        shape = (fitted.weight if isinstance(fitted, Probes) else fitted.mean).shape
        all_heads = np.stack(np.unravel_index(np.arange(shape[0] * shape[1]), shape[:2]), axis=1)
        every = fitted.tracker(all_heads)
        centre = None if every.centre is None else every.centre.numpy().reshape(shape)
        return cls(
            every.weight.numpy().reshape(shape), every.bias.numpy().reshape(shape[:2]), centre
        )

    def tracker(self, heads: Int[np.ndarray, "k 2"]) -> Tracker:
        """The tracker of these (layer, head) pairs, in their order."""
        at = heads[:, 0], heads[:, 1]
        centre = None if self.centre is None else torch.from_numpy(self.centre[at])
        return Tracker(
            torch.from_numpy(heads),
            torch.from_numpy(self.weight[at]),
            torch.from_numpy(self.bias[at]),
            centre,
        )


@dataclass(frozen=True, slots=True)
class Sections:
    """The settings that go into every bundle."""

    prompt: PromptSettings = PromptSettings()
    decoding: DecodingSettings = DecodingSettings()
    scoring: ScoringSettings = ScoringSettings()
    trackers: TrackerSettings = field(default_factory=TrackerSettings)


@dataclass(frozen=True, slots=True)
class Fitted:
    """One fold: validation accuracy, vectors and classifiers of all heads, by kind.

    `seen`: ids of the questions that were fitted on or tuned on. Equal trackers are the same
    object, so that an engine that runs many bundles looks through each once.
    """

    fold: int
    accuracy: dict[str, Float[np.ndarray, "layer head"]]
    vectors: dict[str, Vectors]
    classifiers: dict[str, Classifiers]
    fingerprint: Fingerprint
    seen: tuple[str, ...] = ()
    sections: Sections = Sections()
    _trackers: dict[tuple[str, bytes], Tracker] = field(
        default_factory=dict, repr=False, compare=False
    )

    def anchors(self, kind: str, k: int) -> Int[np.ndarray, "{k} 2"]:
        """The k heads that trackers of this kind (`logistic`, `cosine`) tell truth by best, best first.

        Raises:
            ConfigError: the model has fewer heads.
        """
        return anchors(self.accuracy[kind], k)

    def edit(self, kind: str, heads: Int[np.ndarray, "k 2"]) -> Edit:
        """The edit of these heads with vectors of this kind (`probe`, `prototype`)."""
        return self.vectors[kind].edit(heads)

    def tracker(self, kind: str, heads: Int[np.ndarray, "k 2"]) -> Tracker:
        """The tracker of these heads of this kind (`logistic`, `cosine`)."""
        key = kind, heads.tobytes()
        if key not in self._trackers:
            self._trackers[key] = self.classifiers[kind].tracker(heads)
        return self._trackers[key]

    def bundle(
        self, policy: Policy, edit: Edit | None = None, tracker: Tracker | None = None
    ) -> Bundle:
        """These parts with the fold's prompt, settings and model."""
        parts = self.sections
        about = {"fold": self.fold}
        return Bundle(
            policy,
            edit,
            tracker,
            parts.prompt,
            parts.decoding,
            parts.scoring,
            self.fingerprint,
            about,
        )


def read_fitted(anchors: Path, vectors: Path, trackers: Path, sections: Sections) -> list[Fitted]:
    """Every fold of a cell.

    Raises:
        ArtifactError: a file is missing, damaged, or of other folds than the others.
    """
    in_vectors, in_trackers = read_tensors(vectors)[0], read_tensors(trackers)[0]
    with opened_anchors(anchors) as file:
        fingerprint = Fingerprint(**json.loads(file.attrs["fingerprint"]))
        folds = [f"fold{i}" for i in range(len(file))]
        for path, tensors in ((vectors, in_vectors), (trackers, in_trackers)):
            if {name.partition(".")[0] for name in tensors} != set(folds):
                raise ArtifactError(
                    f"{path}: its folds are not those of {anchors}; make both from the same splits"
                )
        return [
            Fitted(
                fold=i,
                accuracy={kind: file[name][kind]["accuracy"][:] for kind in TRACKERS},
                vectors={
                    kind: Vectors(**_named(in_vectors, f"{name}.{kind}.")) for kind in VECTORS
                },
                classifiers={
                    kind: Classifiers(**_named(in_trackers, f"{name}.{kind}.")) for kind in TRACKERS
                },
                fingerprint=fingerprint,
                seen=(*file[name]["train"].asstr()[:], *file[name]["validation"].asstr()[:]),
                sections=sections,
            )
            for i, name in enumerate(folds)
        ]


@contextmanager
def opened_anchors(path: Path) -> Iterator[Any]:
    """An `anchors.h5` for reading.

    Raises:
        ArtifactError: it is missing, damaged or unfinished.
    """
    try:
        with reading_hdf5(path) as file:
            yield file
    except (OSError, KeyError) as error:
        raise ArtifactError(f"{path}: cannot be read; run 'fasb anchors' to make it") from error


def _named(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
