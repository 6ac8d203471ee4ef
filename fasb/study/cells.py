"""A study's cells, and what is made of which: the names of all files but those inside of results.

In: a `Study`. Out: cells, datasets, tables and figures of its run. Knows no stage (`stages/`).
Imports neither torch nor pandas.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasb.fitting.reads import Read
from fasb.study.config import Study
from fasb.study.entries import JobSettings, JudgeEntry, cell_suffix
from fasb.study.figures import FIGURES
from fasb.study.measures import TABLES
from fasb.study.worlds import pooled

REPORTED = (
    "metrics.parquet",
    "metrics.json",
    "grid.parquet",
    "tuned.json",
    "generations.parquet",
    "judged.parquet",
)
LOGGED = ("metrics.json", "tuned.json", "grid.parquet")


@dataclass(frozen=True, slots=True)
class Cell:
    """A model, the questions it is asked, a split seed, and how this differs from a plain cell.

    train_share: of the training groups. source: model and dataset of the cell whose bundles are
    used (transfer). results: the folder of the study's results.
    """

    model: str
    dataset: str
    seed: int
    train_share: float = 1.0
    source: tuple[str, str] | None = None
    results: Path = Path("results")

    def __str__(self) -> str:
        """Return the cell's name, as commands take it; below `results/` it is its folder."""
        return f"{self.model}/{self.dataset}/seed{self.seed}{self.cell_suffix}"

    @property
    def cell_suffix(self) -> str:
        """What the name ends with; empty for a cell that fits on all its training questions."""
        return cell_suffix(self.train_share, self.source)

    @property
    def folder(self) -> Path:
        """Where the cell's files are."""
        return self.results / str(self)

    @property
    def group(self) -> tuple[str, str]:
        """Model and dataset without a world's seed: what is compared and pooled together."""
        return pooled(self.model), pooled(self.dataset)

    @property
    def fitted_in(self) -> "Cell":
        """The cell whose folds and bundles are used: itself, or in transfer its source."""
        return self if self.source is None else Cell(*self.source, self.seed)

    def dump(self) -> dict[str, Any]:
        """Return what tables, figures and the report are told of the cell."""
        names = {"model": self.model, "dataset": self.dataset, "seed": self.seed}
        source = {} if self.source is None else {"source": list(self.source)}
        return {**names, "folder": str(self.folder), **source}


def cells(study: Study) -> list[Cell]:
    """Return all cells, in the config's order, seeds innermost."""
    found = []
    for entry in study.run.cells:
        source = None if entry.source is None else (entry.source.model, entry.source.dataset)
        for seed in study.run.seeds:
            found.append(Cell(entry.model, entry.dataset, seed, entry.train_share, source))
    return found


def whole(study: Study) -> list[Cell]:
    """Return the cells that fit on all their training questions: what most tables show."""
    return [cell for cell in cells(study) if not cell.cell_suffix]


def fitting(study: Study) -> list[Cell]:
    """Return the cells that fit and tune by themselves."""
    return [cell for cell in cells(study) if cell.source is None]


def of_model(study: Study, model: str) -> list[Cell]:
    """Return the cells of one model that fit on all their training questions."""
    return [cell for cell in whole(study) if cell.model == model]


def measured(study: Study) -> list[Cell]:
    """Return the cells whose dataset asks for side effects."""
    return [cell for cell in whole(study) if study.datasets[cell.dataset].side_effects is not None]


def twice_judged(study: Study) -> list[Cell]:
    """Return the cells whose test answers a second judge judges too."""
    return [cell for cell in whole(study) if study.datasets[cell.dataset].second_judge is not None]


def pairs(chosen: Iterable[Cell]) -> list[tuple[str, str]]:
    """Return the different models and datasets of these cells, in order."""
    return list(dict.fromkeys((cell.model, cell.dataset) for cell in chosen))


def files(chosen: Iterable[Cell], names: Sequence[str]) -> list[str]:
    """Return these files of these cells, cell by cell."""
    found = []
    for cell in chosen:
        found += [f"{cell.folder}/{name}" for name in names]
    return found


# ---- models and datasets


def worlds(study: Study) -> list[str]:
    """Return the models of this run that are trained in the study."""
    names = dict.fromkeys(entry.model for entry in study.run.cells)
    return [name for name in names if study.models[name].world is not None]


def trained(study: Study, model: str) -> list[str]:
    """Return the model's folder, if the study trains it."""
    return [] if study.models[model].world is None else [f"results/models/{model}"]


def accepted(study: Study, model: str) -> list[str]:
    """Return the file without which no test question is asked, if the study trains the model."""
    return [] if study.models[model].world is None else [f"results/health/{model}.accepted.json"]


def health_files(study: Study) -> list[str]:
    """Return the health figures of the models that the study trains."""
    return [f"results/health/{model}.json" for model in worlds(study)]


def asked(study: Study) -> list[str]:
    """Return the datasets whose questions are asked: those of the cells, and unrelated ones."""
    # mappings in the place of sets, whose order would differ between processes
    found = dict.fromkeys(entry.dataset for entry in study.run.cells)
    for dataset in list(found):
        found |= dict.fromkeys(unrelated(study, dataset))
    return list(found)


def questions(dataset: str) -> str:
    """Return the file of a dataset's questions."""
    return f"results/questions/{dataset}.parquet"


def unrelated(study: Study, dataset: str) -> list[str]:
    """Return the dataset of unrelated choices that side effects are measured on, if any."""
    effects = study.datasets[dataset].side_effects
    return [effects.choices] if effects is not None and effects.choices is not None else []


def answered(study: Study, dataset: str) -> bool:
    """Return whether answers are written: those that are judged, or compared with a label."""
    return study.datasets[dataset].judge is not None or study.datasets[dataset].exact


def trace_file(study: Study, model: str, dataset: str) -> list[str]:
    """Return where the unsteered answers are, if any; seeds and methods share them."""
    return [f"results/traces/{model}/{dataset}.parquet"] if answered(study, dataset) else []


def parts(study: Study, cell: Cell) -> list[str]:
    """Return the names of a cell's parts, if its questions are shared out among jobs."""
    shards = study.models[cell.model].job.shards
    return [f"{number}of{shards}" for number in range(1, shards + 1)] if shards > 1 else []


def judge_entry(study: Study, dataset: str, judged: str = "judged") -> JudgeEntry | None:
    """Return the judge whose verdicts are in the file `judged`."""
    entry = study.datasets[dataset]
    return entry.second_judge if judged == "judged_second" else entry.judge


def judge_job(study: Study, dataset: str, judged: str = "judged") -> JobSettings:
    """Return what a job that judges this dataset's answers asks for."""
    judge = judge_entry(study, dataset, judged)
    # without a judge the job runs all the same, and writes that nothing was said
    return JobSettings(gpu=0, threads=1) if judge is None else judge.job


def checked_judges(study: Study, dataset: str) -> list[str]:
    """Return the file without which nothing is written to be judged, if answers are judged."""
    judge = study.datasets[dataset].judge
    return [] if judge is None else [f"results/questions/{dataset}.judge.json"]


def fits_with_model(study: Study, dataset: str) -> bool:
    """Whether a method or a gate of the run needs the model when it is fitted."""
    return any(recipe.needs_model for recipe in study.recipes(dataset))


def reads(study: Study, dataset: str) -> list[str]:
    """Return the banks that the run's methods and gates ask for, heads at answers' ends first."""
    # trackers and anchors are fitted on this bank, whatever the methods read
    found = {Read().name: None}
    for recipe in study.recipes(dataset):
        found |= dict.fromkeys(read.name for read in recipe.reads())
    return list(found)


# ---- what is shown


def of_table(study: Study, name: str) -> list[Cell]:
    """Return the cells that a table shows; without any there is no such table."""
    found = whole(study)
    if name == "side_effects":
        return measured(study)
    if name == "judges":
        return twice_judged(study)
    if name == "transfer":
        return [cell for cell in cells(study) if cell.source is not None]
    if name == "models":
        several = {dataset for dataset in study.datasets if _n_models(found, dataset) > 1}
        return [cell for cell in found if cell.dataset in several]
    if name == "tasks":
        found = [cell for cell in found if study.datasets[cell.dataset].judge is None]
        return found if len({cell.dataset for cell in found}) > 1 else []
    methods = [study.methods[method] for method in study.run.methods]
    if name == "crossing":
        return found if any(method.crossed for method in methods) else []
    roles = {method.role for method in methods if method.crossed is None}
    if name == "ablation":
        return found if roles - {"main"} else []
    if name == "differences":
        steering = [method for method in methods if method.role == "main" and method.steers]
        return found if len(steering) > 1 else []
    return found if "main" in roles else []


def _n_models(found: list[Cell], dataset: str) -> int:
    return len({cell.model for cell in found if cell.dataset == dataset})


def of_figure(study: Study, name: str) -> list[Cell]:
    """Return the cells that a figure is drawn from; without any there is no such figure."""
    if name == "crossing":
        return of_table(study, name)
    if name != "data_efficiency":
        return whole(study)
    # their whole cells too: a line's last point
    in_part = pairs(cell for cell in cells(study) if cell.train_share < 1)
    return [cell for cell in fitting(study) if (cell.model, cell.dataset) in in_part]


def figure_inputs(study: Study, name: str) -> list[str]:
    """Return the files that a figure is drawn from; costs count side effects where measured."""
    found = files(of_figure(study, name), FIGURES[name])
    if name == "costs":
        found += files(measured(study), ("side_effects.parquet",))
    return found


def tables(study: Study) -> list[str]:
    """Return the tables that have rows."""
    return [name for name in TABLES if of_table(study, name)]


def figures(study: Study) -> list[str]:
    """Return the figures that have something to draw."""
    return [name for name in FIGURES if of_figure(study, name)]


def table_files(name: str) -> list[str]:
    """Return a table in its formats, and their receipt."""
    return [f"results/tables/{name}.{suffix}" for suffix in ("csv", "md", "tex", "json")]


def figure_files(name: str) -> list[str]:
    """Return a figure in its formats, its data, and the receipt of all."""
    return [f"results/figures/{name}.{suffix}" for suffix in ("pdf", "png", "csv", "json")]


def shown_files(study: Study) -> list[str]:
    """Return all tables and figures, in their formats, with receipts."""
    found = []
    for name in tables(study):
        found += table_files(name)
    for name in figures(study):
        found += figure_files(name)
    return found


def targets(study: Study) -> list[str]:
    """Return what a whole study makes."""
    found = [*shown_files(study), "results/report.html", "results/report.json"]
    for model in worlds(study):
        found += accepted(study, model)
    if study.wandb.mode != "disabled":
        found.append("results/wandb")
    return found
