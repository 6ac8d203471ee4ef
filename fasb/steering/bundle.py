"""Bundles: edit, tracker and policy with their prompt and the model they belong to, in one file.

What fitting gives, what decoding and scoring take, what users share. Knows no model; `check` in
`fasb/decoding/decode.py` compares the fingerprint.
"""

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fasb.artifacts import read_tensors, write_tensors
from fasb.errors import BundleError, ConfigError, FasbError, did_you_mean, first_line
from fasb.extensions import validated
from fasb.provenance import content_hash
from fasb.settings import DecodingSettings, Positions, PromptSettings, ScoringSettings
from fasb.steering.edit import FROM_ANSWER, Active, Change, Edit
from fasb.steering.fields import width_of
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.steering.serialize import (
    edit_layout,
    edit_tensors,
    read_edit,
    read_tracker,
    tracker_layout,
    tracker_tensors,
)
from fasb.steering.tracker import Tracker

FORMAT = 3
"""Raised when a bundle's layout changes; older files are then refused by name."""

SECTIONS = ("policy", "prompt", "decoding", "scoring", "edit", "tracker", "fingerprint", "about")
"""Keys of a bundle's JSON, beside its format."""
NOTHING = "unsteered"
"""The tensor of a bundle that has none."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A steering method, fitted. Without edit and tracker it is the unsteered model."""

    policy: Policy
    edit: Edit | None = None
    tracker: Tracker | None = None
    prompt: PromptSettings = PromptSettings()
    decoding: DecodingSettings = DecodingSettings()
    scoring: ScoringSettings = ScoringSettings()
    fingerprint: Fingerprint | None = None
    about: dict[str, Any] | None = None

    @property
    def reads_p(self) -> bool:
        """Whether the policy looks at p at all."""
        return self.policy.reads_p

    @property
    def active(self) -> Active:
        """At which tokens the edit is active."""
        return self.edit.active if self.edit is not None else FROM_ANSWER

    @property
    def positions(self) -> Positions:
        """At which tokens, by name."""
        return self.active.positions

    @property
    def seen(self) -> set[str]:
        """Keys of the questions that it was fitted or tuned on: hashes of their texts."""
        return set(((self.about or {}).get("questions") or {}).get("seen", ()))

    def require(self, what: str = "bundle") -> None:
        """Refuse a bundle without what its policy needs; `what` names it.

        Raises:
            BundleError: no edit, though it may steer; no tracker, though it reads p; or a transient
                edit of more than the newest token.
        """
        when = self.policy.when
        if self.reads_p and self.tracker is None:
            raise BundleError(
                f"{what}: when {when!r} reads p, but there is no tracker; fit one, or use 'always'"
            )
        if self.policy.chooses_within and self.edit is not None:
            raise BundleError(
                f"{what}: resample and guide choose among unsteered texts; leave out the edit"
            )
        if self.edit is None and self.policy.needs_edit:
            raise BundleError(
                f"{what}: when {when!r} may steer, but there is no edit; fit one, or use 'never'"
            )
        if self.decoding.edit == "transient" and self.positions != "from_answer":
            raise BundleError(
                f"{what}: an edit of positions {self.positions!r} stays in the cache; set "
                "decoding.edit to persistent"
            )

    def key(self) -> str:
        """Return a hash of all that changes an answer; equal bundles give equal answers."""
        # fingerprint and `about` change no answer, so they are no part of it
        parts = [part.content().hex() for part in (self.edit, self.tracker) if part is not None]
        return content_hash([parts, self.policy.as_dict(), self._settings()])

    def check_values(self, what: str = "bundle") -> None:
        """Refuse values that no fit gives, and under which a model's answers mean nothing.

        Raises:
            BundleError: a tensor that is not finite.
        """
        for name, value in self._tensors().items():
            if not value.isfinite().all():
                raise BundleError(f"{what}: {name} is not finite; fit it again")

    def save(self, path: Path, made_by: dict[str, Any] | None = None) -> None:
        """Write one safetensors file, whole or not at all; what is written can be read.

        Raises:
            BundleError: `load` would refuse it.
            ArtifactError: the file cannot be written.
        """
        about = {
            "format": FORMAT,
            "policy": self.policy.as_dict(),
            **self._settings(),
            "edit": edit_layout(self.edit),
            "tracker": tracker_layout(self.tracker),
            "fingerprint": asdict(self.fingerprint) if self.fingerprint else None,
            "about": self.about or {},
        }
        try:
            tensors = {name: value.cpu().numpy() for name, value in self._tensors().items()}
            text = json.dumps(about)
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"bundle: cannot be written ({error}); give tensors of float32, and values that "
                "JSON knows"
            ) from None
        _whole(json.loads(text), tensors, "bundle: not whole", "correct it")
        # safetensors refuses a file without tensors, which the unsteered bundle would be
        tensors = tensors or {NOTHING: torch.zeros(1).numpy()}
        write_tensors(Path(path), tensors, made_by or {}, about)

    @classmethod
    def load(cls, path: str | Path) -> "Bundle":
        """Return the bundle of a file that `save` made.

        Raises:
            ArtifactError: the file is missing or damaged.
            BundleError: it is not a bundle, of another format, or holds what no bundle can hold.
        """
        if not isinstance(path, str | os.PathLike):
            raise BundleError(
                f"bundle: {type(path).__name__} is none; give a bundle, or the path of its file"
            )
        arrays, about, _ = read_tensors(Path(path))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise BundleError(
                f"{path}: not a bundle of format {FORMAT}; fit it again with this version"
            )
        bundle = _whole(about, arrays, f"{path}: not a whole bundle", "fit it again")
        bundle.require(str(path))
        return bundle

    def with_policy(self, **changes: Any) -> "Bundle":
        """Return the same bundle under another threshold, strength or step back.

        What was measured under the old policy is no longer claimed.

        Raises:
            ConfigError: there is no such field, or its value is of another type or out of range.
        """
        known = [field.name for field in fields(Policy)]
        for key in changes:
            if key not in known:
                raise ConfigError(f"policy.{key}: unknown key; {did_you_mean(key, known)}")
        about = {key: value for key, value in (self.about or {}).items() if key not in MEASURED}
        return replace(self, policy=replace(self.policy, **changes), about=about)

    def _settings(self) -> dict[str, Any]:
        sections = {"prompt": self.prompt, "decoding": self.decoding, "scoring": self.scoring}
        return {name: section.model_dump(mode="json") for name, section in sections.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return edit_tensors(self.edit) | tracker_tensors(self.tracker)


MEASURED = ("held_out", "tuned", "tried", "edge", "controls", "broken", "examples")
"""Keys of `about` that say how good the bundle was, under its own policy."""


def _whole(about: dict[str, Any], arrays: dict[str, Any], what: str, remedy: str) -> Bundle:
    """Return the bundle of a file's JSON and arrays, which may hold anything.

    Raises:
        BundleError: `what`, the first thing that no bundle can hold, `remedy`.
    """
    try:
        json.dumps(about, ensure_ascii=False).encode()
        bundle = _read(about, {name: torch.from_numpy(value) for name, value in arrays.items()})
        check_units(bundle.edit, bundle.tracker, bundle.fingerprint)
    except UnicodeEncodeError:  # JSON has halves of characters, and no file does
        raise BundleError(f"{what} (a text holds half a character); {remedy}") from None
    except KeyError as error:  # its text is nothing but the key
        raise BundleError(f"{what} (lacks {error}); {remedy}") from None
    except (TypeError, ValueError, FasbError) as error:
        reason = first_line(error)
        raise BundleError(f"{what} ({reason}); {remedy}") from None
    return bundle


def _read(about: dict[str, Any], tensors: dict[str, Tensor]) -> Bundle:
    """Return the bundle of a file's JSON and tensors, which may hold anything."""
    fingerprint = about["fingerprint"]
    bundle = Bundle(
        policy=_read_policy(_mapping(about, "policy")),
        edit=read_edit(about["edit"], tensors),
        tracker=read_tracker(about["tracker"], tensors),
        prompt=validated(PromptSettings, _mapping(about, "prompt"), "prompt"),
        decoding=validated(DecodingSettings, _mapping(about, "decoding"), "decoding"),
        scoring=validated(ScoringSettings, _mapping(about, "scoring"), "scoring"),
        fingerprint=None if fingerprint is None else Fingerprint.read(fingerprint, "fingerprint"),
        about=_read_about(_mapping(about, "about")),
    )
    # what this version does not know might steer too: it is refused rather than left out
    if unknown := about.keys() - {"format", *SECTIONS}:
        raise ValueError(f"{min(unknown)}: unknown key")
    if unknown := tensors.keys() - bundle._tensors().keys() - {NOTHING}:
        raise ValueError(f"{min(unknown)}: unknown tensor")
    return bundle


def check_units(edit: Edit | None, tracker: Tracker | None, shape: Fingerprint | None) -> None:
    """Refuse units and widths that the model of the fingerprint does not have.

    Raises:
        ValueError: saying which.
    """
    if shape is None:
        return
    parts: list[Change | Tracker] = [] if edit is None else [*edit.changes]
    for part in parts if tracker is None else [*parts, tracker]:
        width = width_of(part.operation if isinstance(part, Change) else part.score)
        n_units, own = 1, shape.hidden or width  # unknown where 0
        if part.site == "head":
            n_units, own = shape.n_heads, shape.head_dim
        elif part.site == "neuron":
            own = width  # fingerprints do not say how many neurons a layer has
        # the largest of each column; negative ones are refused where units are read
        layer, unit = part.at.max(dim=0).values.tolist()
        if layer >= shape.n_layers or unit >= n_units or width != own:
            raise ValueError(
                f"unit {unit} of layer {layer}, {width} values wide, but its model has "
                f"{shape.n_layers} layers of {n_units} units of {own} values"
            )


def _read_policy(values: dict[str, Any]) -> Policy:
    """Return the policy of exactly these fields and types."""
    if unknown := values.keys() - {field.name for field in fields(Policy)}:
        raise ValueError(f"policy.{min(unknown)}: unknown key")
    try:
        # in strict mode pydantic makes a dataclass of JSON, but not of a Python mapping
        return TypeAdapter(Policy).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("policy", *first["loc"]))
        raise ValueError(f"{key}: {first['msg']}") from None


def _read_about(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a bundle says of itself, if the questions that it has seen are hashes.

    Evaluation leaves those questions out: what else it holds is only shown.
    """
    questions = values.get("questions", {})
    seen = questions.get("seen", []) if isinstance(questions, dict) else None
    if not isinstance(seen, list) or not all(isinstance(key, str) for key in seen):
        raise ValueError("about.questions.seen is no list of texts")
    return values


def _mapping(about: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(about[key], dict):
        raise ValueError(f"{key} is no mapping")
    return dict(about[key])
