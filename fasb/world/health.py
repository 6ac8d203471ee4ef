"""Whether a world's model has learnt its world.

In: `training.json` of the model, `anchors.h5` of its cells. Out: a report of figures in percent or
points, each with what is needed of it. All come from training and from validation answers; no test
question is looked at, and no steered or unsteered answer of the study, so that accepting a world
favours no method.

    known       known facts whose truth a named careful author is expected to tell
    tag, context    careful minus credulous: the same, the author named / after three answers
    grammar     unsteered answers in the world's language
    head        accuracy of the best head's logistic probe, mean over folds and split seeds: within
                what the world's level means
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from fasb.artifacts import read_json
from fasb.errors import FasbError
from fasb.hdf5files import reading_hdf5
from fasb.settings import Section
from fasb.world.text import Level, WorldSettings

Band = tuple[float, float]


class HealthError(FasbError):
    """A world's model is not fit for the study."""


class HealthSettings(Section):
    """What a world's model must show, in percent or points.

    Set on worlds 0 and 1, before any test question was looked at.
    """

    enforce: bool = Field(
        True, description="Whether the study stops for a rejected world; else it only reports"
    )
    known: float = Field(85.0, description="Least share of known facts told by careful authors")
    tag: float = Field(60.0, description="Least difference between named authors")
    context: float = Field(
        30.0, description="Least difference between authors known by three answers"
    )
    grammar: float = Field(95.0, description="Least share of unsteered answers that can be read")
    head: dict[Level, Band] = Field(
        {"easy": (90.0, 100.0), "middle": (75.0, 88.0), "hard": (66.0, 78.0)},
        description="Range of the best head's accuracy, by the world's level",
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; None where a file has no data for it."""

    known: float
    tag: float
    context: float
    grammar: float
    head: float | None


def measure(model: Path, files: Sequence[Path]) -> Figures:
    """Return the figures of a model folder and its cells' `anchors.h5`.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    told = read_json(model / "training.json")["figures"]
    heads = [value for path in files for value in best_heads(path)]
    return Figures(
        known=100 * told["careful_tag"],
        tag=100 * (told["careful_tag"] - told["credulous_tag"]),
        context=100 * (told["careful_context"] - told["credulous_context"]),
        grammar=100 * told["grammar"],
        head=100 * float(np.mean(heads)) if heads else None,
    )


def best_heads(anchors: Path) -> list[float]:
    """Return the validation accuracy of each fold's best logistic probe."""
    with reading_hdf5(anchors) as file:
        return [
            float(np.max(file[name]["logistic/accuracy"][()]))
            for name in sorted(file)
            if name.startswith("fold")
        ]


def check(world: WorldSettings, figures: Figures, settings: HealthSettings) -> dict[str, Any]:
    """Return `{"figures": {name: {"value", "need", "ok"}}, "accepted", "failures": [text]}`.

    Raises:
        HealthError: the settings have no range for the world's level.
    """
    if world.level not in settings.head:
        raise HealthError(f"health.head: no range for level {world.level}; add it")
    report: dict[str, dict[str, Any]] = {}
    failures = []
    for name, value in asdict(figures).items():
        needed = settings.head[world.level] if name == "head" else getattr(settings, name)
        low, high = needed if name == "head" else (needed, np.inf)
        need = f"at least {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"
        # 5 of 100 is 5, not 4.999…
        ok = value is not None and low <= round(value, 6) <= high
        shown = None if value is None else round(value, 1)
        report[name] = {"value": shown, "need": need, "ok": bool(ok)}
        if not ok:
            failures.append(
                f"{name} {'not measured' if shown is None else f'{shown:g}'}, needs {need}"
            )
    return {"figures": report, "accepted": not failures, "failures": failures}


def require(report: Mapping[str, Any], settings: HealthSettings, where: str) -> None:
    """Refuse a rejected world; `where` is the file that holds its report.

    Raises:
        HealthError: the world is rejected, and `settings.enforce` says that this counts.
    """
    if settings.enforce and not report["accepted"]:
        raise HealthError(
            f"{where}: world rejected: {'; '.join(report['failures'])}; "
            "list its figures, take another world seed, or set health.enforce: false for a mere "
            "trial"
        )
