"""A study's configuration: one validated value made of a YAML mapping.

In: the mapping that Snakemake merged from the config files. Out: a `Study`. Definitions (models,
datasets, methods) are mappings, selections (`run`) are lists, because `--configfile` merges the
first and replaces the second. Knows no file of the study and no job; `cells.py` does. Imports
neither torch nor pandas.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PrivateAttr, field_validator

from fasb.errors import ConfigError, DataError, did_you_mean
from fasb.extensions import find, settings_of, validated
from fasb.fitting.recipe import Recipe
from fasb.search import Method, check_printed, recipes_of
from fasb.settings import IN_A_CHAT, PLAIN, StageSettings, check_places
from fasb.study.entries import (
    CellEntry,
    DatasetEntry,
    JobSettings,
    ModelEntry,
    RunSettings,
    WandbSettings,
)
from fasb.study.layers import are_mappings, merge, origin, read_mapping
from fasb.study.names import check_model_name, check_names
from fasb.study.worlds import check_different, check_worlds, pooled, write_out

PRESETS = Path(__file__).parents[1] / "presets"
BASES = (Path("config/models.yaml"), Path("config/config.yaml"))
"""What every study's own file is laid over, in this order."""
WORLD = "fasb.world.questions"
"""What loads the questions of a world."""


class Study(StageSettings):
    """A whole study."""

    preset: str = Field(
        "default", description="A file of fasb/presets/: defaults over all sections"
    )
    models: dict[str, ModelEntry]
    datasets: dict[str, DatasetEntry]
    methods: dict[str, Method]
    health: dict[str, Any] = Field(
        {}, description="fasb.world.health.HealthSettings: what a trained world must show"
    )
    run: RunSettings
    wandb: WandbSettings = WandbSettings()
    _promptless: set[str] = PrivateAttr(default_factory=set)
    _known: dict[Any, Any] = PrivateAttr(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _labelled(cls, methods: Any) -> Any:
        """Where a method has no label, its place in a crossing is one, or its name."""
        if not are_mappings(methods) or not are_mappings(*methods.values()):
            return methods
        labelled = {}
        for name, entry in methods.items():
            place = entry.get("crossed") or [name]
            labelled[name] = {"label": ", ".join(map(str, place)), **entry}
        return labelled

    @property
    def chosen_methods(self) -> dict[str, Method]:
        """The methods of the run, in its order."""
        return {name: self.methods[name] for name in self.run.methods}

    def recipes(self, dataset: str) -> list[Recipe]:
        """Return what every point of every method's grid asks for on a dataset, made once."""
        found: list[Recipe] = self.once(
            ("recipes", dataset), lambda: recipes_of(self.chosen_methods, self.sections(dataset))
        )
        return found

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, made once: a workflow asks for every job's targets again."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @property
    def model_jobs(self) -> dict[str, JobSettings]:
        """What jobs of the run's models ask for, by config key."""
        return {f"models.{cell.model}": self.models[cell.model].job for cell in self.run.cells}

    @property
    def judge_jobs(self) -> dict[str, JobSettings]:
        """What jobs of the judges of the run's datasets ask for, by config key."""
        found = {}
        for cell in self.run.cells:
            for key, judge in self.datasets[cell.dataset].judges.items():
                found[f"datasets.{cell.dataset}.{key}"] = judge.job
        return found

    def do_without_missing_prompts(self) -> dict[str, str]:
        """Leave out prompts whose files cannot be had, to plan without network, not to run.

        Returns what is missing, by dataset.
        """
        missing = {}
        for cell in self.run.cells:
            try:
                _own_prompt(self.datasets[cell.dataset])
            except DataError as error:
                missing[cell.dataset] = str(error)
        self._promptless.update(missing)
        return missing

    def sections(self, dataset: str, own_prompt: bool = True) -> StageSettings:
        """Return a dataset's settings, by stage.

        Later ones win: field default, preset, study, the set's own prompt, the dataset's keys.
        Under `prompt.chat: on` the plain text of preset and set is left out (D1).
        own_prompt: whether the set's own prompt is asked for, whose files may have to be fetched.

        Raises:
            ConfigError: the preset does not exist or is wrong.
            DataError: the set's own prompt is made of a file that is missing.
        """
        entry = self.datasets[dataset]
        own_prompt = own_prompt and dataset not in self._promptless
        preset, own = read_preset(self.preset), _own_prompt(entry) if own_prompt else {}
        # keys that were given, no defaults: these would hide what the layers below say
        given = [_given(self), _given(entry)]
        if _asks_by_chat(given):
            preset = {**preset, "prompt": _for_a_chat(preset.get("prompt", {}))}
            own = _for_a_chat(own)
        merged = {}
        for name, field in StageSettings.model_fields.items():
            values: dict[str, Any] = {}
            for layer in (preset, given[0], {"prompt": own}, given[1]):
                values |= layer.get(name, {})
            where = f"datasets.{dataset}.{name}"
            merged[name] = validated(type(field.default), values, where)
        found = StageSettings(**merged)
        if found.prompt.chat == "auto":
            raise ConfigError(f"datasets.{dataset}.prompt.chat: auto; a study says on or off")
        check_places(found.prompt, found.scoring, f"datasets.{dataset}.")
        return found


def _own_prompt(entry: DatasetEntry) -> dict[str, Any]:
    """Return what the dataset's module says in `prompt(settings)` or `PROMPT`, if it has either."""
    module = find("data", entry.load)
    if hasattr(module, "prompt"):
        made: dict[str, Any] = module.prompt(module.Settings(**entry.settings))
        return made
    return dict(getattr(module, "PROMPT", {}))


def _asks_by_chat(given: Sequence[dict[str, dict[str, Any]]]) -> bool:
    """Whether the last of the user's layers that says how to ask, says by the chat template."""
    chat = None
    for layer in given:
        chat = layer.get("prompt", {}).get("chat", chat)
    return chat == "on"


def _for_a_chat(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt that nobody wrote into the config without what is for plain text only."""
    return {key: value for key, value in prompt.items() if key not in (*PLAIN, *IN_A_CHAT)}


def _given(sections: StageSettings) -> dict[str, dict[str, Any]]:
    """Only the keys that the user wrote."""
    dumped: dict[str, dict[str, Any]] = sections.model_dump(
        include=set(StageSettings.model_fields), exclude_unset=True
    )
    return dumped


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """Return the sections of `fasb/presets/<name>.yaml`.

    Raises:
        ConfigError: there is no such preset.
    """
    path, known = PRESETS / f"{name}.yaml", [file.stem for file in PRESETS.iterdir()]
    if name not in known:
        raise ConfigError(f"preset: {name!r} does not exist; {did_you_mean(name, known)}")
    given = yaml.safe_load(path.read_text("utf-8")) or {}
    return _given(validated(StageSettings, given, f"fasb/presets/{name}.yaml"))


def load(
    mapping: dict[str, Any],
    where: str | Sequence[str | Path] = "config/config.yaml",
    prompts: bool = True,
) -> Study:
    """Return the study that `mapping` describes, every name and all settings of extensions checked.

    `where` names the file, or the files whose merger `mapping` is; an error names the last that has
    its key. prompts: whether the prompts that sets bring must be at hand; a plan needs none.

    Raises:
        ConfigError: `<file>: <key>: <what is wrong>; <remedy>`, one line.
    """
    if isinstance(where, str):
        return _study(mapping, [where], prompts)
    for path in where:
        # whoever merged them may have taken the last of a key that is there twice, unasked
        read_mapping(Path(path))
    return _study(mapping, where, prompts)


def _study(mapping: dict[str, Any], files: Sequence[str | Path], prompts: bool) -> Study:
    """Return the study of a mapping whose files have been read; as for `load`."""
    try:
        # `run.worlds` is written out first: what is validated has no such key
        study: Study = validated(Study, write_out(mapping), "")
        _check_names(study)
        _check_extensions(study)
        for dataset in {cell.dataset for cell in study.run.cells}:
            study.sections(dataset, own_prompt=prompts)
    except ConfigError as error:
        raise ConfigError(f"{origin(str(error), files)}: {error}") from None
    return study


def bases(given: Sequence[str | Path], workflow: str | Path) -> list[str]:
    """Return the files that `given` is laid over in the working directory, for the Snakefile.

    Those that are there; where none is (`--directory`), the repository's, for its own files and
    where nothing is given. Any other file is a whole study by itself.

    workflow: the folder of the Snakefile.
    """
    if any(base.exists() for base in BASES):
        return [str(base) for base in BASES]
    root = Path(workflow).resolve().parent
    own = [path for path in map(Path, given) if path.resolve().parent == root / "config"]
    return [str(root / base) for base in BASES] if own or not given else []


def load_study(paths: Sequence[Path] = (), prompts: bool = True) -> Study:
    """Return the study that `snakemake --configfile PATHS` runs: the files laid over `BASES`.

    prompts: as for `load`.

    Raises:
        ConfigError: the working directory is not the repository's root, or a file or the study is
            wrong.
    """
    for base in BASES:
        if not base.is_file():
            raise ConfigError(f"{base}: not in {Path.cwd()}; change to the root of the repository")
    return load_files([*BASES, *(path for path in paths if path not in BASES)], prompts)


def load_files(paths: Sequence[Path], prompts: bool = True) -> Study:
    """Return the study of these YAML files, merged as Snakemake merges `--configfile`.

    Mappings merge, lists replace. prompts: as for `load`.

    Raises:
        ConfigError: a file is missing or not a mapping, or the study is wrong.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_mapping(path))
    return _study(merged, paths, prompts)


def _check_names(study: Study) -> None:
    for kind in ("models", "datasets", "methods"):
        check_names(kind, getattr(study, kind))
    for name, model in study.models.items():
        if bool(model.path) == (model.world is not None):  # neither, or both
            raise ConfigError(f"models.{name}: needs either path or world; give one of them")
        check_model_name(name)
    _check_run(study)
    _check_slurm(study.model_jobs)
    _check_slurm(study.judge_jobs)


def _check_slurm(jobs: dict[str, JobSettings]) -> None:
    """Refuse what only some ask for: one rule runs them all, with the profile's value or its own.

    Raises:
        ConfigError: naming one that asks and one that does not.
    """
    keys = sorted({key for job in jobs.values() for key in job.slurm})
    for key in keys:
        # of the config's keys only `slurm_extra` keeps the prefix of Snakemake's name
        name = key.removeprefix("slurm_") if key != "slurm_extra" else key
        asking = [where for where, job in jobs.items() if key in job.slurm]
        for where in jobs:
            if where not in asking:
                raise ConfigError(
                    f"{where}.job.{name}: unset, but {asking[0]} has one; give both or neither"
                )


def _check_whole(name: str, model: ModelEntry) -> None:
    """Refuse what lies between the stages of a cell, where one job does them all."""
    if model.world is not None:
        raise ConfigError(
            f"models.{name}: is trained by the study and judged by its cells' anchors, before they "
            "go on; remove run.jobs: cells"
        )
    if model.job.shards > 1:
        raise ConfigError(
            f"models.{name}.job.shards: shares the questions of a stage among jobs; remove it or "
            "run.jobs: cells"
        )


def _check_run(study: Study) -> None:
    run = study.run
    for key in ("cells", "seeds", "methods"):
        entries = getattr(run, key)
        if len(set(entries)) < len(entries):
            raise ConfigError(f"run.{key}: one entry appears twice; remove it")
    folders = [cell.folder for cell in run.cells]
    for i, cell in enumerate(run.cells):
        if cell.folder in folders[:i]:
            first = folders.index(cell.folder)
            raise ConfigError(
                f"run.cells.{i}: its folder is that of cell {first}; change train_share, or names "
                "that differ in their dots only"
            )
        _check_defined(f"run.cells.{i}.model", cell.model, study.models)
        _check_defined(f"run.cells.{i}.dataset", cell.dataset, study.datasets)
        _check_source(f"run.cells.{i}", cell, study.run.cells)
        if run.jobs == "cells":
            _check_whole(cell.model, study.models[cell.model])
        _check_pooled(study, cell)
    for name in run.methods:
        _check_defined("run.methods", name, study.methods)
        method = study.methods[name]
        if method.mean_strength and method.like is None:
            raise ConfigError(f"methods.{name}.mean_strength: of which method? give `like` as well")
        if method.like is not None:
            _check_defined(f"methods.{name}.like", method.like, run.methods)
            # one step only: what it is like has to be tuned itself
            if method.grid or study.methods[method.like].like:
                raise ConfigError(
                    f"methods.{name}.like: needs no grid, and a method with its own; remove one"
                )
        _check_judged(study, name)
    check_printed(study.chosen_methods)


def _check_pooled(study: Study, cell: CellEntry) -> None:
    """Refuse names that tables would average over as over worlds, where they are none."""
    numbers = {name: name.removeprefix(pooled(name)) for name in (cell.model, cell.dataset)}
    if numbers[cell.model] == numbers[cell.dataset]:
        return
    is_world = {
        "models": study.models[cell.model].world is not None,
        "datasets": study.datasets[cell.dataset].load == WORLD,
    }
    for section, name in (("models", cell.model), ("datasets", cell.dataset)):
        if numbers[name] and not is_world[section]:
            raise ConfigError(
                f"{section}.{name}: tables average over names that differ in the number behind "
                "'-s' alone, as over worlds; give it another name"
            )


def _check_judged(study: Study, name: str) -> None:
    """Refuse a method that waits for verdicts which no judge will give."""
    method = study.methods[name]
    for cell in study.run.cells:
        dataset = study.datasets[cell.dataset]
        tuned = method.mean_strength and cell.source is None
        # of choices nobody asks a judge, and there an oracle leaves all as it is
        if dataset.judge is None and (tuned or (method.asks_judge and dataset.exact)):
            raise ConfigError(
                f"run.methods: {name} needs verdicts on the answers of {cell.dataset}, which has "
                f"no judge; set datasets.{cell.dataset}.judge, or leave the method out"
            )


def _check_source(where: str, cell: CellEntry, entries: Sequence[CellEntry]) -> None:
    source = cell.source
    if source is None:
        return
    if cell.train_share < 1:
        raise ConfigError(
            f"{where}.train_share: nothing is fitted in a cell with `from`; remove one of the two"
        )
    if (source.model, source.dataset) == (cell.model, cell.dataset):
        raise ConfigError(f"{where}.from: is the cell itself; name another, or remove the key")
    fits = [(e.model, e.dataset) for e in entries if e.source is None and e.train_share == 1]
    if (source.model, source.dataset) not in fits:
        wanted = f"{{model: {source.model}, dataset: {source.dataset}}}"
        raise ConfigError(f"{where}.from: no cell of this run fits it; add {wanted} to run.cells")


def _check_defined(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(f"{where}: {name!r} is not defined; {did_you_mean(name, known)}")


def _check_extensions(study: Study) -> None:
    for name, dataset in study.datasets.items():
        where = f"datasets.{name}"
        _check_extension("data", dataset.load, f"{where}.load", dataset.settings)
        _check_side_effects(study, name)
        for key, judge in dataset.judges.items():
            _check_extension("judges", judge.use, f"{where}.{key}.use", judge.settings)
        if dataset.second_judge is not None and dataset.judge in (None, dataset.second_judge):
            raise ConfigError(
                f"{where}.second_judge: needs another beside it; give `judge`, or remove it"
            )
    # methods look at no prompt, and a plan must be possible where its files are not
    sections = study.sections(study.run.cells[0].dataset, own_prompt=False)
    for name, method in study.methods.items():
        if method.use is not None:
            _find("methods", method.use, f"methods.{name}.use")
        if method.gate is not None:
            _find("gates", method.gate, f"methods.{name}.gate")
        method.check(sections, f"methods.{name}")
        # of another that this run has not is said where methods are chosen
        if method.like is not None and method.like in study.methods:
            method.check_like(study.methods[method.like], f"methods.{name}")
    check_worlds(study.models, study.health)
    check_different(study.models, [(cell.model, cell.dataset) for cell in study.run.cells])


def _check_side_effects(study: Study, dataset: str) -> None:
    effects, key = study.datasets[dataset].side_effects, f"datasets.{dataset}.side_effects"
    if effects is None:
        return
    _check_extension("data", effects.load, f"{key}.load", effects.settings)
    if effects.choices is not None:
        _check_defined(f"{key}.choices", effects.choices, study.datasets)


def _check_extension(package: str, use: str, key: str, settings: dict[str, Any]) -> None:
    """`key` is where the module is named; its settings stand beside it."""
    _find(package, use, key)
    settings_of(package, use, settings, f"{key.rpartition('.')[0]}.settings")


def _find(package: str, use: str, key: str) -> None:
    try:
        find(package, use)
    except ConfigError as error:
        # the package, with which the message begins, means nothing to who wrote a config
        raise ConfigError(f"{key}: {str(error).split(': ', 1)[1]}") from None
