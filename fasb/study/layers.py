"""Layers of a config: YAML files laid over each other, as Snakemake does with `--configfile`.

In: paths. Out: mappings, and which file a message is about. Knows no key.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fasb.errors import ConfigError
from fasb.textfiles import read_yaml


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, not text, not YAML, has a key twice or is no mapping.
    """
    mapping = read_yaml(path, ConfigError)
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: not a mapping; start from config/config.yaml")
    return mapping


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `above` laid over `below`, mapping by mapping."""
    both = {k: merge(below[k], v) if are_mappings(below.get(k), v) else v for k, v in above.items()}
    return {**below, **both}


def are_mappings(*values: Any) -> bool:
    """Return whether all values are mappings."""
    return all(isinstance(value, dict) for value in values)


def origin(message: str, files: Sequence[str | Path]) -> Path:
    """Return the last file that has the longest part of the key that `message` starts with."""
    here = Path.cwd()
    paths = []
    for path in map(Path, files):
        paths.append(path.relative_to(here) if path.is_relative_to(here) else path)
    if len(paths) == 1:
        return paths[0]
    key = message.split(": ", 1)[0]

    def depth(file: Path) -> int:
        node: Any = read_mapping(file)
        rest, found = key, 0
        while isinstance(node, dict) and rest:
            # a name such as qwen2.5-7b holds a dot itself, so the longest that fits is the one
            fitting = [str(name) for name in node if f"{rest}.".startswith(f"{name}.")]
            if not fitting:
                break
            name = max(fitting, key=len)
            node, rest, found = node.get(name), rest[len(name) + 1 :], found + 1
        return found

    # of equal depths `max` takes the first, which is the last file here
    return max(reversed(paths), key=depth)
