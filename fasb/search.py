"""Searching a grid: a method with the settings to cross, and which of those that were tried is best.

In: one entry of a config's `methods`; what each setting came to. Out: the points of the grid, the
bundle of a point, the best. The only place where such an entry is read. Knows neither model nor
question. Imports no torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fasb.errors import ConfigError
from fasb.extensions import find, settings_of
from fasb.settings import Section

if TYPE_CHECKING:
    import fasb.fitting.training
    import fasb.steering.bundle

GREY = "#999999"
Point = dict[str, Any]
"""Values of a method's settings at one point of its grid."""

DIGITS = 9
"""Values that agree to so many digits are equal: a product of equal shares may differ in the last."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a setting came to: its value, the share of answers steered, and its strength."""

    value: float
    steered: float
    strength: float


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Return all values crossed, the last key varying fastest; of an empty grid one empty point."""
    crossed = itertools.product(*grid.values())
    return [dict(zip(grid, values, strict=True)) for values in crossed]


def best_of(tried: Sequence[Tried]) -> int:
    """Return the number of the setting with the highest value.

    Ties: fewer answers steered, then the smaller strength, then the earlier setting.
    """

    def order(number: int) -> tuple[float, float, float]:
        one = tried[number]
        value = -math.inf if math.isnan(one.value) else round(one.value, DIGITS)
        return -value, one.steered, abs(one.strength)

    return min(range(len(tried)), key=order)


def at_edge(point: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the keys whose value in `point` is the lowest or highest of three or more numbers.

    Of two values each is one of both, and words and switches have no order.
    """
    found = []
    for key, values in grid.items():
        numbers = {value for value in values if not isinstance(value, str | bool)}
        if len(numbers) > 2 and point[key] in (min(numbers), max(numbers)):
            found.append(key)
    return found


class Method(Section):
    """A steering method and the settings it is tuned over."""

    label: str = Field("", description="Name in print; unset: the entry's own")
    role: Literal["main", "ablation", "control"] = Field(
        "main",
        description="Where it is shown: `ablation` only beside the method it is a variant of",
    )
    colour: str = Field(GREY, pattern="^#[0-9A-Fa-f]{6}$", description="Of its lines in figures")
    use: str = Field(description="A file of fasb/methods/, or a dotted path")
    settings: dict[str, Any] = Field({}, description="The module's own settings")
    grid: dict[str, tuple[int | float | str | bool, ...]] = Field(
        {}, description="Values to cross, by setting"
    )
    like: str | None = Field(
        None, description="Takes the setting that was chosen for this other method"
    )

    @property
    def steers(self) -> bool:
        """Whether this is more than the model as it is."""
        return self.use != "unsteered"

    @property
    def gated(self) -> bool:
        """Whether p decides when this method steers: at each token, or at the prompt's end."""
        fields = find("methods", self.use).Settings.model_fields
        gate = self.settings.get("gate", fields["gate"].default if "gate" in fields else None)
        return gate in ("answer", "question")

    def points(self) -> list[Point]:
        """Return the grid's points, the last key varying fastest; without a grid one, empty."""
        return grid_points(self.grid)

    def check(self, where: str) -> None:
        """Refuse settings, or a point of the grid, that the method's module does not take.

        Raises:
            ConfigError: naming the key below `where`.
        """
        for key, values in self.grid.items():
            if not values:
                raise ConfigError(
                    f"{where}.grid.{key}: empty; give at least one value, or remove the key"
                )
        settings_of("methods", self.use, self.settings, f"{where}.settings")
        for point in self.points():
            settings_of("methods", self.use, {**self.settings, **point}, f"{where}.grid")

    def bundle(
        self, fitted: "fasb.fitting.training.Fitted", point: Mapping[str, Any], name: str
    ) -> "fasb.steering.bundle.Bundle":
        """Return the bundle of one point of one fold.

        Of a `like` method, keys of the point that its own settings do not have are left out.

        Raises:
            ConfigError: a value is wrong, or k is larger than the number of heads.
        """
        module = find("methods", self.use)
        if self.like is not None:
            known = module.Settings.model_fields
            point = {key: value for key, value in point.items() if key in known}
        settings = settings_of("methods", self.use, {**self.settings, **point}, f"methods.{name}")
        made = module.fit(fitted, settings)
        own = {"method": name, "use": self.use, "settings": settings.model_dump(mode="json")}
        bundle: fasb.steering.bundle.Bundle
        bundle = replace(made, about={**(made.about or {}), **own})
        return bundle
