"""Whether all that a study needs can be had: models, datasets and judges; loads no weights.

In: a `Study`. Out: a line for each, with the remedy where something is missing; and one for each
method some of whose settings can do nothing. The hub, the cache and files are asked as the jobs
will ask them; the memory of a job's own machine is not, as that may be another one.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from fasb.data.splits import first, split
from fasb.errors import ConfigError, FasbError
from fasb.extensions import find, settings_of, validated
from fasb.search import recipes_of_one
from fasb.settings import OF_HEADS
from fasb.study.cells import asked, fitting
from fasb.study.config import Study
from fasb.study.entries import DatasetEntry, JudgeEntry, SideEffectsEntry
from fasb.world.pretrain import PretrainSettings

Need = tuple[str, str, str, bool]
"""Kind, name, what is said of it, and whether it can be had."""


def needs(study: Study) -> Iterator[Need]:
    """Yield all that the run names, each as soon as it is known; questions are loaded."""
    for name in dict.fromkeys(cell.model for cell in study.run.cells):
        yield _asked("model", name, partial(_model, study, name))
    for name in asked(study):
        yield _asked("dataset", name, partial(_questions, study, name))
    datasets = dict.fromkeys(cell.dataset for cell in study.run.cells)
    for name in datasets:
        if (effects := study.datasets[name].side_effects) is not None:
            yield _asked("texts", name, partial(_texts, effects))
    for name in datasets:
        for key, judge in study.datasets[name].judges.items():
            yield _asked("judge", name, partial(_judge, judge, f"datasets.{name}.{key}.settings"))
    yield from dict.fromkeys(idle(study, datasets))


def idle(study: Study, datasets: Iterable[str]) -> Iterator[Need]:
    """Yield the methods with settings that can never fire, which are then the unsteered model."""
    methods = study.chosen_methods
    for dataset in datasets:
        # no policy hangs on the prompt, which may be in a file that is missing
        sections = study.sections(dataset, own_prompt=False)
        tokens = sections.decoding.tokens
        for name in methods:
            recipes = recipes_of_one(methods, name, sections)
            # not to steer is a setting of every grid, and means it
            policies = [one.policy for one in recipes if one.policy.when != "never"]
            never = [policy.s for policy in policies if policy.never_fires(tokens)]
            if never:
                said = (
                    f"{len(never)} of {len(policies)} settings never fire: without going back, s "
                    f"of {min(never)} or more is too late in answers of {tokens} tokens; set s to "
                    f"{tokens - 1} or less"
                )
                yield "method", name, said, len(never) < len(policies)


def _asked(kind: str, name: str, ask: Callable[[], str]) -> Need:
    try:
        return kind, name, ask(), True
    except FasbError as error:
        return kind, name, str(error), False


def _model(study: Study, name: str) -> str:
    from fasb.model.access import config_of
    from fasb.model.load import available

    entry = study.models[name]
    if entry.world is not None:
        made = validated(PretrainSettings, entry.pretrain, f"models.{name}.pretrain")
        _check_heads(study, name, made.layers, made.heads)
        return "trained by the study"
    said = available(entry.loading)
    config = config_of(entry.loading).get_text_config(decoder=True)
    n_heads = getattr(config, "num_attention_heads", None)
    # a few architectures have another number in every layer
    if isinstance(n_heads, int):
        _check_heads(study, name, config.num_hidden_layers, n_heads)
    return said


def _check_heads(study: Study, model: str, n_layers: int, n_heads: int) -> None:
    """Refuse a method or gate that asks for more heads than the model has.

    Raises:
        ConfigError: naming the method and its key.
    """
    most = n_layers * n_heads
    for dataset in {cell.dataset for cell in fitting(study) if cell.model == model}:
        for method, key, n in _heads_asked(study, dataset):
            if n > most:
                raise ConfigError(
                    f"methods.{method}: {key} {n}, but this model has {most} heads ({n_layers} "
                    f"layers x {n_heads}); set {key} between 1 and {most}"
                )


def _heads_asked(study: Study, dataset: str) -> Iterator[tuple[str, str, int]]:
    """Yield method, key and number of heads of every point of the run's grids."""
    methods, sections = study.chosen_methods, study.sections(dataset)
    for name, method in methods.items():
        # what is like another takes its settings
        recipes = [] if method.like is not None else recipes_of_one(methods, name, sections)
        for recipe in recipes:
            for settings in (recipe.method, recipe.gate_settings):
                for key, field in type(settings).model_fields.items() if settings else ():
                    if OF_HEADS in field.metadata:
                        yield name, key, getattr(settings, key)


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
    if hasattr(module, "available"):
        return str(module.available(settings))
    return "its settings are right"
