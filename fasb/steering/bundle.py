"""Bundles: edit, tracker and policy with their prompt and the model they belong to, in one file.

What every method's `fit` gives, what decoding and scoring take, what users share. Knows no model;
`check` in `fasb/decoding/decode.py` compares the fingerprint.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fasb.artifacts import content_hash, read_tensors, write_tensors
from fasb.errors import BundleError
from fasb.extensions import validated
from fasb.settings import DecodingSettings, PromptSettings, ScoringSettings
from fasb.steering.edit import Edit
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.steering.tracker import Tracker

FORMAT = 1
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

    def require(self) -> None:
        """Refuse a bundle without what its policy needs.

        Raises:
            BundleError: no edit, though it may steer; or no tracker, though its gate reads p.
        """
        gate = self.policy.gate
        if self.reads_p and self.tracker is None:
            raise BundleError(
                f"bundle: gate {gate!r} reads p, but there is no tracker; fit one or use gate 'always'"
            )
        if gate != "never" and self.edit is None:
            raise BundleError(
                f"bundle: gate {gate!r} may steer, but there is no edit; fit one or use gate 'never'"
            )

    def key(self) -> str:
        """Hash of all that changes an answer; equal bundles give equal answers."""
        tensors = {name: value.tolist() for name, value in self._tensors().items()}
        return content_hash([tensors, self.policy.as_dict(), self._settings()])

    def save(self, path: Path, made_by: dict[str, Any] | None = None) -> None:
        """One safetensors file, whole or not at all."""
        about = {
            "format": FORMAT,
            "policy": self.policy.as_dict(),
            **self._settings(),
            "fingerprint": asdict(self.fingerprint) if self.fingerprint else None,
            "about": self.about or {},
        }
        tensors = {name: value.cpu().numpy() for name, value in self._tensors().items()}
        # safetensors refuses a file without tensors, which the unsteered bundle would be
        tensors = tensors or {"unsteered": torch.zeros(1).numpy()}
        write_tensors(Path(path), tensors, made_by or {}, about)

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """The bundle of a file that `save` made.

        Raises:
            ArtifactError: the file is missing or damaged.
            BundleError: it is not a bundle, or of another format.
        """
        arrays, about, _ = read_tensors(Path(path))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise BundleError(
                f"{path}: not a bundle of format {FORMAT}; fit it again with this version"
            )
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        return cls(
            policy=Policy(**about["policy"]),
            edit=_group(Edit, "edit", tensors),
            tracker=_group(Tracker, "tracker", tensors),
            prompt=validated(PromptSettings, about["prompt"], f"{path}: prompt"),
            decoding=validated(DecodingSettings, about["decoding"], f"{path}: decoding"),
            scoring=validated(ScoringSettings, about["scoring"], f"{path}: scoring"),
            fingerprint=Fingerprint(**about["fingerprint"]) if about["fingerprint"] else None,
            about=about["about"],
        )

    def with_policy(self, **changes: Any) -> "Bundle":
        """The same bundle under another threshold, strength or step back."""
        return replace(self, policy=replace(self.policy, **changes))

    def _settings(self) -> dict[str, Any]:
        sections = {"prompt": self.prompt, "decoding": self.decoding, "scoring": self.scoring}
        return {name: section.model_dump(mode="json") for name, section in sections.items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        parts = {"edit": self.edit, "tracker": self.tracker}
        return {
            f"{name}.{field}": value
            for name, part in parts.items()
            if part is not None
            for field in part.__slots__
            if (value := getattr(part, field)) is not None
        }


def _group(kind: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    fields = {
        key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    return kind(**fields) if fields else None
