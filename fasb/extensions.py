"""Extension files: a name is a file of a package here, a dotted path is anybody's module.

`data/`, `methods/`, `gates/` and `judges/` share one shape: a frozen `Settings` and one function
(`load`, `fit`, `fit`, `judge`). There is no registry: the name of the file is the name.
"""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fasb.errors import ConfigError, did_you_mean
from fasb.settings import Section
from fasb.sourcecode import code_of

FUNCTION = {"data": "load", "methods": "fit", "gates": "fit", "judges": "judge"}
"""The one function that a module of each package gives."""
SHOWN = 80
"""Characters of a wrong value that an error repeats: a primer is pages long."""


def find(package: str, name: str) -> ModuleType:
    """Return the module called `name` in `fasb/<package>/`, or at the dotted path `name`.

    Raises:
        ConfigError: there is no such module, it imports one that is not there, or it lacks
            `Settings`, derived from `Section`, or its function.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{package}: {name[:200]!r} is no name of a module; "
            f"{did_you_mean(name, known(package))}"
        )
    path = name if "." in name else f"fasb.{package}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ConfigError(_absent(package, name, error.name or path)) from None
    missing = [item for item in ("Settings", FUNCTION[package]) if not hasattr(module, item)]
    if missing:
        raise ConfigError(f"{path}: has no {' and no '.join(missing)}; see docs/adding.md")
    settings = module.Settings
    if not (isinstance(settings, type) and issubclass(settings, Section)):
        raise ConfigError(
            f"{path}: its Settings is no fasb.settings.Section; derive it as docs/adding.md shows"
        )
    return module


def _absent(package: str, name: str, absent: str) -> str:
    """Return the line on a module that is not there: that of an extension, or one it imports."""
    if "." not in name and absent == f"fasb.{package}.{name}":
        return f"{package}: no module {name!r}; {did_you_mean(name, known(package))}"
    if name == absent or name.startswith(f"{absent}."):
        top = name.partition(".")[0]
        remedy = (
            "correct the name" if absent != top else "put the folder that holds it on PYTHONPATH"
        )
        return f"{package}: no module {absent!r} for {name!r}; {remedy}"
    return (
        f"{package}: {name!r} imports {absent!r}, which is not there; install it, or put the "
        "folder that holds it on PYTHONPATH"
    )


def known(package: str) -> list[str]:
    """Return the names of the files in `fasb/<package>/`."""
    folder = Path(__file__).parent / package
    # modules of these packages that are no extensions
    shared = ("protocol", "splits", "prompts", "sources", "published", "ask", "likeness")
    return sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if m.name not in shared)


def settings_of(package: str, name: str, values: dict[str, Any], where: str) -> Section:
    """Return the module's `Settings` made of `values`; `where` names the config key in errors.

    Raises:
        ConfigError: a key is unknown, a value is wrong, or two contradict each other.
    """
    try:
        return validated(find(package, name).Settings, values, where)
    except ConfigError as error:
        # of values that contradict each other, the module itself says so, and knows no config
        told = str(error)
        raise ConfigError(told if told.startswith(where) else f"{where}: {told}") from None


def validated(model: type[Section], values: dict[str, Any], where: str) -> Any:
    """Return `model(**values)`.

    Its errors become one line that names the key and the nearest known one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_line(model, item, where) for item in error.errors()]
        raise ConfigError("; ".join(lines)) from None


def _line(model: type[Section], item: ErrorDetails, where: str) -> str:
    key = ".".join(str(part) for part in (where, *item["loc"]) if part != "")
    if item["type"] == "extra_forbidden":
        fields = _fields_at(model, item["loc"][:-1])
        return f"{key}: unknown key; {did_you_mean(str(item['loc'][-1]), fields)}"
    given = repr(item["input"])
    given = given if len(given) <= SHOWN else f"{given[: SHOWN - 1]}…"
    return f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, got {given}"


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    # a place that is no field is a key or a number: its type is the last argument
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        model = (
            field.annotation
            if field is not None
            else next(iter(getattr(model, "__args__", (model,))[-1:]), model)
        )
        arguments = getattr(model, "__args__", ())
        model = next((a for a in reversed(arguments) if hasattr(a, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))


def code_hash(package: str, name: str) -> str:
    """Return a hash of what an extension does, so that an edited method runs again.

    Its own file counts, and all that it imports but installed packages, see `code_of`.
    """
    module = find(package, name)
    assert module.__file__ is not None
    file = Path(module.__file__)
    above = module.__name__.count(".") + (file.name == "__init__.py")
    return code_of(module.__name__, file.parents[above])
