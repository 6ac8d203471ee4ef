"""Options that commands share: `--settings`, `--out`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fasb.errors import ConfigError


class Given(dict[str, Any]):
    """Settings of a command; a key that it needs and that is not given is one line."""

    def __missing__(self, key: str) -> Any:
        raise ConfigError(
            f"--settings: lacks the key {key!r}; see the command's --help for those it takes"
        )


def read_settings(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any]:
    """The mapping in `value`: JSON text, or a .json or .yaml file; empty where none is given.

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
    settings = _read(value if inline else Path(value).read_text())
    if not isinstance(settings, dict):
        raise ConfigError("--settings: not a mapping; write keys and values, as in docs/adding.md")
    return Given(settings)


def _read(text: str) -> Any:
    import yaml

    try:
        return json.loads(text)  # YAML would take the number 1e-05 for a text
    except json.JSONDecodeError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--settings: cannot be read ({' '.join(str(error).split())}); correct it"
        ) from None


def settings_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--settings`, given to the command as a dict."""
    text = "JSON text, or a .json or .yaml file: the settings this step uses."
    return click.option(
        "--settings", required=True, callback=read_settings, metavar="JSON", help=text
    )(command)


def out_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--out`, given to the command as a Path."""
    text = "File or folder to write; appears whole or not at all."
    return click.option("--out", required=True, type=click.Path(path_type=Path), help=text)(command)
