"""Recipes: a method's entry of a config at one point of its grid, taken apart and put together.

An entry's settings are flat. Each key goes to whoever knows it: fields of `Policy`, the method's
`Settings`, the gate's `Settings`; one that several know, like `k`, goes to all of them. Fitting
makes an edit of the method's settings and a tracker of the gate's; the policy is numbers, so that a
grid over alpha, beta and s fits nothing anew. `edit` says how long an edited token stays edited
(G8), where the method does it in another way than the preset: ITI's edits persist also in a study
of the released program, whose own do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from fasb.data.prompts import instructed
from fasb.errors import ConfigError, did_you_mean
from fasb.extensions import find, settings_of, validated
from fasb.fitting.reads import Read
from fasb.settings import DecodingSettings, Section, StageSettings
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy, When

if TYPE_CHECKING:  # they need torch, which reading a config does not
    import fasb.steering.bundle
    import fasb.steering.edit
    import fasb.steering.tracker

Point = dict[str, Any]
"""Values of an entry's settings at one point of its grid."""

POLICY_KEYS = tuple(field.name for field in fields(Policy))
SWITCHES = {field.name for field in fields(Policy) if field.type is bool}
POLICY_TYPES: TypeAdapter[Policy] = TypeAdapter(Policy)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one point of an entry asks for.

    decoding: pairs of a key and its value, of the settings of decoding that are its own.
    instruction: what its questions stand behind in place of the prompt's own (C12).
    """

    policy: Policy
    use: str | None = None
    method: Section | None = None
    gate: str | None = None
    gate_settings: Section | None = None
    decoding: tuple[tuple[str, Any], ...] = ()
    instruction: str | None = None

    @classmethod
    def of(
        cls,
        use: str | None,
        gate: str | None,
        values: Mapping[str, Any],
        sections: StageSettings,
        where: str,
    ) -> "Recipe":
        """Return the recipe of a method, a gate and flat settings; `where` names their config key.

        Raises:
            ConfigError: a key is unknown, a value is wrong, or two contradict each other.
        """
        known = known_keys(use, gate)
        every = set().union(*known.values())
        if unknown := sorted(set(values) - every):
            remedy = did_you_mean(unknown[0], every)
            raise ConfigError(f"{where}.{unknown[0]}: unknown key; {remedy}")
        given = {}
        for part, keys in known.items():
            given[part] = {key: value for key, value in values.items() if key in keys}
        method = gate_settings = None
        if use is not None:
            method = settings_of("methods", use, given["methods"], where)
        if gate is not None:
            gate_settings = settings_of("gates", gate, given["gates"], where)
        policy = _policy_of(use, gate, given["policy"], sections, where)
        validated(DecodingSettings, given["decoding"], where)
        own = tuple(sorted(given["decoding"].items()))
        instruction = given["prompt"].get("instruction")
        if not isinstance(instruction, str | None):
            raise ConfigError(f"{where}.instruction: {instruction!r} is no text; correct it")
        return cls(policy, use, method, gate, gate_settings, own, instruction)

    def reads(self) -> tuple[Read, ...]:
        """Return what its method and its gate read."""
        found: list[Read] = []
        if self.use is not None:
            found += _reads_of("methods", self.use, self.method)
        if self.gate is not None:
            found += _reads_of("gates", self.gate, self.gate_settings)
        return tuple(dict.fromkeys(found))

    @property
    def needs_model(self) -> bool:
        """Whether its method or its gate is fitted with the model at hand."""
        for package, name in (("methods", self.use), ("gates", self.gate)):
            if name is not None and getattr(find(package, name), "NEEDS_MODEL", False):
                return True
        return False

    def bundle(
        self,
        edit: "fasb.steering.edit.Edit | None",
        tracker: "fasb.steering.tracker.Tracker | None",
        sections: StageSettings,
        fingerprint: Fingerprint,
        about: dict[str, Any],
    ) -> "fasb.steering.bundle.Bundle":
        """Return the parts with a fold's prompt, settings and model."""
        from fasb.steering.bundle import Bundle

        return Bundle(
            self.policy,
            edit,
            tracker,
            instructed(sections.prompt, self.instruction),
            sections.decoding.model_copy(update=dict(self.decoding)),
            sections.scoring,
            fingerprint,
            {**about, "settings": self.settings()},
        )

    def settings(self) -> Point:
        """Return all its settings, flat, for provenance."""
        flat = {key: value for key, value in self.policy.as_dict().items() if value is not None}
        for part in (self.gate_settings, self.method):
            if part is not None:
                flat |= part.model_dump(mode="json")
        flat |= dict(self.decoding)
        if self.instruction is not None:
            flat["instruction"] = self.instruction
        return flat


def _reads_of(package: str, use: str, settings: Section | None) -> Sequence[Read]:
    """Return what a module says that it reads in `reads(settings)` or `READS`, if in either.

    Raises:
        ConfigError: it says something else; the module may be one of somebody's own.
    """
    module = find(package, use)
    given = module.reads(settings) if hasattr(module, "reads") else getattr(module, "READS", ())
    if not isinstance(given, tuple | list) or not all(isinstance(one, Read) for one in given):
        raise ConfigError(
            f"{package}: {use}: reads gives {given!r}; give a tuple of Read, as in (Read(),)"
        )
    return given


def every_key(use: str | None, gate: str | None) -> set[str]:
    """Return the settings that any part of a recipe knows, as `known_keys` has them."""
    return set().union(*known_keys(use, gate).values())


def known_keys(use: str | None, gate: str | None) -> dict[str, set[str]]:
    """Return the settings that the policy, decoding, prompt, a method and a gate know.

    Another prompt is for what neither edits nor tracks: its effect is seen by itself.
    """
    plain = use is None and gate is None
    known = {"policy": set(POLICY_KEYS), "decoding": {"edit"}}
    known["prompt"] = {"instruction"} if plain else set()
    for package, name in (("methods", use), ("gates", gate)):
        known[package] = set(find(package, name).Settings.model_fields) if name else set()
    return known


def default_when(use: str | None, gate: str | None) -> When:
    """Return when is steered where nothing is said of it: it follows from what there is."""
    if use is None:
        return "never"
    return "always" if gate is None else "token"


def _policy_of(
    use: str | None, gate: str | None, given: dict[str, Any], sections: StageSettings, where: str
) -> Policy:
    """Return the policy: what is not given follows from what there is, `judged` from the preset."""
    checked = _validated_policy({"when": default_when(use, gate), **given}, where)
    # as the policy types them, so that 8 and 8.0 are one setting
    given = {key: getattr(checked, key) for key in given}
    when = checked.when
    defaults: dict[str, Any] = {"when": when}
    if when == "oracle":
        defaults["adaptive"] = False
    elif when == "token":
        defaults["judged"] = sections.trackers.judged if checked.once else "newest"
    else:
        # what such a policy does not look at is left at its default, so that equal ones are equal
        defaults["adaptive"] = when == "prompt"
        if checked.backtracks == 1:
            defaults["backtrack"] = False
    policy = Policy(**{**defaults, **given})
    if policy.reads_p and gate is None:
        raise ConfigError(f"{where}.when: {policy.when!r} reads p; name a gate, as in gate: probe")
    if policy.chooses_within and use is not None:
        raise ConfigError(
            f"{where}.use: guide and resample choose among unsteered texts; leave it out"
        )
    if use is None and policy.needs_edit:
        raise ConfigError(
            f"{where}.when: {policy.when!r} may steer, but there is no method; give `use`, or "
            "leave this out"
        )
    return policy


def _validated_policy(given: dict[str, Any], where: str) -> Policy:
    for key, value in given.items():
        # pydantic takes true for 1
        if isinstance(value, bool) and key not in SWITCHES:
            raise ConfigError(f"{where}.{key}: a switch is no number, got {value}; correct it")
    try:
        return POLICY_TYPES.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key, told = ".".join(map(str, (where, *first["loc"]))), first["msg"]
        raise ConfigError(
            f"{key}: {told[0].lower()}{told[1:]}, got {first['input']!r}; correct it"
        ) from None
