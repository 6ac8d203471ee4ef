"""The settings that each rule's result depends on, so that a changed key reruns exactly the rules that use it.

In: a `Study`, a rule's name and its wildcards. Out: plain values, which a job takes as JSON. Knows
no command. Imports neither torch nor pandas.
"""

from collections.abc import Callable
from importlib import metadata
from typing import Any

from fasb.extensions import code_hash
from fasb.study.cells import (
    ASKED,
    PROBED,
    WRITTEN,
    Cell,
    answered,
    cell_of,
    figures,
    health_files,
    judge_entry,
    of_figure,
    of_model,
    of_table,
    only,
    tables,
    whole,
)
from fasb.study.config import Study


def settings(study: Study, rule: str, **wildcards: str) -> dict[str, Any]:
    """What the job of `rule` with these wildcards depends on, beside its input files."""
    used: dict[str, Any] = RULES[rule](study, wildcards)
    return {"version": metadata.version("fasb"), **used}


def _model(study: Study, name: str) -> dict[str, Any]:
    entry = study.models[name]
    dumped = entry.model_dump(mode="json", exclude={"world", "pretrain", "size", "job"})
    return {**dumped, "path": dumped["path"] or f"results/models/{name}"}


def _extension(package: str, use: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"use": use, "code": code_hash(package, use), "settings": values}


def _methods(study: Study) -> dict[str, Any]:
    chosen = {name: study.methods[name] for name in study.run.methods}
    return {
        name: {
            **_extension("methods", method.use, method.settings),
            "grid": {key: list(values) for key, values in method.grid.items()},
            "like": method.like,
        }
        for name, method in chosen.items()
    }


def _sections(*names: str) -> Callable[[Study, dict[str, str]], dict[str, Any]]:
    return lambda study, wildcards: study.sections(wildcards["dataset"]).dump(*names)


def _pretrain(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    entry = study.models[wildcards["model"]]
    return {"world": entry.world, "pretrain": entry.pretrain}


def _health(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    tested = [cell.dump() for cell in of_model(study, wildcards["model"])]
    return {
        "world": study.models[wildcards["model"]].world,
        "health": study.health,
        "cells": tested,
    }


def _questions(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    entry = study.datasets[wildcards["dataset"]]
    of_set = {"load": entry.load, "code": code_hash("data", entry.load), "settings": entry.settings}
    return {**of_set, "limit": entry.limit}


def _activations(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    sections = study.sections(wildcards["dataset"]).dump("prompt", "activations")
    return {
        "model": _model(study, wildcards["model"]),
        "read": wildcards["read"],
        "prompt": only(sections["prompt"], PROBED),
        "activations": sections["activations"],
    }


def _trace(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    sections = study.sections(wildcards["dataset"]).dump("prompt", "decoding")
    return {
        "model": _model(study, wildcards["model"]),
        "prompt": only(sections["prompt"], ASKED),
        "decoding": only(sections["decoding"], (*WRITTEN, "batch")),
    }


def _splits(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    section = study.sections(wildcards["dataset"]).split
    share = cell_of(study, wildcards).train_share
    return {
        "split": section.model_dump(mode="json") | ({} if share == 1 else {"train_share": share})
    }


def _sweep(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    return {"model": _model(study, wildcards["model"]), **_tune(study, wildcards)}


def _tune(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    sections = study.sections(wildcards["dataset"]).dump(
        "prompt", "decoding", "scoring", "trackers"
    )
    judged = study.datasets[wildcards["dataset"]].judge is not None
    return {"methods": _methods(study), "judge": judged, **sections}


def _judge(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    judge = judge_entry(study, wildcards["dataset"], wildcards.get("judged", "judged"))
    return {"judge": None if judge is None else _extension("judges", judge.use, judge.settings)}


def _rehearse(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    both = [
        judge_entry(study, wildcards["dataset"], judged) for judged in ("judged", "judged_second")
    ]
    return {
        "judges": [
            _extension("judges", judge.use, judge.settings) for judge in both if judge is not None
        ]
    }


def _generate(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    batch, written = (
        study.sections(wildcards["dataset"]).decoding.batch,
        answered(study, wildcards["dataset"]),
    )
    return {**_run(study, wildcards), "judge": written, "decoding": {"batch": batch}}


def _score(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    scoring = study.sections(wildcards["dataset"]).scoring
    return {**_run(study, wildcards), "scoring": {"batch": scoring.batch}}


def _run(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    return {
        "model": _model(study, wildcards["model"]),
        "methods": list(study.run.methods),
    } | _transfer(study, wildcards)


def _transfer(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    source, dataset = cell_of(study, wildcards).source, wildcards["dataset"]
    if source is None:
        return {}
    transfer: dict[str, Any] = {
        "model": source[0] != wildcards["model"],
        "dataset": source[1] != dataset,
    }
    if transfer["dataset"]:
        sections = study.sections(dataset)
        transfer |= sections.dump("prompt") | {"tokens": sections.decoding.tokens}
    return {"transfer": transfer}


def _side_effects(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    effects = study.datasets[wildcards["dataset"]].side_effects
    assert effects is not None
    own = (
        study.sections(effects.choices).dump("prompt", "scoring")
        if effects.choices is not None
        else {}
    )
    texts = _extension("data", effects.load, effects.settings)
    return {
        **_run(study, wildcards),
        "texts": texts,
        "tokens": effects.tokens,
        "batch": effects.batch,
        **own,
    }


def _metrics(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    cell = {
        "model": wildcards["model"],
        "dataset": wildcards["dataset"],
        "seed": int(wildcards["seed"]),
    }
    exact = {"exact": True} if study.datasets[wildcards["dataset"]].exact else {}
    return {**cell, "methods": list(study.run.methods), **exact}


def _shown(study: Study, shown: list[Cell]) -> dict[str, Any]:
    return {
        "name": study.run.name,
        "preset": study.preset,
        "cells": [cell.dump() for cell in shown],
        "methods": list(study.run.methods),
    }


def _table(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    shown = of_table(study, wildcards["table"])
    datasets = dict.fromkeys((cell.source or ("", cell.dataset))[1] for cell in shown)
    leaks = [name for name in datasets if study.sections(name).vectors.sigma_rows == "all"]
    return {**_shown(study, shown), "sigma_of_all": leaks}


def _report(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    return {
        **_shown(study, whole(study)),
        "tables": [f"results/tables/{name}.csv" for name in tables(study)],
        "figures": [f"results/figures/{name}.png" for name in figures(study)],
        "health": health_files(study),
        "timing": "results/timing",
    }


def _wandb(study: Study, wildcards: dict[str, str]) -> dict[str, Any]:
    return {**_shown(study, whole(study)), "wandb": study.wandb.model_dump(mode="json")}


RULES: dict[str, Callable[[Study, dict[str, str]], dict[str, Any]]] = {
    "pretrain": _pretrain,
    "health": _health,
    "accept": lambda study, wildcards: {"health": study.health},
    "questions": _questions,
    "splits": _splits,
    "activations": _activations,
    "trace": _trace,
    "anchors": _sections("probes"),
    "vectors": _sections("vectors"),
    "trackers": _sections("trackers"),
    "sweep": _sweep,
    "rehearse": _rehearse,
    "judge_sweep": _judge,
    "judge": _judge,
    "tune": _tune,
    "generate": _generate,
    "score": _score,
    "side_effects": _side_effects,
    "metrics": _metrics,
    "table": _table,
    "agreement": lambda study, wildcards: _shown(study, whole(study)),
    "figure": lambda study, wildcards: _shown(study, of_figure(study, wildcards["figure"])),
    "report": _report,
    "wandb": _wandb,
}
"""For each rule, the function that collects its settings."""
