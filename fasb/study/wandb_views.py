"""A report of a study's runs for the Weights & Biases server: what to look at, not the numbers.

In: the name of a study and what it is tuned by. Out: parallel coordinates and importance of all
grid settings, methods side by side, tables and figures. The only module that imports
`wandb_workspaces` (the extra `views`).
"""

import json
from collections.abc import Sequence
from typing import Any

from fasb.errors import ConfigError
from fasb.study.panels import HYPERPARAMETERS


def view(study: str, project: str, entity: str, tuned_by: str, tables: Sequence[str]) -> Any:
    """Return the report; `save()` applies it. Without `entity` nothing is asked of the server.

    tuned_by: the measure that settings are chosen by. tables: of `results/tables/`.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError:
        raise ConfigError(
            "fasb sweep view: needs wandb-workspaces; run \"pip install 'fasb[views]'\""
        ) from None

    # a Python literal, in which the library takes every = for its sign of comparison
    quoted = repr(study).replace("=", r"\x3d")

    def grid(kind: str, panels: list[Any], groupby: Sequence[str] = ()) -> Any:
        only = f"Config('study') = {quoted} and Config('kind') = '{kind}'"
        where = project if entity else ""
        groups = list(groupby)
        runs = wr.Runset(entity=entity, project=where, name=kind, filters=only, groupby=groups)
        return wr.PanelGrid(runsets=[runs], panels=panels)

    axes = [wr.Config("method"), *(wr.Config(key) for key in HYPERPARAMETERS)]
    columns = [wr.ParallelCoordinatesPlotColumn(axis) for axis in axes]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(tuned_by)))
    wide, shown = wr.Layout(0, 0, 24, 10), [f"tables/{name}" for name in tables]
    swept = [
        wr.ParallelCoordinatesPlot(columns=columns, layout=wide),
        wr.ParameterImportancePlot(with_respect_to=tuned_by, layout=wr.Layout(0, 10, 24, 8)),
    ]
    tested = [wr.BarPlot(metrics=[tuned_by], layout=wr.Layout(0, 0, 24, 8)), wr.RunComparer()]
    printed: list[Any] = []
    for i, name in enumerate(shown):
        printed.append(
            wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(0, 8 * i, 24, 8))
        )
    blocks = [
        *(wr.H1("Every setting, on validation questions"), grid("validation", swept)),
        *(wr.H1("Chosen settings, on test questions"), grid("test", tested, ["config.method"])),
        *(wr.H1("Tables"), grid("study", printed)),
    ]
    title, told = f"{study}: sweep", "Runs of kind validation need `wandb: {sweep: true}`."
    return wr.Report(project=project, entity=entity, title=title, description=told, blocks=blocks)


def as_json(report: Any) -> str:
    """Return a report as the server stores it."""
    stored = report._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(stored, indent=1)
