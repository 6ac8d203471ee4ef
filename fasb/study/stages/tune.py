"""Every method over its grid on validation questions, and the setting chosen there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.entries import JudgeEntry
from fasb.study.stage import (
    EACH_FITTED_CELL,
    STORE,
    Paths,
    Scope,
    extension,
    model_content,
    model_settings,
    part_of,
    stage,
)

if TYPE_CHECKING:
    import pandas as pd

    import fasb.fitting.fold
    from fasb.data.protocol import Question

FITTED = ("anchors", "vectors")


def _fitted_files(cell: Cell) -> dict[str, str]:
    return {
        "anchors": f"{cell.folder}/anchors.h5",
        "vectors": f"{cell.folder}/vectors.safetensors",
    }


def read_fitted(
    study: Study, cell: Cell, paths: Sequence[Path]
) -> "list[fasb.fitting.fold.FittedFold]":
    """Return what each fold of a cell has fitted, from the files called `FITTED`."""
    from fasb.fitting.fold import read_folds

    anchors, vectors = paths
    return read_folds(anchors, vectors, study.sections(cell.dataset))


def judge_settings(judge: JudgeEntry | None) -> dict[str, Any] | None:
    """Return what verdicts depend on."""
    return None if judge is None else extension("judges", judge.use, judge.settings)


def _tuning(study: Study, cell: Cell) -> dict[str, Any]:
    """Return what results on validation questions depend on, and how methods are tuned by them."""
    methods = {}
    for name, method in study.chosen_methods.items():
        swept = method.model_dump(mode="json", include={"grid", "like", "mean_strength"})
        parts = {}
        for package, use in (("methods", method.use), ("gates", method.gate)):
            # the code alone: `settings` below are for method, gate and policy together
            parts[package] = None if use is None else extension(package, use, {})
        methods[name] = {**parts, "settings": method.settings, **swept}
    sections = study.sections(cell.dataset).dump("prompt", "decoding", "scoring", "trackers")
    judged = study.datasets[cell.dataset].judge is not None
    return {"methods": methods, "judge": judged, **sections}


def _each_judged(study: Study) -> list[dict[str, Any]]:
    datasets = dict.fromkeys(cell.dataset for cell in cells.cells(study))
    return [{"dataset": name} for name in datasets if cells.checked_judges(study, name)]


@stage(
    Scope("{dataset}", _each_judged),
    outputs={"said": "results/questions/{dataset}.judge.json"},
    inputs=lambda study, dataset: {"questions": cells.questions(dataset)},
    depends=lambda study, dataset: {
        "judges": [judge_settings(judge) for judge in study.datasets[dataset].judges.values()]
    },
)
def check_judges(study: Study, dataset: str, paths: Paths) -> None:
    """Ask each judge for a few reference answers, before anything is generated for it."""
    from fasb.artifacts import write_json
    from fasb.data.protocol import read_questions
    from fasb.study.judging import check_judge

    asked = read_questions(paths["questions"])
    said = [check_judge(judge, asked) for judge in study.datasets[dataset].judges.values()]
    write_json(paths["said"], said, paths.made_by())


@stage(
    EACH_FITTED_CELL,
    outputs={
        "answers": "results/{cell}/sweep.parquet",
        "scores": "results/{cell}/sweep_mc.parquet",
    },
    inputs=lambda study, cell: {
        "model": cells.trained(study, cell.model),
        # a world that is rejected has not cost its sweep
        "accepted": cells.accepted(study, cell.model),
        "judge": cells.checked_judges(study, cell.dataset),
        "questions": cells.questions(cell.dataset),
        "splits": f"{cell.folder}/splits.json",
        "trace": cells.trace_file(study, cell.model, cell.dataset),
        **_fitted_files(cell),
    },
    depends=lambda study, cell: {
        "model": model_content(study, cell.model),
        **_tuning(study, cell),
        **oracle_settings(study, cell),
    },
    sharded=True,
)
def sweep(study: Study, cell: Cell, paths: Paths, part: str = "1of1") -> None:
    """Run every method's grid on the validation questions."""
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.shards import gathered

    asked = read_questions(paths["questions"])
    for name in ("answers", "scores"):
        found = gathered(paths.parts(name), asked, study.run.methods)
        if found is not None:
            write_parquet(paths[name], found, paths.made_by())
    # without shards nothing was put together above, and the work is done here
    if not paths.parts("answers"):
        _sweep(study, cell, paths, part)


sweep_part = part_of(sweep)


def _sweep(study: Study, cell: Cell, paths: Paths, part: str) -> None:
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.splits import read_splits
    from fasb.fitting.fold import check_splits
    from fasb.study.frames import read_table
    from fasb.study.run import Runner, check_traced_by
    from fasb.study.shards import Shard
    from fasb.study.sweep import sweep_methods

    splits = read_splits(paths["splits"])
    check_splits(paths["anchors"], splits)
    fitted = read_fitted(study, cell, paths.every(*FITTED))
    traces = None
    # answers of a dataset that is `exact` are for its test; without a judge none tune
    if study.datasets[cell.dataset].judge is not None:
        check_traced_by(fitted[0].fingerprint, paths["trace"])
        traces = read_table(paths["trace"])
    folds = list(zip(fitted, splits, strict=True))
    runner = Runner.of(model_settings(study, cell.model), STORE, shard=Shard.named(part))
    asked = read_questions(paths["questions"])
    traces = with_oracle(study, cell, traces, asked)
    answers, scores = sweep_methods(runner, folds, asked, traces, study.chosen_methods)
    made_by = paths.made_by()
    write_parquet(paths["scores"], scores, made_by)
    write_parquet(paths["answers"], answers, made_by)


def oracle_settings(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the judge whom a method of the run asks about unsteered answers, if one does."""
    if not any(method.asks_judge for method in study.chosen_methods.values()):
        return {}
    return {"oracle": judge_settings(study.datasets[cell.dataset].judge)}


def with_oracle(
    study: Study, cell: Cell, traces: "pd.DataFrame | None", asked: "Sequence[Question]"
) -> "pd.DataFrame | None":
    """Return unsteered answers, with the judge's verdicts where a method asks for them."""
    from fasb.artifacts import Store
    from fasb.study.judging import with_wrong

    judge = study.datasets[cell.dataset].judge
    if traces is None or judge is None or not oracle_settings(study, cell):
        return traces
    return with_wrong(traces, asked, judge, Store(STORE))


def write_verdicts(judge: JudgeEntry | None, paths: Paths) -> None:
    """Judge each distinct answer of `answers` once; without a judge nothing is judged."""
    import pandas as pd

    from fasb.artifacts import Store, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.frames import read_table
    from fasb.study.judging import distinct, judge_pairs, provenance

    if judge is None:
        nothing = pd.DataFrame(columns=["question", "answer"])
        write_parquet(paths["judged"], nothing, paths.made_by(judged_by={}))
        return
    pairs = distinct(read_questions(paths["questions"]), [read_table(paths["answers"])])
    found = judge_pairs(judge, pairs, Store(STORE))
    write_parquet(paths["judged"], found, paths.made_by(judged_by=provenance(judge)))


@stage(
    EACH_FITTED_CELL,
    outputs={"judged": "results/{cell}/sweep_judged.parquet"},
    inputs=lambda study, cell: {
        "questions": cells.questions(cell.dataset),
        "answers": f"{cell.folder}/sweep.parquet",
    },
    depends=lambda study, cell: {"judge": judge_settings(study.datasets[cell.dataset].judge)},
)
def judge_sweep(study: Study, cell: Cell, paths: Paths) -> None:
    """Judge each distinct answer of the sweep once."""
    write_verdicts(study.datasets[cell.dataset].judge, paths)


@stage(
    EACH_FITTED_CELL,
    outputs={
        "chosen": "results/{cell}/tuned.json",
        "grid": "results/{cell}/grid.parquet",
        "bundles": "results/{cell}/bundles",
    },
    inputs=lambda study, cell: {
        "questions": cells.questions(cell.dataset),
        "sweep": f"{cell.folder}/sweep.parquet",
        "sweep_mc": f"{cell.folder}/sweep_mc.parquet",
        "sweep_judged": f"{cell.folder}/sweep_judged.parquet",
        **_fitted_files(cell),
    },
    depends=_tuning,
)
def tune(study: Study, cell: Cell, paths: Paths) -> None:
    """Choose each method's setting in each fold, from its results on validation questions."""
    from fasb.artifacts import write_json, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.frames import read_table
    from fasb.study.tune import tune

    frames = [read_table(path) for path in paths.every("sweep", "sweep_mc", "sweep_judged")]
    folds = read_fitted(study, cell, paths.every(*FITTED))
    tuned = tune(folds, study.chosen_methods, read_questions(paths["questions"]), *frames)
    made_by = paths.made_by()
    tuned.save_bundles(paths["bundles"], made_by)
    write_parquet(paths["grid"], tuned.grid, made_by)
    write_json(paths["chosen"], tuned.chosen, made_by)
