"""All stages of a cell as one job: for many small cells, whose jobs start longer than they work.

In: a `Study` that says `run.jobs: cells`. Out: the kinds of its cells, for the workflow, which has
a rule for each; what the job of a cell reads, makes and depends on; that job, run. What cells share
(questions, activations, traces) stays with the stages' own jobs. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fasb.errors import ConfigError, did_you_mean
from fasb.provenance import content_hash
from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.entries import JobSettings
from fasb.study.jobs import STAGES, Job, check_key, count_jobs, read_study
from fasb.study.progress import say
from fasb.study.stage import CELL

RULE = "cell"
"""What `fasb run` is given in a stage's place."""


@dataclass(frozen=True, slots=True)
class CellJob:
    """All stages of one cell."""

    cell: Cell
    stages: tuple[Job, ...]
    """In the order in which they run."""

    @property
    def inputs(self) -> list[str]:
        """The files that it reads and does not make itself."""
        made: set[str] = set()
        read: dict[str, None] = {}
        for one in self.stages:
            made |= {path.format(**one.names) for path in one.stage.outputs.values()}
            for paths in one.inputs.values():
                read |= dict.fromkeys(paths)
        return [path for path in read if path not in made]

    @property
    def key(self) -> str:
        """The hash of all that its results depend on beside its input files."""
        return content_hash([[one.command, one.key] for one in self.stages])


def of_cells(study: Study) -> dict[str, CellJob]:
    """Return the job of every cell, by the cell's name."""
    found: dict[str, CellJob] = study.once("cell jobs", lambda: _of_cells(study))
    return found


def _of_cells(study: Study) -> dict[str, CellJob]:
    stages: dict[Cell, list[Job]] = {cell: [] for cell in cells.cells(study)}
    for stage in STAGES.values():
        for target, names in stage.scope.targets(study).items():
            if "cell" in names:
                stages[names["cell"]].append(Job(stage, target, names, study))
    return {str(cell): CellJob(cell, tuple(own)) for cell, own in stages.items()}


def job_of(study: Study, name: str) -> CellJob:
    """Return the job of the cell of this name.

    Raises:
        ConfigError: the study has no such cell.
    """
    known = of_cells(study)
    if name not in known:
        raise ConfigError(f"{RULE}: the study has no target {name!r}; {did_you_mean(name, known)}")
    return known[name]


def kinds(study: Study) -> dict[tuple[str, str], list[str]]:
    """Return what the cells of each dataset and suffix make, in the workflow's wildcards.

    All of them have the same stages.
    """
    found = {}
    for one in of_cells(study).values():
        kind = (one.cell.dataset, one.cell.cell_suffix)
        if kind not in found:
            found[kind] = _patterns(one.stages)
    return found


def _patterns(stages: Sequence[Job]) -> list[str]:
    found = []
    for one in stages:
        names = {**one.names, "cell": CELL}
        found += [path.format(**names) for path in one.stage.outputs.values()]
    return found


def count(study: Study) -> int:
    """Return how many jobs a study takes, whose cells are one each."""
    of_stages = sum(len(one.stages) for one in of_cells(study).values())
    return count_jobs(study).total() - of_stages + len(of_cells(study))


def resources(study: Study, model: str, dataset: str) -> JobSettings:
    """Return what the job of a cell asks for: enough for its model, and for its judges after it.

    It runs where the model's jobs do.
    """
    own = study.models[model].job
    judges = [judge.job for judge in study.datasets[dataset].judges.values()]
    together = [own, *judges]
    most = {
        "gpu": max([study.models[model].gpu, *(job.gpu or 0 for job in judges)]),
        "threads": max(job.threads for job in together),
        "mem_mb": max(job.mem_mb for job in together),
        "runtime": sum(job.runtime for job in together),
    }
    return own.model_copy(update=most)


def run(name: str, key: str | None = None) -> None:
    """Run all stages of a cell of the study in `results/study.json`, in this process.

    Raises:
        ConfigError: the study has no such cell.
        ArtifactError: as for `run_job`.
    """
    found = job_of(read_study(), name)
    check_key(f"{RULE} {name}", found.key, key)
    for one in found.stages:
        say(one.command)
        one.run()
