"""What must agree between a bundle and the model it is attached to: content, never a name."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fasb.errors import BundleError

INFORMATION = ("model", "revision")
"""Fields that say where a model came from; they are shown and not compared."""

OF_SIBLINGS = ("weights", "config")
"""Fields in which a base model and its chat version may differ."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must agree between a bundle and a model.

    `model`, `revision`: name and commit of the hub, for people. `tokenizer`: hash of all that turns
    text into tokens. `weights`: hash of the weights. `hidden`: width of the residual stream.
    `config`: JSON of the config's values that decide the logits.
    """

    model: str
    n_layers: int
    n_heads: int
    head_dim: int
    tokenizer: str
    revision: str = ""
    weights: str = ""
    hidden: int = 0
    config: str = ""

    @classmethod
    def read(cls, value: Any, where: str) -> "Fingerprint":
        """Return the fingerprint of a mapping that `asdict` made.

        Raises:
            BundleError: it is no such mapping; `where` is named.
        """
        given = dict(value) if isinstance(value, Mapping) else {}
        kinds = {field.name: field.type for field in fields(cls)}
        # the very type: to isinstance, true is an int as well
        if given.keys() != kinds.keys() or any(type(given[key]) is not kinds[key] for key in kinds):
            raise BundleError(f"{where}: not a fingerprint of a model; make the file again")
        return cls(**given)

    def check(
        self, other: "Fingerprint", siblings: bool | None = False, what: str = "bundle"
    ) -> None:
        """Refuse another model than the one that `what` was made for.

        `siblings` allows other weights and values of the config in the same build (a base model and
        its chat version); None where nobody can allow them, so that no error advises it.

        Raises:
            BundleError: naming the first field that differs.
        """
        allowed = "" if siblings is None else ", or allow siblings (--siblings, siblings=True)"
        for field, mine in asdict(self).items():
            theirs = getattr(other, field)
            if mine == theirs or field in INFORMATION or (siblings and field in OF_SIBLINGS):
                continue
            if field == "weights":
                raise BundleError(
                    f"{what}: made for {self._described()}, but this is {other._described()}, "
                    f"whose weights differ; fit one for it{allowed}"
                )
            if field == "config":
                differs = _difference(mine, theirs)
                if differs is None:
                    continue
                key, made_for, found = differs
                raise BundleError(
                    f"{what}: made for {key} {json.dumps(made_for)}, but the model's config has "
                    f"{json.dumps(found)}; fit one for it{allowed}"
                )
            raise BundleError(
                f"{what}: made for {field} {mine!r}, but the model has {theirs!r}; fit one for it"
            )

    def _described(self) -> str:
        at = f" at {self.revision[:12]}" if self.revision else ""
        return f"{self.model!r}{at} (weights {self.weights[:8] or 'unknown'})"


def _difference(mine: str, theirs: str) -> tuple[str, Any, Any] | None:
    """Return the first key in which two configs differ, and its values; None if they agree.

    A key that one lacks was not known to the version of transformers that read it, whose models
    computed what a newer version's default says; what is off is there, as null.
    """
    one, other = (_values(text) for text in (mine, theirs))
    for key in sorted({"model_type"} | (one.keys() & other.keys())):
        if one.get(key) != other.get(key):
            return key, one.get(key), other.get(key)
    return None


def _values(text: str) -> dict[str, Any]:
    """Return what a config's text holds; a stranger's may hold anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
