"""Recipes: a method's entry of a config at one point of its grid, taken apart and put together.

An entry's settings are flat. Each key goes to whoever knows it: fields of `Policy`, the method's
`Settings`, the gate's `Settings`; one that several know, like `k`, goes to all of them. Fitting makes
an edit of the method's settings and a tracker of the gate's; the policy is numbers, so that a grid
over alpha, beta and s fits nothing anew.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fasb.errors import ConfigError, did_you_mean
from fasb.extensions import find, settings_of
from fasb.fitting.reads import Read
from fasb.settings import Section, Sections
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy

if TYPE_CHECKING:  # they need torch, which reading a config does not
    import fasb.fitting.training
    import fasb.steering.bundle
    import fasb.steering.edit
    import fasb.steering.tracker

Point = dict[str, Any]
"""Values of an entry's settings at one point of its grid."""

POLICY_KEYS = tuple(field.name for field in fields(Policy))


class MethodEntry(Section):
    """A steering method and the settings it is tuned over."""

    use: str | None = Field(
        None, description="A file of fasb/methods/, or a dotted path; unset: the model as it is"
    )
    gate: str | None = Field(
        None, description="A file of fasb/gates/, or a dotted path, that makes p; unset: none"
    )
    settings: Point = Field({}, description="Of the policy, the method and the gate")
    grid: dict[str, tuple[int | float | str | bool, ...]] = Field(
        {}, description="Values to cross, by setting"
    )
    like: str | None = Field(
        None, description="Takes the setting that was chosen for this other method"
    )
    label: str | None = Field(None, description="What it is called in print; unset: its name")
    role: Literal["main", "ablation", "control"] = Field("main", description="Where it is shown")
    colour: str | None = Field(
        None, pattern="^#[0-9A-Fa-f]{6}$", description="In figures; unset: grey"
    )

    def points(self) -> list[Point]:
        """Return the grid's points, the last key varying fastest; one where there is no grid."""
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one point of an entry asks for."""

    policy: Policy
    use: str | None = None
    method: Section | None = None
    gate: str | None = None
    gate_settings: Section | None = None

    @classmethod
    def of(
        cls, entry: MethodEntry, point: Mapping[str, Any], sections: Sections, where: str
    ) -> "Recipe":
        """Return the recipe of an entry at a point; `where` names its config key.

        Keys of the point that the entry does not know are left out for `like` alone.

        Raises:
            ConfigError: a key is unknown, a value is wrong, or two contradict each other.
        """
        known = {"policy": set(POLICY_KEYS)}
        for part, package, name in (
            ("method", "methods", entry.use),
            ("gate", "gates", entry.gate),
        ):
            known[part] = set(find(package, name).Settings.model_fields) if name else set()
        every = set().union(*known.values())
        if entry.like is not None:
            point = {key: value for key, value in point.items() if key in every}
        values = {**entry.settings, **point}
        if unknown := sorted(set(values) - every):
            raise ConfigError(
                f"{where}.{unknown[0]}: unknown key; {did_you_mean(unknown[0], every)}"
            )
        given = {
            part: {key: value for key, value in values.items() if key in keys}
            for part, keys in known.items()
        }
        method = gate = None
        if entry.use is not None:
            method = settings_of("methods", entry.use, given["method"], where)
        if entry.gate is not None:
            gate = settings_of("gates", entry.gate, given["gate"], where)
        policy = _policy_of(entry, given["policy"], sections, where)
        return cls(policy, entry.use, method, entry.gate, gate)

    def reads(self) -> tuple[Read, ...]:
        """Return what its method and its gate read."""
        found: dict[Read, None] = {}
        if self.use is not None:
            found |= dict.fromkeys(find("methods", self.use).reads(self.method))
        if self.gate is not None:
            found |= dict.fromkeys(find("gates", self.gate).reads(self.gate_settings))
        return tuple(found)

    def fit_edit(
        self, training: "fasb.fitting.training.Training"
    ) -> "fasb.steering.edit.Edit | None":
        """Return what the method fits on a fold."""
        if self.use is None:
            return None
        edit: fasb.steering.edit.Edit = find("methods", self.use).fit(training, self.method)
        return edit

    def fit_tracker(
        self, training: "fasb.fitting.training.Training"
    ) -> "fasb.steering.tracker.Tracker | None":
        """Return what the gate fits on a fold; None where the policy does not look at p."""
        if self.gate is None or not self.policy.reads_p:
            return None
        tracker: fasb.steering.tracker.Tracker = find("gates", self.gate).fit(
            training, self.gate_settings
        )
        return tracker

    def bundle(
        self,
        edit: "fasb.steering.edit.Edit | None",
        tracker: "fasb.steering.tracker.Tracker | None",
        sections: Sections,
        fingerprint: Fingerprint,
        about: dict[str, Any],
    ) -> "fasb.steering.bundle.Bundle":
        """Return the parts with a fold's prompt, settings and model."""
        from fasb.steering.bundle import Bundle

        return Bundle(
            self.policy,
            edit,
            tracker,
            sections.prompt,
            sections.decoding,
            sections.scoring,
            fingerprint,
            {**about, "settings": self.settings()},
        )

    def settings(self) -> Point:
        """Return all its settings, flat, for provenance."""
        flat = {key: value for key, value in self.policy.as_dict().items() if value is not None}
        for part in (self.gate_settings, self.method):
            flat |= part.model_dump(mode="json") if part is not None else {}
        return flat


def fit_bundle(
    training: "fasb.fitting.training.Training",
    recipe: Recipe,
    fingerprint: Fingerprint,
    about: dict[str, Any],
) -> "fasb.steering.bundle.Bundle":
    """Return the bundle of a recipe, fitted on one fold."""
    edit, tracker = recipe.fit_edit(training), recipe.fit_tracker(training)
    return recipe.bundle(edit, tracker, training.sections, fingerprint, about)


def _policy_of(entry: MethodEntry, given: dict[str, Any], sections: Sections, where: str) -> Policy:
    """Return the policy: `when` follows from what the entry has, `judged` from the preset."""
    checked = _validated_policy(given, where)
    given = {key: getattr(checked, key) for key in given}
    when = "never" if entry.use is None else "token" if entry.gate is not None else "always"
    when = given.get("when", when)
    defaults: dict[str, Any] = {"when": when}
    if when == "token":
        defaults["judged"] = sections.trackers.judged if checked.once else "newest"
    else:
        # what such a policy does not look at is left at its default, so that equal ones are equal
        defaults["adaptive"] = when == "prompt"
        defaults |= {"backtrack": False} if checked.backtracks == 1 else {}
    policy = Policy(**{**defaults, **given})
    if policy.reads_p and entry.gate is None:
        raise ConfigError(f"{where}.when: {policy.when!r} reads p; name a `gate`, e.g. gate: probe")
    return policy


def _validated_policy(given: dict[str, Any], where: str) -> Policy:
    try:
        return TypeAdapter(Policy).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key, told = ".".join(map(str, (where, *first["loc"]))), first["msg"]
        raise ConfigError(
            f"{key}: {told[0].lower()}{told[1:]}, got {first['input']!r}; correct it"
        ) from None
