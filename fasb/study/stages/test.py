"""Every method at its chosen setting on test questions."""

from typing import TYPE_CHECKING, Any

from fasb.data.protocol import Question, Split
from fasb.extensions import find, settings_of
from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.entries import SideEffectsEntry
from fasb.study.stage import (
    EACH_CELL,
    STORE,
    Paths,
    Scope,
    digests_of,
    each,
    extension,
    model_content,
    model_settings,
    part_of,
    stage,
)
from fasb.study.stages.tune import (
    judge_settings,
    oracle_settings,
    with_oracle,
    write_verdicts,
)

if TYPE_CHECKING:
    import fasb.study.evaluate
    import fasb.study.run


def _chosen(study: Study, cell: Cell) -> dict[str, str | list[str]]:
    """Return what every test needs: the model, its acceptance, and what was tuned for the cell."""
    return {
        "model": cells.trained(study, cell.model),
        "accepted": cells.accepted(study, cell.model),
        "chosen": f"{cell.fitted_in.folder}/tuned.json",
        "bundles": f"{cell.fitted_in.folder}/bundles",
    }


def _tested(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the model, the methods, and in transfer how the bundles' own questions differ."""
    tested = {"model": model_content(study, cell.model), "methods": list(study.run.methods)}
    if cell.source is None:
        return tested
    model, dataset = cell.source
    differs: dict[str, Any] = {"model": model != cell.model, "dataset": dataset != cell.dataset}
    if differs["dataset"]:
        sections = study.sections(cell.dataset)
        differs |= {**sections.dump("prompt", "scoring"), "tokens": sections.decoding.tokens}
    return {**tested, "transfer": differs}


def _runner(study: Study, cell: Cell, part: str = "1of1") -> "fasb.study.run.Runner":
    from fasb.study.run import Runner
    from fasb.study.shards import Shard

    # bundles of another model have its weights in their fingerprint
    siblings = cell.source is not None and cell.source[0] != cell.model
    return Runner.of(model_settings(study, cell.model), STORE, siblings, Shard.named(part))


def _bundles(study: Study, cell: Cell, paths: Paths) -> "fasb.study.evaluate.Bundles":
    from fasb.study.evaluate import Bundles

    # its own questions are put as they were when the bundles were tuned
    if cell.source is None or cell.source[1] == cell.dataset:
        return Bundles(paths["bundles"], study.run.methods)
    return Bundles(paths["bundles"], study.run.methods, study.sections(cell.dataset))


def _folds(cell: Cell, questions: list[Question], paths: Paths) -> list[Split]:
    """Return the folds; where they are another dataset's, as many that test all questions here."""
    from fasb.data.splits import all_tested, read_splits

    splits = read_splits(paths["splits"])
    if cell.source is None or cell.source[1] == cell.dataset:
        return splits
    return all_tested(questions, len(splits))


@stage(
    EACH_CELL,
    outputs={"generations": "results/{cell}/generations.parquet"},
    inputs=lambda study, cell: {
        "questions": cells.questions(cell.dataset),
        "splits": f"{cell.fitted_in.folder}/splits.json",
        "trace": cells.trace_file(study, cell.model, cell.dataset),
        # in transfer no sweep has asked this dataset's judge
        "judge": cells.checked_judges(study, cell.dataset) if cell.source is not None else [],
        **_chosen(study, cell),
    },
    depends=lambda study, cell: {
        **_tested(study, cell),
        "judge": cells.answered(study, cell.dataset),
        "decoding": {"batch": study.sections(cell.dataset).decoding.batch},
        **oracle_settings(study, cell),
    },
    sharded=True,
)
def generate(study: Study, cell: Cell, paths: Paths, part: str = "1of1") -> None:
    """Answer each fold's test questions with the tuned bundles, and unsteered."""
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.evaluate import generate
    from fasb.study.frames import read_table
    from fasb.study.shards import gathered

    questions, trace = read_questions(paths["questions"]), paths.get("trace")
    # shards have written their parts, or there are none and the work is done here
    found = gathered(paths.parts("generations"), questions, study.run.methods)
    if found is None:
        traces = None if trace is None else read_table(trace)
        traces = with_oracle(study, cell, traces, questions)
        folds, bundles = _folds(cell, questions, paths), _bundles(study, cell, paths)
        batch = study.sections(cell.dataset).decoding.batch
        found = generate(_runner(study, cell, part), folds, questions, traces, bundles, batch)
    write_parquet(paths["generations"], found, paths.made_by())


generate_part = part_of(generate)


def _each_judged(study: Study) -> list[dict[str, Any]]:
    first = [{"cell": cell, "judged": "judged"} for cell in cells.cells(study)]
    second = [{"cell": cell, "judged": "judged_second"} for cell in cells.twice_judged(study)]
    return first + second


@stage(
    Scope("{cell}/{judged}", _each_judged),
    outputs={"judged": "results/{cell}/{judged}.parquet"},
    inputs=lambda study, cell, judged: {
        "questions": cells.questions(cell.dataset),
        "answers": f"{cell.folder}/generations.parquet",
    },
    depends=lambda study, cell, judged: {
        "judge": judge_settings(cells.judge_entry(study, cell.dataset, judged))
    },
)
def judge(study: Study, cell: Cell, judged: str, paths: Paths) -> None:
    """Judge each distinct test answer once, by the first (`judged`) or the second judge."""
    write_verdicts(cells.judge_entry(study, cell.dataset, judged), paths)


@stage(
    EACH_CELL,
    outputs={"scores": "results/{cell}/scores.parquet"},
    inputs=lambda study, cell: {
        "questions": cells.questions(cell.dataset),
        "splits": f"{cell.fitted_in.folder}/splits.json",
        **_chosen(study, cell),
    },
    depends=lambda study, cell: {
        **_tested(study, cell),
        "scoring": {"batch": study.sections(cell.dataset).scoring.batch},
    },
    sharded=True,
)
def score(study: Study, cell: Cell, paths: Paths, part: str = "1of1") -> None:
    """Score the reference answers of each fold's test questions, tuned and unsteered."""
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.evaluate import score
    from fasb.study.shards import gathered

    questions = read_questions(paths["questions"])
    found = gathered(paths.parts("scores"), questions, study.run.methods)
    if found is None:
        folds, bundles = _folds(cell, questions, paths), _bundles(study, cell, paths)
        batch = study.sections(cell.dataset).scoring.batch
        found = score(_runner(study, cell, part), folds, questions, bundles, batch)
    write_parquet(paths["scores"], found, paths.made_by())


score_part = part_of(score)


def _side_effects(study: Study, cell: Cell) -> SideEffectsEntry:
    effects = study.datasets[cell.dataset].side_effects
    assert effects is not None  # only measured cells have this stage
    return effects


def _side_effects_settings(study: Study, cell: Cell) -> dict[str, Any]:
    effects = _side_effects(study, cell)
    sections = {}
    if effects.choices is not None:
        sections = study.sections(effects.choices).dump("prompt", "scoring")
    texts = extension("data", effects.load, effects.settings)
    texts["files"] = digests_of(effects.load, effects.settings)
    size = {"tokens": effects.tokens, "batch": effects.batch}
    return {**_tested(study, cell), "texts": texts, **size, **sections}


@stage(
    each("cell", cells.measured),
    outputs={"effects": "results/{cell}/side_effects.parquet"},
    inputs=lambda study, cell: {
        **_chosen(study, cell),
        "unrelated": [cells.questions(name) for name in cells.unrelated(study, cell.dataset)],
    },
    depends=_side_effects_settings,
)
def side_effects(study: Study, cell: Cell, paths: Paths) -> None:
    """Measure what the tuned bundles do to plain texts, and to answers to unrelated questions."""
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.sources import origin
    from fasb.study.evaluate import Unrelated, measure_side_effects
    from fasb.study.frames import read_mapping

    effects, where = _side_effects(study, cell), f"datasets.{cell.dataset}.side_effects.settings"
    own = settings_of("data", effects.load, effects.settings, where)
    module, unrelated = find("data", effects.load), paths.get("unrelated")
    asked = [] if unrelated is None else read_questions(unrelated)
    # rows of the other dataset that are for fitting are no test questions
    choices = [question for question in asked if question.role != "fit"]
    sections = study.sections(effects.choices or cell.dataset)
    measured = Unrelated(
        list(module.load(own)),
        effects.tokens,
        effects.batch,
        choices,
        sections.prompt,
        sections.scoring,
    )
    n_folds, bundles = len(read_mapping(paths["chosen"])), _bundles(study, cell, paths)
    found = measure_side_effects(_runner(study, cell), n_folds, bundles, measured)
    write_parquet(paths["effects"], found, paths.made_by(source=origin(module, own)))


def _metrics_settings(study: Study, cell: Cell) -> dict[str, Any]:
    names = {"model": cell.model, "dataset": cell.dataset, "seed": cell.seed}
    exact = {"exact": True} if study.datasets[cell.dataset].exact else {}
    return {**names, "methods": list(study.run.methods), **exact}


@stage(
    EACH_CELL,
    outputs={
        "metrics": "results/{cell}/metrics.parquet",
        "summary": "results/{cell}/metrics.json",
    },
    inputs=lambda study, cell: {
        "questions": cells.questions(cell.dataset),
        "generations": f"{cell.folder}/generations.parquet",
        "judged": f"{cell.folder}/judged.parquet",
        "scores": f"{cell.folder}/scores.parquet",
    },
    depends=_metrics_settings,
)
def metrics(study: Study, cell: Cell, paths: Paths) -> None:
    """Write one row of metrics per test question, and the means of each method."""
    from fasb.artifacts import stamp_of, write_json, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.frames import read_table
    from fasb.study.judging import named
    from fasb.study.metrics import question_metrics, summary

    frame = question_metrics(
        read_questions(paths["questions"]),
        read_table(paths["generations"]),
        read_table(paths["judged"]),
        read_table(paths["scores"]),
        study.datasets[cell.dataset].exact,
    )
    judge = named(stamp_of(paths["judged"])["provenance"])
    made_by = paths.made_by(judge=judge)
    write_parquet(paths["metrics"], frame, made_by)
    write_json(paths["summary"], summary(frame, study.run.methods, judge), made_by)
