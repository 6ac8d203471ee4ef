"""What a cell fits: classifiers, steering vectors and trackers of all heads, in every fold."""

from fasb.study.cells import Cell
from fasb.study.config import Study
from fasb.study.stage import EACH_FITTED_CELL, Paths, stage

BANK = "results/activations/{0.model}/{0.dataset}/answer_end.h5"
NEXT_BANK = "results/activations/{0.model}/{0.dataset}/next_question_end.h5"


@stage(
    EACH_FITTED_CELL,
    outputs={"anchors": "results/{cell}/anchors.h5"},
    inputs=lambda study, cell: {
        "bank": BANK.format(cell),
        "splits": f"{cell.folder}/splits.json",
    },
    depends=lambda study, cell: study.sections(cell.dataset).dump("probes"),
)
def anchors(study: Study, cell: Cell, paths: Paths) -> None:
    """Fit probes and prototypes of all heads in every fold, and take their accuracy."""
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import fit_anchors

    settings = study.sections(cell.dataset).probes
    bank, folds = Bank.open(paths["bank"]), read_splits(paths["splits"])
    fit_anchors(bank, folds, settings, paths["anchors"], paths.made_by())


@stage(
    EACH_FITTED_CELL,
    outputs={"vectors": "results/{cell}/vectors.safetensors"},
    inputs=lambda study, cell: {
        "bank": BANK.format(cell),
        "next_bank": NEXT_BANK.format(cell),
        "splits": f"{cell.folder}/splits.json",
        "anchors": f"{cell.folder}/anchors.h5",
    },
    depends=lambda study, cell: study.sections(cell.dataset).dump("vectors"),
)
def vectors(study: Study, cell: Cell, paths: Paths) -> None:
    """Make the steering vectors of all heads in every fold."""
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import check_splits, fit_vectors

    folds = read_splits(paths["splits"])
    check_splits(paths["anchors"], folds)
    banks = Bank.open(paths["bank"]), Bank.open(paths["next_bank"])
    settings = study.sections(cell.dataset).vectors
    fit_vectors(banks, folds, paths["anchors"], settings, paths["vectors"], paths.made_by())


@stage(
    EACH_FITTED_CELL,
    outputs={"trackers": "results/{cell}/trackers.safetensors"},
    inputs=lambda study, cell: {"anchors": f"{cell.folder}/anchors.h5"},
    depends=lambda study, cell: study.sections(cell.dataset).dump("trackers"),
)
def trackers(study: Study, cell: Cell, paths: Paths) -> None:
    """Write the trackers of all heads in every fold."""
    from fasb.fitting.fold import fit_trackers

    fit_trackers(paths["anchors"], paths["trackers"], paths.made_by())
