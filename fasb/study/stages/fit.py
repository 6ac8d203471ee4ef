"""What a cell fits in every fold: classifiers of all heads, their ranking, every method's edits."""

from functools import cache
from typing import TYPE_CHECKING

from fasb.study import cells
from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.progress import say
from fasb.study.stage import (
    EACH_FITTED_CELL,
    Paths,
    extension,
    model_content,
    model_settings,
    stage,
)
from fasb.study.stages.data import ASKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import fasb.data.protocol
    import fasb.fitting.training
    import fasb.model.load
    from fasb.fitting.recipe import Recipe

BANK = "results/activations/{0.model}/{0.dataset}/{1}.h5"


def bank_file(cell: Cell, read: str = "answer_end") -> str:
    """Return the file of what was read of a cell's model and dataset."""
    return BANK.format(cell, read)


@stage(
    EACH_FITTED_CELL,
    outputs={"trackers": "results/{cell}/trackers.safetensors"},
    inputs=lambda study, cell: {"bank": bank_file(cell), "splits": f"{cell.folder}/splits.json"},
    depends=lambda study, cell: study.sections(cell.dataset).dump("probes"),
)
def trackers(study: Study, cell: Cell, paths: Paths) -> None:
    """Fit classifiers of all heads in every fold: probes and prototypes."""
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import fit_trackers

    settings = study.sections(cell.dataset).probes
    bank, folds = Bank.open(paths["bank"]), read_splits(paths["splits"])
    fit_trackers(bank, folds, settings, paths["trackers"], paths.made_by())


@stage(
    EACH_FITTED_CELL,
    outputs={"anchors": "results/{cell}/anchors.h5"},
    inputs=lambda study, cell: {
        "bank": bank_file(cell),
        "splits": f"{cell.folder}/splits.json",
        "trackers": f"{cell.folder}/trackers.safetensors",
    },
    depends=lambda study, cell: {},
)
def anchors(study: Study, cell: Cell, paths: Paths) -> None:
    """Take the accuracy of all heads in every fold, by which anchors are ranked."""
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import rank_anchors

    bank, folds = Bank.open(paths["bank"]), read_splits(paths["splits"])
    rank_anchors(bank, folds, paths["trackers"], paths["anchors"], paths.made_by())


def _fits(study: Study, cell: Cell) -> dict[str, object]:
    """Return what the edits and trackers of a cell depend on: no policy, so no alpha, beta or s."""
    sections = study.sections(cell.dataset)
    wanted = {}
    for recipe in study.recipes(cell.dataset):
        for package, use, settings in (
            ("methods", recipe.use, recipe.method),
            ("gates", recipe.gate, recipe.gate_settings),
        ):
            if use is not None and settings is not None:
                one = extension(package, use, settings.model_dump(mode="json"))
                wanted[str(one)] = one  # points of a grid mostly ask for the same
    # how it is loaded and asked counts where a fit runs it; banks know both by themselves
    model: dict[str, object] = {}
    if cells.fits_with_model(study, cell.dataset):
        asked = sections.prompt.model_dump(mode="json", include=ASKED | {"answer"})
        model = {"model": model_content(study, cell.model), "prompt": asked}
    return {
        "fits": [wanted[key] for key in sorted(wanted)],
        **model,
        **sections.dump("vectors", "trackers", "probes"),
    }


@stage(
    EACH_FITTED_CELL,
    outputs={"vectors": "results/{cell}/vectors.safetensors"},
    inputs=lambda study, cell: {
        "model": cells.trained(study, cell.model),
        "questions": cells.questions(cell.dataset),
        "banks": [bank_file(cell, read) for read in cells.reads(study, cell.dataset)],
        "splits": f"{cell.folder}/splits.json",
        "trackers": f"{cell.folder}/trackers.safetensors",
        "anchors": f"{cell.folder}/anchors.h5",
    },
    depends=_fits,
)
def vectors(study: Study, cell: Cell, paths: Paths) -> None:
    """Fit the edits and trackers of every method and gate in every fold."""
    from fasb.data.protocol import read_questions
    from fasb.data.splits import read_splits
    from fasb.fitting.fold import check_splits, fit_vectors, know_fitted

    folds = read_splits(paths["splits"])
    check_splits(paths["anchors"], folds)
    questions = read_questions(paths["questions"])
    trainings, recipes = [], study.recipes(cell.dataset)
    # loaded when a method asks for it, once for all folds
    model = cache(lambda: _load_model(study, cell))
    for fold in range(len(folds)):
        training = training_of(study, cell, paths, fold, questions, model)
        know_fitted(training, paths["trackers"], paths["anchors"])
        say_ties(training, recipes)
        trainings.append(training)
    fit_vectors(trainings, recipes, paths["vectors"], paths.made_by())


def say_ties(training: "fasb.fitting.training.Training", recipes: "Iterable[Recipe]") -> None:
    """Name the heads of a fold that only the order of ties (P3) makes anchors, for every k."""
    from fasb.fitting.anchors import tied_units
    from fasb.fitting.fold import KINDS

    wanted = set()
    for recipe in recipes:
        for settings in (recipe.method, recipe.gate_settings):
            wanted |= {k for k in [getattr(settings, "k", None)] if k is not None}
    for kind in KINDS:
        accuracy = training.accuracy(kind)
        for k in sorted(wanted):
            taken, left_out = tied_units(accuracy, min(k, accuracy.size))
            if left_out:
                say(
                    f"fold {training.fold}, {kind}, k = {k}: the last heads tie at "
                    f"{100 * accuracy[taken[0]]:.1f} %; taken (layer.head) {_named(taken)}, "
                    f"left out {_named(left_out)}"
                )


def _named(heads: "Sequence[tuple[int, int]]") -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)


def training_of(
    study: Study,
    cell: Cell,
    paths: Paths,
    fold: int,
    questions: "Sequence[fasb.data.protocol.Question]",
    model: "Callable[[], fasb.model.load.LoadedModel]",
) -> "fasb.fitting.training.Training":
    """Return what methods may see of a fold."""
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.training import Training

    split = read_splits(paths["splits"])[fold]
    files = {path.stem: path for path in paths.every("banks")}
    bank = cache(lambda read: Bank.open(files[read.name]))
    # no test question reaches a method
    seen = {*split.train, *split.validation}
    own = tuple(question for question in questions if question.id in seen)
    return Training(fold, split, bank, study.sections(cell.dataset), own, model, cell.seed)


def _load_model(study: Study, cell: Cell) -> "fasb.model.load.LoadedModel":
    from fasb.extensions import validated
    from fasb.model.load import load_model
    from fasb.settings import ModelSettings

    settings = model_settings(study, cell.model)
    return load_model(validated(ModelSettings, settings, f"models.{cell.model}"))
