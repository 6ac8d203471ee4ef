"""Many worlds in one line: `run.worlds` written out as models, datasets and cells.

In: the mapping of a study's config. Out: the same without `run.worlds`; whether the settings of
worlds can be had. Knows no other key's meaning.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fasb.errors import ConfigError
from fasb.extensions import validated
from fasb.provenance import content_hash
from fasb.study.entries import ModelEntry
from fasb.study.layers import merge


def pooled(name: str) -> str:
    """Return `name` without a final `-s<digits>`, a world's seed: such names are one in tables."""
    return re.sub(r"-s\d+$", "", name)


def write_out(mapping: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping with a model, a dataset and a cell for every seed in `run.worlds`.

    `{middle: [2, 3]}` gives `middle-s2` and `middle-s3`, trained, asked and judged as the world of
    that level and seed. What the mapping itself says of these names is laid over it.

    Raises:
        ConfigError: `run.worlds` is no mapping of lists, or `run.cells` no list.
    """
    run = mapping.get("run")
    if not isinstance(run, dict) or "worlds" not in run:
        return mapping
    worlds = run["worlds"]
    if not isinstance(worlds, dict) or not all(
        isinstance(seeds, list) for seeds in worlds.values()
    ):
        raise ConfigError("run.worlds: not lists of seeds by level; write {middle: [2, 3]}")
    own = run.get("cells", [])
    if not isinstance(own, list):
        raise ConfigError("run.cells: not a list; give pairs of model and dataset, or []")
    models: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    cells: list[dict[str, str]] = []
    for level, seeds in worlds.items():
        for seed in seeds:
            name, world = f"{level}-s{seed}", {"level": level, "seed": seed}
            # a world's model is trained by one thread unless its entry says otherwise
            models[name] = {"world": world, "job": {"threads": 1}}
            judge = {"use": "fasb.world.judge", "settings": world}
            datasets[name] = {"load": "fasb.world.questions", "settings": world, "judge": judge}
            cells.append({"model": name, "dataset": name})
    rest = {key: value for key, value in run.items() if key != "worlds"}
    written = {"models": models, "datasets": datasets, "run": rest}
    return {**merge(written, mapping), "run": {**rest, "cells": [*own, *cells]}}


def check_worlds(models: Mapping[str, ModelEntry], health: dict[str, Any]) -> None:
    """Refuse a wrong setting of a model that the study trains, or of what is asked of it.

    Raises:
        ConfigError: naming the key.
    """
    worlds = {name: model for name, model in models.items() if model.world is not None}
    if not worlds:
        return
    from fasb.world.health import HealthSettings
    from fasb.world.pretrain import PretrainSettings
    from fasb.world.text import WorldSettings

    validated(HealthSettings, health, "health")
    for name, model in worlds.items():
        validated(WorldSettings, model.world or {}, f"models.{name}.world")
        validated(PretrainSettings, model.pretrain, f"models.{name}.pretrain")


def check_different(models: Mapping[str, ModelEntry], cells: Sequence[tuple[str, str]]) -> None:
    """Refuse one world under two names that tables average over: it would count as two.

    cells: models and datasets of the run. The models' settings have been checked.

    Raises:
        ConfigError: naming the second of the two.
    """
    from fasb.world.pretrain import PretrainSettings
    from fasb.world.text import WorldSettings

    known: dict[str, str] = {}
    for model, dataset in cells:
        entry = models[model]
        if entry.world is None:
            continue
        # with all defaults, so that what is said and what is meant are one
        world = WorldSettings(**entry.world).model_dump(mode="json")
        trained = PretrainSettings(**entry.pretrain).model_dump(mode="json")
        same = content_hash([pooled(model), pooled(dataset), world, trained])
        first = known.setdefault(same, model)
        if first != model:
            raise ConfigError(
                f"models.{model}.world: is that of {first}, and tables would average over it as "
                "over a further world; give it another seed, or leave its cell out"
            )
