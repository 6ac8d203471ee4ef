"""Searching a grid: a method with the settings to cross, and which of those tried is best.

In: one entry of a config's `methods`; what each setting came to. Out: the points of the grid, the
bundle of a point, the best. The only place where such an entry is read. Knows neither model nor
question. Imports no torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fasb.errors import ConfigError
from fasb.fitting.recipe import POLICY_KEYS, Point, Recipe, default_when, every_key
from fasb.settings import PRINTED, Section, StageSettings

if TYPE_CHECKING:
    import fasb.fitting.fold
    import fasb.steering.bundle

GREY = "#999999"
NOT_STEERING: Point = {"when": "never"}
"""What a point of a grid says that leaves the model as it is."""

MOST_POINTS = 100_000
"""Points of a grid that are listed at all."""

DIGITS = 9
"""Values that agree to so many digits are equal: products of equal shares may differ there."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a setting came to: its value, the share of answers steered, and its strength."""

    value: float
    steered: float
    strength: float


def grid_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Return all values crossed, the last key varying fastest; of an empty grid one empty point.

    Raises:
        ConfigError: there are too many to list.
    """
    n_points = math.prod(len(values) for values in grid.values())
    if n_points > MOST_POINTS:
        raise ConfigError(
            f"grid: {n_points:,} settings, more than {MOST_POINTS:,}; remove values or keys"
        )
    crossed = itertools.product(*grid.values())
    return [dict(zip(grid, values, strict=True)) for values in crossed]


def repeated(values: Sequence[Any]) -> Any:
    """Return the first value that equals one before it, as 5.0 does 5; None if none does."""
    known = set()
    for value in values:
        # to Python, a switch equals a number
        one = isinstance(value, bool), value
        if one in known:
            return value
        known.add(one)
    return None


def _reads_as_number(value: Any) -> bool:
    """Return whether a value is a text that its setting may take for a number.

    Among numbers it would be equal to none, at no edge, and in no column with them.
    """
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def values_of(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Return the values that each key has in some of these points, which all have the same keys."""
    found: dict[str, list[Any]] = {}
    for key in points[0]:
        found[key] = [point[key] for point in points]
    return found


def index_of_best(tried: Sequence[Tried]) -> int:
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

    Of two values each is one of both, and words and switches have no order. Not to steer is at no
    edge.
    """
    found: list[str] = []
    if not steers(point):
        return found
    for key, values in grid.items():
        numbers = {value for value in values if not isinstance(value, str | bool)}
        if len(numbers) > 2 and point[key] in (min(numbers), max(numbers)):
            found.append(key)
    return found


def steers(point: Mapping[str, Any]) -> bool:
    """Return whether a point of a grid is more than `NOT_STEERING`."""
    return point.get("when") != NOT_STEERING["when"]


Printed = Annotated[str, Field(pattern=PRINTED)]


class Method(Section):
    """A steering method and the settings it is tuned over."""

    label: Printed = Field("", description="Name in print; unset: the entry's own")
    role: Literal["main", "ablation", "control"] = Field(
        "main",
        description="Where it is shown: `ablation` only beside the method it is a variant of",
    )
    crossed: tuple[Printed, Printed] | None = Field(
        None, description="Row and column, as printed, in the table and figure `crossing`"
    )
    colour: str = Field(GREY, pattern="^#[0-9A-Fa-f]{6}$", description="Of its lines in figures")
    use: str | None = Field(
        None, description="A file of fasb/methods/, or a dotted path; unset: the model as it is"
    )
    gate: str | None = Field(
        None, description="A file of fasb/gates/, or a dotted path, that makes p; unset: none"
    )
    settings: dict[str, Any] = Field(
        {}, description="Of the policy, the method and the gate; `k` and the like go to all"
    )
    grid: dict[str, tuple[int | float | str | bool, ...]] = Field(
        {}, description="Values to cross, by setting"
    )
    like: str | None = Field(
        None, description="Takes the setting that was chosen for this other method"
    )

    mean_strength: bool = Field(
        False,
        description="With `like`: alpha is the other's mean strength on validation answers, 0 "
        "where it leaves one alone",
    )

    @property
    def _whens(self) -> tuple[Any, ...]:
        """What its policies may say of when to steer, as a recipe does where nothing is said."""
        default = default_when(self.use, self.gate)
        return self.grid.get("when") or (self.settings.get("when", default),)

    @property
    def steers(self) -> bool:
        """Whether this is more than the model as it is."""
        return self.use is not None or any(when != "never" for when in self._whens)

    @property
    def asks_anew(self) -> bool:
        """Whether its questions are put in another way, so that unsteered answers are its own."""
        return "instruction" in {*self.settings, *self.grid}

    @property
    def asks_judge(self) -> bool:
        """Whether it sees the judge's verdicts on unsteered answers, those of the test too."""
        return "oracle" in self._whens

    @property
    def gated(self) -> bool:
        """Whether p decides when this method steers: a later token, or the prompt's end."""
        return any(when in ("token", "prompt") for when in self._whens)

    def points(self) -> list[Point]:
        """Return the grid's points, the last key varying fastest; without a grid one, empty.

        A grid has one more, the last: not to steer, which a method is left with where no other
        point is better than the model as it is.
        """
        points = grid_points(self.grid)
        if self.steers and self.grid:
            # it steers nothing, but its bundle is made of parts that some other point fits anyway
            fitted = {key: value for key, value in points[0].items() if key not in POLICY_KEYS}
            points.append({**fitted, **NOT_STEERING})
        return points

    def check(self, sections: StageSettings, where: str) -> None:
        """Refuse settings, or a point of the grid, that no part of the method takes.

        Raises:
            ConfigError: naming the key below `where`.
        """
        for key, tried in self.grid.items():
            if not tried:
                raise ConfigError(
                    f"{where}.grid.{key}: empty; give at least one value, or remove the key"
                )
            if (twice := repeated(tried)) is not None:
                raise ConfigError(f"{where}.grid.{key}: {twice!r} appears twice; remove one")
            if (text := next(filter(_reads_as_number, tried), None)) is not None:
                raise ConfigError(
                    f"{where}.grid.{key}: {text!r} is a text; write the number {float(text):g} "
                    "without quotes (YAML takes 1e1 for a text, and 1.0e+1 for a number)"
                )
            if key in self.settings:
                raise ConfigError(
                    f"{where}.settings.{key}: {self.settings[key]!r}, but its grid has {key} too, "
                    f"which would win; set grid.{key} to the values to try, say "
                    f"[{self.settings[key]!r}], and leave this out"
                )
        try:
            points = self.points()
        except ConfigError as error:
            raise ConfigError(f"{where}.{error}") from None
        for point in points:
            try:
                settings = {**self.settings, **point}
                Recipe.of(self.use, self.gate, settings, sections, f"{where}.grid")
            except ConfigError as error:
                # a point and the settings are checked together; whose key it is, is said here
                told = str(error).removeprefix(f"{where}.grid").removeprefix(".")
                told = told.removeprefix("policy.")
                key = told.partition(":")[0]
                beside = "settings" if key in self.settings or not self.grid else "grid"
                raise ConfigError(f"{where}.{beside}{'.' if key else ''}{told}") from None

    def check_like(self, other: "Method", where: str) -> None:
        """Refuse settings that the chosen point of `other` would win over, or leave unsaid.

        Raises:
            ConfigError: naming the key below `where`.
        """
        for key in other.grid.keys() & self.settings.keys():
            raise ConfigError(
                f"{where}.settings.{key}: {self.settings[key]!r}, but the grid of {self.like} has "
                f"{key} too, and what is chosen there would win; remove it, or give a grid in "
                "place of `like`"
            )
        every = every_key(self.use, self.gate)
        # its own alpha is made of strengths; and what is not gated looks at no other number
        made = {"alpha"} if self.mean_strength else set()
        unused = made if self.gated else made | {*POLICY_KEYS} - {"alpha", "after"}
        fixed = {key: other.settings[key] for key in other.settings.keys() & every - unused}
        if unsaid := sorted(fixed.keys() - self.settings.keys()):
            key = unsaid[0]
            raise ConfigError(
                f"{where}.settings.{key}: unset, but {self.like} has {fixed[key]!r}, which `like` "
                "does not take over: it takes what was chosen in the grid; set the same or another"
            )

    def recipe(self, point: Mapping[str, Any], sections: StageSettings, name: str) -> Recipe:
        """Return what a point of the grid asks for.

        Of a `like` method, keys of the point that its own parts do not know are left out.

        Raises:
            ConfigError: a value is wrong, or two contradict each other.
        """
        if self.like is not None:
            every = every_key(self.use, self.gate)
            point = {key: value for key, value in point.items() if key in every}
        values = {**self.settings, **point}
        return Recipe.of(self.use, self.gate, values, sections, f"methods.{name}")

    def bundle(
        self, fitted: "fasb.fitting.fold.FittedFold", point: Mapping[str, Any], name: str
    ) -> "fasb.steering.bundle.Bundle":
        """Return the bundle of one point of one fold."""
        about = {"method": name, "use": self.use, "gate": self.gate}
        return fitted.bundle(self.recipe(point, fitted.sections, name), about)


def check_printed(methods: Mapping[str, Method]) -> None:
    """Refuse methods that tables and figures would print alike, or without a name.

    Raises:
        ConfigError: naming the key of the second of two.
    """
    known: dict[Any, str] = {}
    for name, method in methods.items():
        label = " ".join(method.label.split())
        if not label:
            raise ConfigError(f"methods.{name}.label: empty; give its name in print, or no label")
        for key, printed in (("label", label), ("crossed", method.crossed)):
            first = name if printed is None else known.setdefault(printed, name)
            if first != name:
                raise ConfigError(
                    f"methods.{name}.{key}: {printed!r} is that of {first} too; give another"
                )


def recipes_of(methods: Mapping[str, Method], sections: StageSettings) -> list[Recipe]:
    """Return what every point of every method's grid asks for.

    A method `like` another is asked for at all points of that one.
    """
    found = []
    for name in methods:
        found += recipes_of_one(methods, name, sections)
    return found


def recipes_of_one(
    methods: Mapping[str, Method], name: str, sections: StageSettings
) -> list[Recipe]:
    """Return what every point of one method's grid asks for, as `recipes_of`."""
    method = methods[name]
    grid = methods[method.like].points() if method.like is not None else method.points()
    return [method.recipe(point, sections, name) for point in grid]
