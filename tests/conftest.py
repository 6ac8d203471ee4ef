"""Array shapes and argument types of `fasb` are checked while tests run.

All tests run on two cores or more.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook("fasb", "beartype.beartype")

LONGEST = [
    f"test_{name}"
    for name in (
        *("slurm", "paper_mini", "user_fitting", "study", "equivalence", "dag", "packaging"),
        *("study_run", "paper", "contracts", "study_stages"),
    )
]
"""Files of half a minute or more."""


def pytest_xdist_auto_num_workers(config):
    """Named files run in this process; all of them in one more than there are cores, or in four.

    Some wait most of their time: for SLURM, for a process that was started.
    """
    return 0 if config.option.file_or_dir else min((os.cpu_count() or 1) + 1, 4)


def pytest_collection_modifyitems(items):
    """The longest first, so that none of them is begun when all else is done."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        )
    )
