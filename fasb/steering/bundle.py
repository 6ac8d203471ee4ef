"""Bundles: edit, tracker and policy with their prompt and the model they belong to, in one file.

What fitting gives, what decoding and scoring take, what users share. Knows no model; `check` in
`fasb/decoding/decode.py` compares the fingerprint.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fasb.artifacts import content_hash, read_tensors, write_tensors
from fasb.errors import BundleError, ConfigError
from fasb.extensions import validated
from fasb.settings import DecodingSettings, Positions, PromptSettings, ScoringSettings
from fasb.steering.edit import Edit
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

FORMAT = 2
"""Raised when a bundle's layout changes; older files are then refused by name."""


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
    def positions(self) -> Positions:
        """At which tokens the edit is active."""
        return self.edit.positions if self.edit is not None else "from_answer"

    def require(self) -> None:
        """Refuse a bundle without what its policy needs.

        Raises:
            BundleError: no edit, though it may steer; no tracker, though it reads p; or a transient
                edit of more than the newest token.
        """
        when = self.policy.when
        if self.reads_p and self.tracker is None:
            raise BundleError(
                f"bundle: when {when!r} reads p, but there is no tracker; fit one, or use 'always'"
            )
        if when != "never" and self.edit is None:
            raise BundleError(
                f"bundle: when {when!r} may steer, but there is no edit; fit one, or use 'never'"
            )
        if self.decoding.edit == "transient" and self.positions != "from_answer":
            raise BundleError(
                f"bundle: an edit of positions {self.positions!r} stays in the cache; set "
                "decoding.edit to persistent"
            )

    def key(self) -> str:
        """Return a hash of all that changes an answer; equal bundles give equal answers."""
        parts = [part.content().hex() for part in (self.edit, self.tracker) if part is not None]
        return content_hash([parts, self.policy.as_dict(), self._settings()])

    def save(self, path: Path, made_by: dict[str, Any] | None = None) -> None:
        """Write one safetensors file, whole or not at all."""
        about = {
            "format": FORMAT,
            "policy": self.policy.as_dict(),
            **self._settings(),
            "edit": edit_layout(self.edit),
            "tracker": tracker_layout(self.tracker),
            "fingerprint": asdict(self.fingerprint) if self.fingerprint else None,
            "about": self.about or {},
        }
        tensors = {name: value.cpu().numpy() for name, value in self._tensors().items()}
        # safetensors refuses a file without tensors, which the unsteered bundle would be
        tensors = tensors or {"unsteered": torch.zeros(1).numpy()}
        write_tensors(Path(path), tensors, made_by or {}, about)

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Return the bundle of a file that `save` made.

        Raises:
            ArtifactError: the file is missing or damaged.
            BundleError: it is not a bundle, of another format, or holds what no bundle can hold.
        """
        arrays, about, _ = read_tensors(Path(path))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise BundleError(
                f"{path}: not a bundle of format {FORMAT}; fit it again with this version"
            )
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        try:
            bundle = cls(
                policy=_checked(Policy, about["policy"], "policy"),
                edit=read_edit(about["edit"], tensors),
                tracker=read_tracker(about["tracker"], tensors),
                prompt=validated(PromptSettings, about["prompt"], f"{path}: prompt"),
                decoding=validated(DecodingSettings, about["decoding"], f"{path}: decoding"),
                scoring=validated(ScoringSettings, about["scoring"], f"{path}: scoring"),
                fingerprint=_read_fingerprint(about["fingerprint"]),
                about=dict(about["about"]),
            )
        except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise BundleError(f"{path}: not a whole bundle ({reason}); fit it again") from None
        bundle.require()
        return bundle

    def with_policy(self, **changes: Any) -> "Bundle":
        """Return the same bundle under another threshold, strength or step back.

        What was measured under the old policy is no longer claimed.
        """
        about = {key: value for key, value in (self.about or {}).items() if key not in MEASURED}
        return replace(self, policy=replace(self.policy, **changes), about=about)

    def _settings(self) -> dict[str, Any]:
        sections = {"prompt": self.prompt, "decoding": self.decoding, "scoring": self.scoring}
        return {name: section.model_dump(mode="json") for name, section in sections.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return edit_tensors(self.edit) | tracker_tensors(self.tracker)


MEASURED = ("held_out", "tuned", "edge")
"""Keys of `about` that say how good the bundle was, under its own policy."""


def _read_fingerprint(fingerprint: Any) -> Fingerprint | None:
    return None if fingerprint is None else _checked(Fingerprint, fingerprint, "fingerprint")


def _checked(kind: Any, value: Any, where: str) -> Any:
    """Return a dataclass of exactly these fields and types."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: not a mapping")
    if unknown := set(value) - {field.name for field in fields(kind)}:
        raise ValueError(f"{where}.{min(unknown)}: unknown key")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (where, *first["loc"]))
        raise ValueError(f"{key}: {first['msg']}") from None
