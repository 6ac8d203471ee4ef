"""Questions, their folds, what the model computes on them, and what it answers by itself."""

from dataclasses import asdict
from typing import Any

from fasb.errors import DataError
from fasb.extensions import code_hash, find, settings_of
from fasb.fitting.reads import Read
from fasb.settings import ModelSettings
from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.stage import (
    EACH_DATASET,
    EACH_FITTED_CELL,
    Paths,
    Scope,
    digests_of,
    model_content,
    model_settings,
    stage,
)

CHAT = {"chat", "system", "turns", "template", "thinks"}
PROBED = {"probe", "next_question"} | CHAT
PROMPTED = PROBED | {"prefix", "question", "answer"}
ASKED = {"prefix", "question", "open", "stop", "question_mark", "answer_mark", "marks"} | CHAT
# the batch too: the last digits of logits depend on it, and so may a token
WRITTEN = {"tokens", "temperature", "top_p", "seed", "batch"}
"""Prompt settings that banks of bare texts and banks behind the prompt depend on, and prompt and
decoding settings that unsteered answers depend on."""


def _each_bank(study: Study) -> list[dict[str, Any]]:
    found = []
    for model, dataset in cells.pairs(cells.fitting(study)):
        for read in cells.reads(study, dataset):
            found.append({"model": model, "dataset": dataset, "read": read})
    return found


def _each_trace(study: Study) -> list[dict[str, Any]]:
    found = cells.pairs(cells.cells(study))
    return [{"model": m, "dataset": d} for m, d in found if cells.answered(study, d)]


def _questions_settings(study: Study, dataset: str) -> dict[str, Any]:
    entry = study.datasets[dataset]
    return {
        **entry.model_dump(mode="json", include={"load", "settings", "limit"}),
        "code": code_hash("data", entry.load),
        "files": digests_of(entry.load, entry.settings),
    }


@stage(
    EACH_DATASET,
    outputs={"questions": "results/questions/{dataset}.parquet"},
    inputs=lambda study, dataset: {},
    depends=_questions_settings,
)
def questions(study: Study, dataset: str, paths: Paths) -> None:
    """Write a dataset's questions."""
    from fasb.data.protocol import write_questions
    from fasb.data.sources import origin
    from fasb.data.splits import first

    entry, where = study.datasets[dataset], f"datasets.{dataset}"
    module = find("data", entry.load)
    own = settings_of("data", entry.load, entry.settings, f"{where}.settings")
    found = list(module.load(own))  # somebody's own may yield them
    # a module of plain texts has the same `load`
    if any(isinstance(one, str) for one in found):
        raise DataError(
            f"{where}.load: {entry.load} gives texts, not questions; name it in `side_effects`"
        )
    if entry.limit is not None:
        found = first(found, entry.limit)
    write_questions(paths["questions"], found, paths.made_by(source=origin(module, own)))


def _split_settings(study: Study, cell: Cell) -> dict[str, Any]:
    section = study.sections(cell.dataset).split.model_dump(mode="json")
    return section if cell.train_share == 1 else {**section, "train_share": cell.train_share}


@stage(
    EACH_FITTED_CELL,
    outputs={"splits": "results/{cell}/splits.json"},
    inputs=lambda study, cell: {"questions": cells.questions(cell.dataset)},
    depends=lambda study, cell: {"split": _split_settings(study, cell)},
)
def splits(study: Study, cell: Cell, paths: Paths) -> None:
    """Divide questions into folds, and each fold into train, validation and test."""
    from fasb.data.protocol import read_questions
    from fasb.data.splits import split, write_splits

    section = study.sections(cell.dataset).split
    if cell.train_share < 1:
        section = section.model_copy(update={"train_share": cell.train_share})
    folds = split(read_questions(paths["questions"]), section, cell.seed)
    write_splits(paths["splits"], folds, paths.made_by(seed=cell.seed))


@stage(
    Scope("{model}/{dataset}/{read}", _each_bank),
    outputs={"bank": "results/activations/{model}/{dataset}/{read}.h5"},
    inputs=lambda study, model, dataset, read: {
        "model": cells.trained(study, model),
        "questions": cells.questions(dataset),
    },
    depends=lambda study, model, dataset, read: {
        "model": model_content(study, model),
        "read": read,
        "prompt": study.sections(dataset).prompt.model_dump(
            mode="json", include=PROMPTED if Read.named(read).prompted else PROBED
        ),
        **study.sections(dataset).dump("activations"),
    },
)
def activations(study: Study, model: str, dataset: str, read: str, paths: Paths) -> None:
    """Read the outputs of all heads at the end of every reference answer; a killed run goes on."""
    from fasb.data.protocol import read_questions
    from fasb.fitting.bank import collect, texts_of
    from fasb.fitting.reads import Read
    from fasb.model.chat import render_of
    from fasb.model.load import load_model

    sections = study.sections(dataset)
    asked = read_questions(paths["questions"])
    loaded = load_model(ModelSettings(**model_settings(study, model)))
    prompt, seed = sections.prompt, sections.activations.seed
    texts = texts_of(asked, Read.named(read), prompt, seed, render_of(loaded, prompt))
    collect(loaded, texts, sections.activations, paths["bank"], paths.made_by())


@stage(
    Scope("{model}/{dataset}", _each_trace),
    outputs={"trace": "results/traces/{model}/{dataset}.parquet"},
    inputs=lambda study, model, dataset: {
        "model": cells.trained(study, model),
        "questions": cells.questions(dataset),
    },
    depends=lambda study, model, dataset: {
        "model": model_content(study, model),
        "prompt": study.sections(dataset).prompt.model_dump(mode="json", include=ASKED),
        "decoding": study.sections(dataset).decoding.model_dump(mode="json", include=WRITTEN),
    },
)
def trace(study: Study, model: str, dataset: str, paths: Paths) -> None:
    """Let the model answer all questions unsteered."""
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.model.generation import passed_over
    from fasb.model.load import load_model
    from fasb.study.run import traced

    sections = study.sections(dataset)
    loaded = load_model(ModelSettings(**model_settings(study, model)))
    found = traced(loaded, read_questions(paths["questions"]), sections.prompt, sections.decoding)
    of_model = {
        "fingerprint": asdict(loaded.fingerprint),
        "passed_over": passed_over(loaded.model),
    }
    write_parquet(paths["trace"], found, paths.made_by(**of_model))
