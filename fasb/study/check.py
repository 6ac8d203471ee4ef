"""Whether everything a study needs can be had: its models, datasets and judges, without loading a weight.

In: a `Study`. Out: a line for each, with the remedy where something is missing. The hub, the cache and files are asked
as the jobs will ask them; the memory of a job's own machine is not, as that may be another one.
"""

from collections.abc import Iterator

from fasb.errors import FasbError
from fasb.extensions import find, settings_of
from fasb.settings import ModelSettings
from fasb.study.config import Study

Need = tuple[str, str, str, bool]
"""Kind, name, what is said of it, and whether it can be had."""


def needs(study: Study) -> Iterator[Need]:
    """Everything that the run names, each as soon as it is known; questions are loaded, weights are not."""
    models = list(dict.fromkeys(cell.model for cell in study.run.cells))
    datasets = list(dict.fromkeys(cell.dataset for cell in study.run.cells))
    judged = [name for name in datasets if study.datasets[name].judge is not None]
    for kind, names in (("model", models), ("dataset", datasets), ("judge", judged)):
        for name in names:
            yield _asked(study, kind, name)


def _asked(study: Study, kind: str, name: str) -> Need:
    try:
        return kind, name, ASK[kind](study, name), True
    except FasbError as error:
        return kind, name, str(error), False


def _model(study: Study, name: str) -> str:
    from fasb.model.load import available

    entry = study.models[name]
    if entry.world is not None:
        return "trained by the study"
    return available(ModelSettings(**entry.model_dump(include=set(ModelSettings.model_fields))))


def _dataset(study: Study, name: str) -> str:
    entry = study.datasets[name]
    settings = settings_of("data", entry.load, entry.settings, f"datasets.{name}.settings")
    return f"{len(find('data', entry.load).load(settings)):,} questions"


def _judge(study: Study, name: str) -> str:
    judge = study.datasets[name].judge
    assert judge is not None
    settings = settings_of("judges", judge.use, judge.settings, f"datasets.{name}.judge.settings")
    module = find("judges", judge.use)
    return str(module.available(settings)) if hasattr(module, "available") else "its settings are right"


ASK = {"model": _model, "dataset": _dataset, "judge": _judge}
