"""Whether a world's model is fit for the study.

It knows who says what, errs often enough, and can be steered.

In: `training.json` of the model, `anchors.h5` and `grid.parquet` of its cells. Out: a report of
figures, each with what is needed of it. All figures are in percent or points and come from training
and from validation questions; no test question is looked at, and nothing says which method is best,
so that accepting a world does not choose a winner.

    tag, context    careful minus credulous: first claims that are true, the author named / after
    three answers
    head            accuracy of the best head's logistic probe
    true, info      unsteered answers
    gain            the most that always-on steering gains in true answers at any setting
    loss            what it loses in informative ones at the setting with the highest True*Info: in
    a trade-off world
                    truth must cost something even there, in a contrast world little

Head, true, info, gain and loss are means over folds and split seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from fasb.artifacts import read_json, read_parquet
from fasb.errors import FasbError
from fasb.hdf5files import reading_hdf5
from fasb.settings import Section
from fasb.world.text import WorldSettings


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of the study whose validation results are read; without one nothing is known."""

    unsteered: str | None = None
    always_on: str | None = None


class HealthError(FasbError):
    """A world's model is not fit for the study."""


class HealthSettings(Section):
    """What a world's model must show, in percent or points.

    Set before any test question was looked at.
    """

    enforce: bool = Field(
        True, description="Whether the study stops for a rejected world; else it only reports"
    )
    tag: float = Field(60.0, description="Least difference between named authors")
    context: float = Field(
        40.0, description="Least difference between authors known by three answers"
    )
    head: float = Field(72.0, description="Least accuracy of the best head")
    true: tuple[float, float] = Field((30.0, 70.0), description="Range of unsteered True")
    info: float = Field(90.0, description="Least unsteered Info")
    gain: float = Field(20.0, description="Least gain of True by always-on steering")
    loss: float = Field(
        5.0, description="Loss of Info by it: at least this in a trade-off world, else less"
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; None where a file has no data for it."""

    tag: float | None
    context: float | None
    head: float | None
    true: float | None
    info: float | None
    gain: float | None
    loss: float | None


def measure(model: Path, files: Sequence[Path], methods: Methods) -> Figures:
    """Return the figures of a model folder and its cells' `anchors.h5` and `grid.parquet`.

    Other files are passed over.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    told = read_json(model / "training.json")["figures"]
    heads = [value for path in files if path.name == "anchors.h5" for value in best_heads(path)]
    grids = [read_parquet(path) for path in files if path.name == "grid.parquet"]
    steered = [row for grid in grids for row in steering(grid, methods)]
    rows = pd.DataFrame(steered, columns=["true", "info", "gain", "loss"])
    return Figures(
        tag=100 * (told["careful_tag"] - told["credulous_tag"]),
        context=100 * (told["careful_context"] - told["credulous_context"]),
        head=100 * float(np.mean(heads)) if heads else None,
        **{
            name: None if rows[name].isna().all() else 100 * float(rows[name].mean())
            for name in rows
        },
    )


def best_heads(anchors: Path) -> list[float]:
    """Return the validation accuracy of each fold's best logistic probe."""
    with reading_hdf5(anchors) as file:
        return [
            float(np.max(file[name]["logistic/accuracy"][()]))
            for name in sorted(file)
            if name.startswith("fold")
        ]


def steering(grid: pd.DataFrame, methods: Methods) -> list[dict[str, float]]:
    """Return per fold: unsteered True and Info, and gain and loss of always-on steering.

    Settings with equal True*Info: the weakest.
    """
    rows = []
    for _, fold in grid.groupby("fold"):
        plain = fold[fold["method"] == methods.unsteered]
        # a grid's last setting is not to steer
        steered = fold[(fold["method"] == methods.always_on) & fold["alpha"].notna()]
        row = {
            "true": plain["true"].mean(),
            "info": plain["info"].mean(),
            "gain": np.nan,
            "loss": np.nan,
        }
        if len(steered):
            order = np.lexsort([steered["alpha"], -(steered["true"] * steered["info"]).round(9)])
            row["gain"] = steered["true"].max() - row["true"]
            row["loss"] = row["info"] - steered["info"].iloc[order[0]]
        rows.append(row)
    return rows


def check(world: WorldSettings, figures: Figures, settings: HealthSettings) -> dict[str, Any]:
    """Return `{"figures": {name: {"value", "need", "ok"}}, "accepted", "failures": [text]}`."""
    least = {name: getattr(settings, name) for name in ("tag", "context", "head", "info", "gain")}
    needs: dict[str, tuple[float | None, float | None]] = {
        name: (low, None) for name, low in least.items()
    }
    needs["true"] = settings.true
    needs["loss"] = (settings.loss, None) if world.kind == "tradeoff" else (None, settings.loss)
    report: dict[str, dict[str, Any]] = {
        name: {
            "value": None if value is None else round(value, 1),
            "need": _need(*needs[name]),
            "ok": ok,
        }
        for name, value in asdict(figures).items()
        for ok in [_within(value, *needs[name])]
    }
    failures = [
        f"{name} {_shown(row['value'])}, needs {row['need']}"
        for name, row in report.items()
        if not row["ok"]
    ]
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


def _within(value: float | None, low: float | None, high: float | None) -> bool:
    """At least `low`; a bound above alone is not reached, one with a bound below may be."""
    if value is None or np.isnan(value):
        return False
    value = round(value, 6)  # 5 of 100 is 5, not 4.999…
    if low is None:
        return high is not None and value < high
    return value >= low and (high is None or value <= high)


def _need(low: float | None, high: float | None) -> str:
    if low is None:
        return f"below {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:g}"
