"""What a study's configuration defines and selects: its models, datasets, judges, cells and jobs.

Each class is one mapping of the YAML; `config.py` puts them together and checks what they say of
each other. Imports neither torch nor pandas.
"""

from typing import Any, Literal

from pydantic import Field

from fasb.settings import PRINTED, JudgeSettings, ModelSettings, Section, Seed, StageSettings

SLURM_NAME = r"^[\w.,-]+$"
"""Names of partitions, accounts and qualities of service: nothing that a shell would read."""


PROJECT = r"^[^/\\#?%:\x00-\x1f\x7f-\x9f]*$"
"""What the server of Weights & Biases takes for the name of a project."""


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
    partition: str | None = Field(
        None, pattern=SLURM_NAME, description="SLURM partition; unset: the profile's"
    )
    account: str | None = Field(
        None, pattern=SLURM_NAME, description="SLURM account; unset: the profile's"
    )
    qos: str | None = Field(
        None, pattern=SLURM_NAME, description="SLURM quality of service; unset: the profile's"
    )
    constraint: str | None = Field(
        None,
        pattern=r"^[\w.,&|()*\[\]-]+$",
        description="Features that the node must have, as sbatch reads them: a100|h100",
    )
    slurm_extra: str | None = Field(
        None,
        pattern=r"^[\w.,:=/+@% -]+$",
        description="More arguments of sbatch: --nodelist=n1; unset: the profile's",
    )

    @property
    def slurm(self) -> dict[str, str]:
        """What it asks of SLURM beside GPUs, threads, memory and time, by Snakemake's names."""
        asked = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "slurm_extra": self.slurm_extra,
        }
        return {name: value for name, value in asked.items() if value is not None}


class ModelJobSettings(JobSettings):
    """What a model's jobs ask for, and among how many a cell's questions are shared out."""

    shards: int = Field(
        1, ge=1, le=1000, description="Jobs that share each cell's sweep, generate and score"
    )

    @property
    def gathering(self) -> JobSettings:
        """What a job asks for that only puts together what shards made."""
        return self.model_copy(update={"gpu": 0, "threads": 1, "mem_mb": 4000, "runtime": 30})


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
        None,
        description="What `fasb plan` reckons with, which reads it from a local folder if unset",
    )
    job: ModelJobSettings = ModelJobSettings()

    @property
    def loading(self) -> ModelSettings:
        """What the model is loaded by: its settings without what only the study knows."""
        return ModelSettings(**self.model_dump(include=set(ModelSettings.model_fields)))

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

    @property
    def judges(self) -> dict[str, JudgeEntry]:
        """Its judges by key; the second one judges test answers only."""
        both = {"judge": self.judge, "second_judge": self.second_judge}
        return {key: judge for key, judge in both.items() if judge is not None}


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
        alias="from",  # a word of Python's own
        description="Transfer: steer with what this other cell of the run has fitted and tuned",
    )
    train_share: float = Field(
        1.0, gt=0, le=1, description="Share of each fold's training groups that is fitted on"
    )

    @property
    def folder(self) -> tuple[str, str, str]:
        """What the folder of each of its cells is made of, but for the seed."""
        source = None if self.source is None else (self.source.model, self.source.dataset)
        return self.model, self.dataset, cell_suffix(self.train_share, source)


def cell_suffix(train_share: float, source: tuple[str, str] | None) -> str:
    """Return what a cell's name ends with; nothing where it fits on all its training questions."""
    if source is not None:
        return "-from-" + ".".join(source)
    return "" if train_share == 1 else f"-train{100 * train_share:g}"


class RunSettings(Section):
    """What is run: every cell with every split seed and every method."""

    name: str = Field("default", min_length=1, max_length=100, pattern=PRINTED)
    cells: tuple[CellEntry, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1, description="Split seeds")
    methods: tuple[str, ...] = Field(min_length=1)
    jobs: Literal["stages", "cells"] = Field(
        "stages",
        description="What a job does of a cell: a stage, or all of them (for many small cells)",
    )


class WandbSettings(Section):
    """Weights & Biases, written after the results exist."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = Field("fasb", min_length=1, max_length=128, pattern=PROJECT)
    sweep: bool = Field(False, description="Also one run per grid setting")
