"""A study's configuration: one validated value made of a YAML mapping.

In: the mapping that Snakemake merged from the config files. Out: a `Study`. Definitions (models,
datasets, methods) are mappings, selections (`run`) are lists, because `--configfile` merges the
first and replaces the second. Knows no file of the study and no job; `cells.py` does. Imports
neither torch nor pandas.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator

from fasb.errors import ConfigError, did_you_mean
from fasb.extensions import find, settings_of, validated
from fasb.fitting.recipe import Recipe
from fasb.search import Method, recipes_of
from fasb.settings import JudgeSettings, ModelSettings, Section, Seed, StageSettings
from fasb.study.layers import are_mappings, merge, origin, read_mapping

PRESETS = Path(__file__).parents[1] / "presets"
BASES = (Path("config/models.yaml"), Path("config/config.yaml"))
"""What every study's own file is laid over, in this order; the Snakefile names the same files."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names become folders and wildcards."""


class JobSettings(Section):
    """What jobs that run a model ask of the machine or the cluster."""

    gpu: int | None = Field(
        None,
        ge=0,
        le=64,
        description="GPUs of a job; unset: one where the model's device is not the CPU",
    )
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of a job")
    mem_mb: int = Field(4000, ge=1, le=10**8, description="Memory of a job, in MB")
    runtime: int = Field(
        60, ge=1, le=10**6, description="Time limit of a job's first attempt, in minutes"
    )


class ModelSize(Section):
    """A model's published size; memory and disk follow from it, nothing is loaded by it."""

    parameters: float = Field(
        gt=0, description="In billions; input and output embeddings that are one count once"
    )
    layers: int = Field(ge=1)
    heads: int = Field(ge=1, description="Query heads of a layer")
    kv_heads: int = Field(ge=1, description="Key and value heads of a layer")
    head_dim: int = Field(ge=1, description="Width of a head")


class ModelEntry(ModelSettings):
    """A model from the hub or a folder (`path`), or one that the study trains (`world`)."""

    path: str = Field("", description="Hub id or local folder of a causal LM; not with `world`")
    world: dict[str, Any] | None = Field(
        None, description="fasb.world.text.WorldSettings of the texts it reads"
    )
    pretrain: dict[str, Any] = Field({}, description="fasb.world.pretrain.PretrainSettings")
    size: ModelSize | None = Field(
        None, description="What `fasb plan` reckons with; needed for nothing else"
    )
    job: JobSettings = JobSettings()

    @property
    def gpu(self) -> int:
        """GPUs of each job that runs this model."""
        return int(self.device != "cpu") if self.job.gpu is None else self.job.gpu


class JudgeEntry(JudgeSettings):
    """A judge of the study, and what its jobs ask for."""

    job: JobSettings = JobSettings(gpu=0, threads=1)


class SideEffectsEntry(Section):
    """Plain texts, and unrelated choices, on which every tuned method is tried too."""

    load: str = Field(
        description="A file of fasb/data/, or a dotted path, whose `load` gives texts: `plain_text`"
    )
    settings: dict[str, Any] = Field({}, description="The module's own settings")
    tokens: int = Field(128, ge=2, description="Tokens that each text is cut to")
    batch: int = Field(8, ge=1, description="Texts in one pass")
    choices: str | None = Field(
        None, description="A dataset of the study whose test questions are asked as well"
    )


class DatasetEntry(StageSettings):
    """Questions, their judge, and the settings that hold for this dataset alone."""

    load: str = Field(description="A file of fasb/data/, or a dotted path")
    settings: dict[str, Any] = Field({}, description="The module's own settings")
    limit: int | None = Field(
        None, ge=1, description="Only the first so many of each half, or of each role; unset: all"
    )
    exact: bool = Field(
        False,
        description="Test answers are also written, and are right where they open with the best",
    )
    judge: JudgeEntry | None = Field(
        None, description="Without one no text is generated; methods are tuned on MC1"
    )
    second_judge: JudgeEntry | None = Field(
        None, description="Judges test answers too, for the table `judges`"
    )
    side_effects: SideEffectsEntry | None = Field(None, description="Unset: not measured")


class Source(Section):
    """A cell of the run that fits and tunes."""

    model: str
    dataset: str


class CellEntry(Section):
    """A model and the questions it is asked."""

    model: str
    dataset: str
    source: Source | None = Field(
        None,
        alias="from",
        description="Transfer: steer with what this other cell of the run has fitted and tuned",
    )
    train_share: float = Field(
        1.0, gt=0, le=1, description="Share of each fold's training groups that is fitted on"
    )


class RunSettings(Section):
    """What is run: every cell with every split seed and every method."""

    name: str = "default"
    cells: tuple[CellEntry, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1, description="Split seeds")
    methods: tuple[str, ...] = Field(min_length=1)


class WandbSettings(Section):
    """Weights & Biases, written after the results exist."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "fasb"
    sweep: bool = Field(False, description="Also one run per grid setting")


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
    _recipes: dict[str, list[Recipe]] = PrivateAttr(default_factory=dict)

    @field_validator("methods", mode="before")
    @classmethod
    def _labelled(cls, methods: Any) -> Any:
        """Where a method has no label, its name is one."""
        if not are_mappings(methods) or not are_mappings(*methods.values()):
            return methods
        return {name: {"label": name, **entry} for name, entry in methods.items()}

    @property
    def chosen_methods(self) -> dict[str, Method]:
        """The methods of the run, in its order."""
        return {name: self.methods[name] for name in self.run.methods}

    def recipes(self, dataset: str) -> list[Recipe]:
        """Return what every point of every method's grid asks for on a dataset, made once."""
        if dataset not in self._recipes:
            found = recipes_of(self.chosen_methods, self.sections(dataset))
            self._recipes[dataset] = found
        return self._recipes[dataset]

    def sections(self, dataset: str) -> StageSettings:
        """Return a dataset's settings, by stage.

        Later ones win: field default, preset, study, the set's own prompt, the dataset's keys.

        Raises:
            ConfigError: the preset does not exist or is wrong.
            DataError: the set's own prompt is made of a file that is missing.
        """
        entry = self.datasets[dataset]
        layers = [
            read_preset(self.preset),
            _given(self),
            {"prompt": _own_prompt(entry)},
            _given(entry),
        ]
        merged = {
            name: validated(
                type(field.default),
                {key: value for layer in layers for key, value in layer.get(name, {}).items()},
                f"datasets.{dataset}.{name}",
            )
            for name, field in StageSettings.model_fields.items()
        }
        return StageSettings(**merged)


def _own_prompt(entry: DatasetEntry) -> dict[str, Any]:
    """What the dataset's module says in `prompt(settings)` or `PROMPT`, if it has either."""
    module = find("data", entry.load)
    if hasattr(module, "prompt"):
        made: dict[str, Any] = module.prompt(module.Settings(**entry.settings))
        return made
    return dict(getattr(module, "PROMPT", {}))


def _given(sections: StageSettings) -> dict[str, dict[str, Any]]:
    """Only the keys that the user wrote."""
    dumped: dict[str, dict[str, Any]] = sections.model_dump(
        include=set(StageSettings.model_fields), exclude_unset=True
    )
    return dumped


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """The sections of `fasb/presets/<name>.yaml`.

    Raises:
        ConfigError: there is no such preset.
    """
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in PRESETS.iterdir()]
        raise ConfigError(f"preset: {name!r} does not exist; {did_you_mean(name, known)}")
    return _given(
        validated(
            StageSettings, yaml.safe_load(path.read_text()) or {}, f"fasb/presets/{name}.yaml"
        )
    )


def load(
    mapping: dict[str, Any], where: str | Sequence[str | Path] = "config/config.yaml"
) -> Study:
    """The study that `mapping` describes; every name and every extension's settings are checked.

    `where` names the file, or the files whose merger `mapping` is; an error names the last that has
    its key.

    Raises:
        ConfigError: `<file>: <key>: <what is wrong>; <remedy>`, one line.
    """
    files = [where] if isinstance(where, str) else list(where)
    try:
        study: Study = validated(Study, mapping, "")
        _check_names(study)
        _check_extensions(study)
        for dataset in {cell.dataset for cell in study.run.cells}:
            study.sections(dataset)
    except ConfigError as error:
        raise ConfigError(f"{origin(str(error), files)}: {error}") from None
    return study


def load_study(paths: Sequence[Path] = ()) -> Study:
    """The study that `snakemake --configfile PATHS` runs: the files laid over `BASES`.

    Raises:
        ConfigError: the working directory is not the repository's root, or a file or the study is
            wrong.
    """
    for base in BASES:
        if not base.is_file():
            raise ConfigError(f"{base}: not in {Path.cwd()}; change to the root of the repository")
    return load_files([*BASES, *(path for path in paths if path not in BASES)])


def load_files(paths: Sequence[Path]) -> Study:
    """Return the study of these YAML files, merged as Snakemake merges `--configfile`.

    Mappings merge, lists replace.

    Raises:
        ConfigError: a file is missing or not a mapping, or the study is wrong.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_mapping(path))
    return load(merged, list(paths))


def _check_names(study: Study) -> None:
    for kind in ("models", "datasets", "methods"):
        for name in getattr(study, kind):
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"{kind}.{name}: not a file name; use letters, digits, '.', '_' and '-'"
                )
    for name, model in study.models.items():
        if bool(model.path) == (model.world is not None):
            raise ConfigError(f"models.{name}: needs either path or world; give one of them")
    _check_run(study)


def _check_run(study: Study) -> None:
    run = study.run
    for key in ("cells", "seeds", "methods"):
        entries = getattr(run, key)
        if len(set(entries)) < len(entries):
            raise ConfigError(f"run.{key}: one entry appears twice; remove it")
    for i, cell in enumerate(run.cells):
        _known(f"run.cells.{i}.model", cell.model, study.models)
        _known(f"run.cells.{i}.dataset", cell.dataset, study.datasets)
        _check_source(f"run.cells.{i}", cell, study.run.cells)
    for name in run.methods:
        _known("run.methods", name, study.methods)
        method = study.methods[name]
        if method.like is not None:
            _known(f"methods.{name}.like", method.like, run.methods)
            if method.grid or study.methods[method.like].like:
                raise ConfigError(
                    f"methods.{name}.like: needs no grid, and a method with its own; remove one"
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


def _known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ConfigError(f"{where}: {name!r} is not defined; {did_you_mean(name, known)}")


def _check_extensions(study: Study) -> None:
    for name, dataset in study.datasets.items():
        where = f"datasets.{name}"
        _check_extension("data", dataset.load, f"{where}.load", dataset.settings)
        _check_side_effects(study, name)
        for key, judge in (("judge", dataset.judge), ("second_judge", dataset.second_judge)):
            if judge is not None:
                _check_extension("judges", judge.use, f"{where}.{key}.use", judge.settings)
        if dataset.second_judge is not None and dataset.judge in (None, dataset.second_judge):
            raise ConfigError(
                f"{where}.second_judge: needs another beside it; give `judge`, or remove it"
            )
    sections = study.sections(study.run.cells[0].dataset)
    for name, method in study.methods.items():
        if method.use is not None:
            _find("methods", method.use, f"methods.{name}.use")
        if method.gate is not None:
            _find("gates", method.gate, f"methods.{name}.gate")
        method.check(sections, f"methods.{name}")
    _check_worlds(study)


def _check_side_effects(study: Study, dataset: str) -> None:
    effects, key = study.datasets[dataset].side_effects, f"datasets.{dataset}.side_effects"
    if effects is None:
        return
    _check_extension("data", effects.load, f"{key}.load", effects.settings)
    if effects.choices is not None:
        _known(f"{key}.choices", effects.choices, study.datasets)


def _check_worlds(study: Study) -> None:
    worlds = {name: model for name, model in study.models.items() if model.world is not None}
    if not worlds:
        return
    from fasb.world.health import HealthSettings
    from fasb.world.pretrain import PretrainSettings
    from fasb.world.text import WorldSettings

    validated(HealthSettings, study.health, "health")
    for name, model in worlds.items():
        validated(WorldSettings, model.world or {}, f"models.{name}.world")
        validated(PretrainSettings, model.pretrain, f"models.{name}.pretrain")


def _check_extension(package: str, use: str, key: str, settings: dict[str, Any]) -> None:
    """`key` is where the module is named; its settings stand beside it."""
    _find(package, use, key)
    settings_of(package, use, settings, f"{key.rpartition('.')[0]}.settings")


def _find(package: str, use: str, key: str) -> None:
    try:
        find(package, use)
    except ConfigError as error:
        raise ConfigError(f"{key}: {str(error).split(': ', 1)[1]}") from None
