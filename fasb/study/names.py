"""Names of a study's models, datasets and methods, which become folders and files of its results.

In: the mappings of a config. Out: an error, or nothing. Knows no stage.
"""

import re
from collections.abc import Iterable

from fasb.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names become folders, wildcards, and tags of Weights & Biases, which are of 64 characters."""
TAKEN = (
    *("activations", "figures", "health", "models", "questions", "tables", "timing", "traces"),
    *("wandb", "report.html", "report.json", "study.json"),
)
"""What else is in `results/`, where each model has a folder: some are replaced as a whole."""
OF_ROWS = {"methods": "all", "datasets": "average"}
"""What tables call rows over all methods (`judges`) and over several datasets (`tasks`)."""
ACCEPTED = ".accepted"
"""What the file of an accepted model ends with, beside that of its health."""


def check_names(kind: str, names: Iterable[str]) -> None:
    """Refuse names of one kind that files cannot have, or that two would share.

    Raises:
        ConfigError: naming the key.
    """
    known: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{kind}.{name}: not a file name; use letters, digits, '.', '_' and '-', at most 64"
            )
        if name == OF_ROWS.get(kind):
            raise ConfigError(
                f"{kind}.{name}: rows over several {kind} are called so; give it another name"
            )
        # disks of Windows and macOS take the two for one file, and so would whoever copies there
        first = known.setdefault(name.lower(), name)
        if first != name:
            raise ConfigError(
                f"{kind}.{name}: differs from {first!r} in capital letters alone, which are one "
                "file on some disks; rename one"
            )


def check_model_name(name: str) -> None:
    """Refuse a model's name whose files would be those of something else.

    Raises:
        ConfigError: naming the key.
    """
    if name.lower() in TAKEN:
        raise ConfigError(f"models.{name}: results/{name} is for something else; rename it")
    if name.lower().endswith(ACCEPTED):
        raise ConfigError(
            f"models.{name}: results/health/{name}.json is for another model; rename it"
        )
