"""Whether all that a study needs can be had: models, datasets and judges; loads no weights.

In: a `Study`. Out: a line for each, with the remedy where something is missing. The hub, the cache
and files are asked as the jobs will ask them; the memory of a job's own machine is not, as that may
be another one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fasb.data.splits import first, split
from fasb.errors import FasbError
from fasb.extensions import find, settings_of
from fasb.settings import ModelSettings
from fasb.study.cells import asked, fitting
from fasb.study.config import Study
from fasb.study.entries import DatasetEntry, JudgeEntry, ModelEntry, SideEffectsEntry

Need = tuple[str, str, str, bool]
"""Kind, name, what is said of it, and whether it can be had."""


def needs(study: Study) -> Iterator[Need]:
    """Yield all that the run names, each as soon as it is known; questions are loaded."""
    for name in dict.fromkeys(cell.model for cell in study.run.cells):
        yield _asked("model", name, partial(_model, study.models[name]))
    for name in asked(study):
        yield _asked("dataset", name, partial(_questions, study, name))
    datasets = dict.fromkeys(cell.dataset for cell in study.run.cells)
    for name in datasets:
        if (effects := study.datasets[name].side_effects) is not None:
            yield _asked("texts", name, partial(_texts, effects))
    for name in datasets:
        for key, judge in study.datasets[name].judges.items():
            yield _asked("judge", name, partial(_judge, judge, f"datasets.{name}.{key}.settings"))


def _asked(kind: str, name: str, ask: Callable[[], str]) -> Need:
    try:
        return kind, name, ask(), True
    except FasbError as error:
        return kind, name, str(error), False


def _model(entry: ModelEntry) -> str:
    from fasb.model.load import available

    if entry.world is not None:
        return "trained by the study"
    # an entry's keys for the study (`world`, `job`) are unknown to a model's settings
    return available(ModelSettings(**entry.model_dump(include=set(ModelSettings.model_fields))))


def _loaded(entry: DatasetEntry | SideEffectsEntry) -> list[Any]:
    settings = settings_of("data", entry.load, entry.settings, "settings")
    found: list[Any] = find("data", entry.load).load(settings)
    return found


def _questions(study: Study, dataset: str) -> str:
    """Load the questions and divide them as the first cell that fits on them will."""
    entry = study.datasets[dataset]
    found = _loaded(entry)
    used = found if entry.limit is None else first(found, entry.limit)
    cell = next((cell for cell in fitting(study) if cell.dataset == dataset), None)
    if cell is not None:
        split(used, study.sections(dataset).split, cell.seed)
    return f"{len(found):,} questions"


def _texts(effects: SideEffectsEntry) -> str:
    return f"{len(_loaded(effects)):,} texts"


def _judge(judge: JudgeEntry, where: str) -> str:
    settings = settings_of("judges", judge.use, judge.settings, where)
    module = find("judges", judge.use)
    return (
        str(module.available(settings))
        if hasattr(module, "available")
        else "its settings are right"
    )
