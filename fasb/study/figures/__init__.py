"""Figures at print size: one file each, with its rows, its drawing, its caption and its title.

A figure's module has `TITLE`; `rows(cells, files, styles)`, the tidy numbers, which stand as CSV
beside the picture; `caption(rows)`, whose first sentence is what is seen; `draw(rows)`; and of no
rows `EMPTY_CAPTION` and `EMPTY_PICTURE`. Caption and picture are made of the rows alone, as they
are or read back from their CSV: methods' labels, colours and places in the config are columns. A
picture has no title: the caption opens with what it shows. Imports neither pandas nor matplotlib
before they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasb.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fasb.study.cells import Cell
    from fasb.study.styles import MethodStyle

FIGURES = {
    "figure_1": ("generations.parquet", "judged.parquet"),
    "calibration": ("generations.parquet", "judged.parquet"),
    "lookahead": ("generations.parquet", "judged.parquet"),
    "figure_4": ("anchors.h5",),
    "tradeoff": ("grid.parquet", "metrics.parquet"),
    "costs": ("metrics.parquet",),
    "data_efficiency": ("metrics.parquet", "anchors.h5"),
    "sensitivity": ("grid.parquet",),
    "crossing": ("metrics.parquet",),
}
"""Figures in the report's order, and the files of each cell that they are drawn from."""


def figure(name: str) -> Any:
    """Return the module of figure `name`.

    Raises:
        ConfigError: there is no such figure.
    """
    if name not in FIGURES:
        raise ConfigError(f"figure: no figure {name!r}; {did_you_mean(name, FIGURES)}")
    return import_module(f"fasb.study.figures.{name}")


def rows_of(
    name: str, cells: Sequence[Cell], files: Sequence[Path], methods: Sequence[MethodStyle]
) -> pd.DataFrame:
    """Return the rows of figure `name`, read from the cells' files.

    Raises:
        ConfigError: there is no such figure.
    """
    from fasb.study.styles import with_styles

    found: pd.DataFrame = figure(name).rows(cells, files, methods)
    return with_styles(found, methods) if "method" in found else found


def caption(name: str, rows: pd.DataFrame) -> str:
    """Return the caption of rows that `rows_of` gave; of none, that there is nothing to see."""
    module = figure(name)
    told: str = module.EMPTY_CAPTION if rows.empty else module.caption(rows)
    return told


def draw(name: str, rows: pd.DataFrame) -> Figure:
    """Return the picture of rows that `rows_of` gave; of none, one that says so."""
    import matplotlib as mpl

    from fasb.study.figures.drawing import STYLE, empty

    module = figure(name)
    with mpl.rc_context(fname=STYLE):
        drawn: Figure = empty(module.EMPTY_PICTURE) if rows.empty else module.draw(rows)
    return drawn


def save(drawn: Figure, out: Path) -> None:
    """Write `out`.pdf, then `out`.png, each once: equal rows give equal bytes."""
    import matplotlib as mpl

    from fasb.study.figures.drawing import STYLE
    from fasb.wholefiles import writing

    # matplotlib would write the date into the one and its version into the other
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with writing(out.with_name(f"{out.name}.{kind}")) as part, mpl.rc_context(fname=STYLE):
            drawn.savefig(part, format=kind, metadata=metadata)
