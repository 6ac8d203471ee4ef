"""Models that the study trains itself, and whether they are fit for it."""

from fasb.extensions import validated
from fasb.study import cells
from fasb.study.config import Study
from fasb.study.progress import say
from fasb.study.stage import EACH_WORLD, Paths, stage


@stage(
    EACH_WORLD,
    outputs={"model": "results/models/{model}"},
    inputs=lambda study, model: {},
    depends=lambda study, model: {
        "world": study.models[model].world,
        "pretrain": study.models[model].pretrain,
    },
)
def pretrain(study: Study, model: str, paths: Paths) -> None:
    """Train a world's model: a checkpoint folder with training.json."""
    from fasb.world.pretrain import PretrainSettings, pretrain
    from fasb.world.text import WorldSettings

    entry = study.models[model]
    world = validated(WorldSettings, entry.world or {}, f"models.{model}.world")
    training = validated(PretrainSettings, entry.pretrain, f"models.{model}.pretrain")
    report = pretrain(world, training, paths["model"], paths.made_by())
    figures = ", ".join(f"{name} {100 * value:.0f}" for name, value in report["figures"].items())
    say(f"{paths['model']}: {report['tokens']:,} tokens in {report['seconds']:.0f} s; {figures}")


@stage(
    EACH_WORLD,
    outputs={"report": "results/health/{model}.json"},
    inputs=lambda study, model: {
        "model": cells.trained(study, model),
        "cells": cells.files(cells.of_model(study, model), ("anchors.h5",)),
    },
    depends=lambda study, model: {
        "world": study.models[model].world,
        "health": study.health,
        "cells": [cell.dump() for cell in cells.of_model(study, model)],
    },
)
def health(study: Study, model: str, paths: Paths) -> None:
    """Measure whether a world's model is fit, on training and validation answers."""
    from fasb.artifacts import write_json
    from fasb.world.health import HealthSettings, check, measure
    from fasb.world.text import WorldSettings

    thresholds = validated(HealthSettings, study.health, "health")
    world = validated(WorldSettings, study.models[model].world or {}, f"models.{model}.world")
    figures = measure(paths["model"], paths.every("cells"))
    report = check(world, figures, thresholds)
    for failure in report["failures"]:
        say(f"{paths['report']}: {failure}")
    write_json(paths["report"], report, paths.made_by())


@stage(
    EACH_WORLD,
    outputs={"accepted": "results/health/{model}.accepted.json"},
    inputs=lambda study, model: {"report": f"results/health/{model}.json"},
    depends=lambda study, model: {"health": study.health},
)
def accept(study: Study, model: str, paths: Paths) -> None:
    """Refuse a world that its health report rejects, before any test question is asked."""
    from fasb.artifacts import read_json, write_json
    from fasb.world.health import HealthSettings, require

    report = read_json(paths["report"])
    require(report, validated(HealthSettings, study.health, "health"), str(paths["report"]))
    write_json(paths["accepted"], report, paths.made_by())
