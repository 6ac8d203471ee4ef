"""`--settings`, which commands for one's own model share."""

import json
from pathlib import Path
from typing import Any

import click

from fasb.errors import ConfigError
from fasb.textfiles import parse_yaml, read_text


def read_settings(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any]:
    """Return the mapping in `value`: JSON text, or a .json or .yaml file; empty without one.

    Raises:
        ConfigError: there is no such file, or no mapping in it.
    """
    if value is None:
        return {}
    inline = value.lstrip().startswith("{")
    if not inline and not Path(value).is_file():
        raise ConfigError(
            f"--settings: no file {value!r}; give JSON text, or the path of a .json or .yaml file"
        )
    settings = _read(value if inline else read_text(Path(value), ConfigError))
    if not isinstance(settings, dict):
        raise ConfigError("--settings: not a mapping; write keys and values, as in docs/adding.md")
    return settings


def _read(text: str) -> Any:
    try:
        return json.loads(text)  # YAML would take the number 1e-05 for a text
    except json.JSONDecodeError:
        return parse_yaml(text, "--settings", ConfigError)
