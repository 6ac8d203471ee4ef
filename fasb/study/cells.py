"""A study's cells and files: what is made of what.

In: a `Study`. Out: paths and job counts. Knows no rule's settings (`rules.py`) and no command.
Imports neither torch nor pandas.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fasb.study.config import JobSettings, JudgeEntry, Study
from fasb.study.figures import FIGURES
from fasb.study.measures import TABLES

REPORTED = (
    "metrics.parquet",
    "metrics.json",
    "grid.parquet",
    "tuned.json",
    "generations.parquet",
    "judged.parquet",
)
LOGGED = ("metrics.json", "tuned.json", "grid.parquet")
HEALTH = ("anchors.h5", "grid.parquet", "tuned.json")

FITTING = ("splits", "anchors", "vectors", "trackers", "sweep", "judge_sweep", "tune")
"""Rules that run once for every cell but those that take over what another has fitted."""
TESTING = ("generate", "judge", "score", "metrics")
"""Rules that run once for every cell."""

PROBED = ("probe", "next_question")
ASKED = ("prefix", "question", "open", "stop", "question_mark", "answer_mark")
WRITTEN = ("tokens", "temperature", "top_p", "seed")
"""Prompt settings that the banks, and prompt and decoding settings that unsteered answers depend
on."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A model, the questions it is asked, a split seed, and how this differs from fitting on all training questions.

    train_share: of the training groups. source: model and dataset of the cell whose bundles are
    used (transfer).
    """

    model: str
    dataset: str
    seed: int
    train_share: float = 1.0
    source: tuple[str, str] | None = None

    @property
    def variant(self) -> str:
        """What the folder's name ends with; empty for a cell that fits on all its training questions."""
        if self.source is not None:
            return "-from-" + ".".join(self.source)
        return "" if self.train_share == 1 else f"-train{100 * self.train_share:g}"

    @property
    def folder(self) -> str:
        """Where the cell's files are."""
        return f"results/{self.model}/{self.dataset}/seed{self.seed}{self.variant}"

    def dump(self) -> dict[str, Any]:
        """As the commands take it."""
        dumped = {
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            "folder": self.folder,
        }
        return dumped | ({} if self.source is None else {"source": list(self.source)})


def cells(study: Study) -> list[Cell]:
    """All cells, in the config's order, seeds innermost."""
    return [
        Cell(
            entry.model,
            entry.dataset,
            seed,
            entry.train_share,
            source and (source.model, source.dataset),
        )
        for entry in study.run.cells
        for source in [entry.source]
        for seed in study.run.seeds
    ]


def whole(study: Study) -> list[Cell]:
    """The cells that fit on all their training questions: what most tables and figures show."""
    return [cell for cell in cells(study) if not cell.variant]


def fitting(study: Study) -> list[Cell]:
    """The cells that fit and tune by themselves."""
    return [cell for cell in cells(study) if cell.source is None]


def cell_of(study: Study, wildcards: Mapping[str, str]) -> Cell:
    """The cell of a job."""
    names = ("model", "dataset", "seed", "variant")
    (found,) = (
        c for c in cells(study) if all(str(getattr(c, name)) == wildcards[name] for name in names)
    )
    return found


def tuned_in(study: Study, wildcards: Mapping[str, str]) -> str:
    """The folder of the cell whose folds and bundles a job uses: its own, or that of its source."""
    cell = cell_of(study, wildcards)
    return cell.folder if cell.source is None else Cell(*cell.source, cell.seed).folder


def of_model(study: Study, model: str) -> list[Cell]:
    """The cells of one model that fit on all their training questions."""
    return [cell for cell in whole(study) if cell.model == model]


def files(cells: list[Cell], names: tuple[str, ...]) -> list[str]:
    """These files of these cells, cell by cell."""
    return [f"{cell.folder}/{name}" for cell in cells for name in names]


def worlds(study: Study) -> list[str]:
    """The models of this run that are trained in the study."""
    names = dict.fromkeys(entry.model for entry in study.run.cells)
    return [name for name in names if study.models[name].world is not None]


def measured(study: Study) -> list[Cell]:
    """The cells whose dataset asks for side effects."""
    return [cell for cell in whole(study) if study.datasets[cell.dataset].side_effects is not None]


def of_cell(table: str) -> str:
    """The file of each cell that a table is made of."""
    return "side_effects.parquet" if table == "side_effects" else "metrics.parquet"


def asked(study: Study) -> list[str]:
    """Datasets whose questions are asked: those of the cells, and unrelated ones."""
    own = dict.fromkeys(entry.dataset for entry in study.run.cells)
    return list(own | dict.fromkeys(name for dataset in own for name in unrelated(study, dataset)))


def unrelated(study: Study, dataset: str) -> list[str]:
    """The dataset of unrelated choices that side effects are measured on as well, if there is one."""
    effects = study.datasets[dataset].side_effects
    return [effects.choices] if effects is not None and effects.choices is not None else []


def trained(study: Study, model: str) -> list[str]:
    """The model's folder, if the study trains it."""
    return [] if study.models[model].world is None else [f"results/models/{model}"]


def accepted(study: Study, model: str) -> list[str]:
    """The file without which no test question is asked, if the study trains the model."""
    return [] if study.models[model].world is None else [f"results/health/{model}.accepted.json"]


def answered(study: Study, dataset: str) -> bool:
    """Whether answers are written at all: those that are judged, or compared with a label."""
    return study.datasets[dataset].judge is not None or study.datasets[dataset].exact


def trace_file(study: Study, model: str, dataset: str) -> list[str]:
    """Where the unsteered answers are, if there are any; named by prompt and length, shared by seeds and methods."""
    if not answered(study, dataset):
        return []
    text = json.dumps(_asked(study, dataset), sort_keys=True)
    return [
        f"results/traces/{model}/{dataset}/{hashlib.sha256(text.encode()).hexdigest()[:12]}.parquet"
    ]


def _asked(study: Study, dataset: str) -> dict[str, Any]:
    sections = study.sections(dataset).dump("prompt", "decoding")
    return {**only(sections["prompt"], ASKED), **only(sections["decoding"], WRITTEN)}


def judge_job(study: Study, dataset: str, judged: str = "judged") -> JobSettings:
    """What a job that judges this dataset's answers asks for."""
    judge = judge_entry(study, dataset, judged)
    return JobSettings(gpu=0, threads=1) if judge is None else judge.job


def judge_entry(study: Study, dataset: str, judged: str) -> JudgeEntry | None:
    """The judge whose verdicts are in the file `judged`."""
    entry = study.datasets[dataset]
    return entry.second_judge if judged == "judged_second" else entry.judge


def rehearsal(study: Study, dataset: str) -> list[str]:
    """The file without which nothing is swept, if the dataset's answers are judged."""
    return (
        [] if study.datasets[dataset].judge is None else [f"results/questions/{dataset}.judge.json"]
    )


def twice_judged(study: Study) -> list[Cell]:
    """The cells whose test answers a second judge judges too."""
    return [cell for cell in whole(study) if study.datasets[cell.dataset].second_judge is not None]


def agreement_files(study: Study) -> list[str]:
    """The table `judges`, if any cell has two."""
    return table_files("judges") if twice_judged(study) else []


def table_files(name: str) -> list[str]:
    """A table in its formats."""
    return [f"results/tables/{name}.{suffix}" for suffix in ("csv", "md", "tex")]


def figure_files(name: str) -> list[str]:
    """A figure in its formats, and its data."""
    return [f"results/figures/{name}.{suffix}" for suffix in ("pdf", "png", "csv")]


def of_table(study: Study, name: str) -> list[Cell]:
    """The cells that a table shows; without any there is no such table."""
    found, methods = whole(study), study.run.methods
    if name == "side_effects":
        return measured(study)
    if name == "transfer":
        return [cell for cell in cells(study) if cell.source is not None]
    if name == "models":
        models = {
            dataset: {cell.model for cell in found if cell.dataset == dataset}
            for dataset in study.datasets
        }
        return [cell for cell in found if len(models[cell.dataset]) > 1]
    if name == "tasks":
        found = [cell for cell in found if study.datasets[cell.dataset].judge is None]
        return found if len({cell.dataset for cell in found}) > 1 else []
    wanted = any(is_ablation(method) == (name == "ablation") for method in methods)
    return found if wanted else []


def of_figure(study: Study, name: str) -> list[Cell]:
    """The cells that a figure is drawn from; without any there is no such figure."""
    if name != "data_efficiency":
        return whole(study)
    parts = {(cell.model, cell.dataset) for cell in cells(study) if cell.train_share < 1}
    return [cell for cell in fitting(study) if (cell.model, cell.dataset) in parts]


def is_ablation(method: str) -> bool:
    """Whether a method is FASB with something taken away, by its name."""
    return method in ("all-fixed", "after-question") or method.startswith("without-")


def tables(study: Study) -> list[str]:
    """The tables that have rows."""
    return [name for name in TABLES if of_table(study, name)]


def figures(study: Study) -> list[str]:
    """The figures that have something to draw."""
    return [name for name in FIGURES if of_figure(study, name)]


def report_files(study: Study) -> list[str]:
    """What the report shows."""
    drawn = [
        path for name in figures(study) for path in figure_files(name) if not path.endswith(".pdf")
    ]
    shown = [path for name in tables(study) for path in table_files(name) if path.endswith(".csv")]
    shown += [path for path in agreement_files(study) if path.endswith(".csv")]
    return [*shown, *drawn, *files(whole(study), REPORTED), *health_files(study)]


def logged_files(study: Study) -> list[str]:
    """What wandb runs show: the cells' numbers, and the tables, figures and report made of them."""
    return [*_made(study), *files(whole(study), LOGGED)]


def _made(study: Study) -> list[str]:
    made = [path for name in tables(study) for path in table_files(name)] + agreement_files(study)
    made += [path for name in figures(study) for path in figure_files(name)]
    return [*made, "results/report.html"]


def health_files(study: Study) -> list[str]:
    """Health figures of the models that the study trains."""
    return [f"results/health/{model}.json" for model in worlds(study)]


def targets(study: Study) -> list[str]:
    """What a whole study makes."""
    checked = [path for model in worlds(study) for path in accepted(study, model)]
    return [*_made(study), *checked, *(["results/wandb"] if study.wandb.mode != "disabled" else [])]


def jobs(study: Study) -> Counter[str]:
    """How many jobs of each rule an empty folder needs."""
    n_worlds = len(worlds(study))
    counts = Counter({"pretrain": n_worlds, "health": n_worlds, "accept": n_worlds})
    counts.update({"questions": len(asked(study)), "side_effects": len(measured(study))})
    counts["rehearse"] = sum(
        len(rehearsal(study, name)) for name in {cell.dataset for cell in fitting(study)}
    )
    counts["activations"] = 2 * len({(cell.model, cell.dataset) for cell in fitting(study)})
    counts["trace"] = len(
        {(cell.model, cell.dataset) for cell in cells(study) if answered(study, cell.dataset)}
    )
    counts.update(dict.fromkeys(FITTING, len(fitting(study))))
    counts.update(dict.fromkeys(TESTING, len(cells(study))))
    counts.update({"judge": len(twice_judged(study)), "agreement": int(bool(twice_judged(study)))})
    counts.update({"table": len(tables(study)), "figure": len(figures(study)), "report": 1})
    counts["wandb"] = int(study.wandb.mode != "disabled")
    return Counter({rule: n for rule, n in counts.items() if n})


def only(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Some keys of a section."""
    return {key: section[key] for key in keys}
