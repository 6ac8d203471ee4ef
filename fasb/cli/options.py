"""What commands share: `--settings` for one's own model, and how tables are printed."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from fasb.errors import ConfigError
from fasb.provenance import OF_MODELS
from fasb.textfiles import parse_json, parse_yaml, read_text

TEXTS = ("model", "dataset", "rule", "device", "method", "setting", "key", "best")
"""Columns of tables that hold no numbers."""
SETTINGS_FILE = "fasb.settings_file"
"""Where a command's context keeps the path that its settings were read from."""


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
    if not inline:
        if not Path(value).is_file():
            raise ConfigError(
                f"--settings: no file {value!r}; give JSON text, or the path of a .json or .yaml "
                "file"
            )
        context.meta[SETTINGS_FILE] = value
    settings = _read(value if inline else read_text(Path(value), ConfigError))
    if not isinstance(settings, dict):
        raise ConfigError("--settings: not a mapping; write keys and values, as in docs/adding.md")
    return settings


def check_written(out: Path, *inputs: Any) -> None:
    """Refuse to write over what a command reads, its `--settings` file among it.

    inputs: paths, names and settings; of a model's folder each file that makes the model counts.

    Raises:
        ArtifactError: naming `out`, also where nothing can be written there.
    """
    from fasb.wholefiles import check_out

    settings_file = click.get_current_context().meta.get(SETTINGS_FILE)
    check_out(out, *_files(settings_file), *_files(inputs))


def _files(value: Any) -> Iterator[Path]:
    """Yield each file that settings name, and the files of each model's folder."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _files(one)
    elif isinstance(value, str | Path):
        path = Path(value)
        with contextlib.suppress(OSError, ValueError):  # a text that is no path
            if path.is_dir():
                yield from (file for file in path.iterdir() if file.suffix in OF_MODELS)
            elif path.is_file():
                yield path


def _read(text: str) -> Any:
    try:
        return parse_json(text, "--settings", ConfigError)  # YAML takes the number 1e-05 for a text
    except ConfigError:
        return parse_yaml(text, "--settings", ConfigError)


def command_table(title: str, *columns: str) -> Any:
    """Return an empty table, ruled above, below and under the head, as in print.

    Texts and numbers fold where the terminal is narrow; numbers stand to the right.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"\n {title}",
        title_justify="left",
        title_style="bold",
        header_style="",
        box=box.HORIZONTALS,
        border_style="dim",
    )
    for column in columns:
        named = column in TEXTS
        table.add_column(column, justify="left" if named else "right", overflow="fold")
    return table
