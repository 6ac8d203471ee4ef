"""`fasb run`: one job of a study, as the workflow runs it and as it is tried by hand."""

import click

from fasb.study import celljobs
from fasb.study.jobs import STAGES, run_job

EXAMPLE = {
    "cell": "middle-s2/middle-s2/seed0",
    "model": "middle-s2",
    "dataset": "middle-s2",
    "read": "answer_end",
    "judged": "judged",
    "part": "1of4",
    "table": "main",
    "figure": "sensitivity",
}
"""Targets of the default study."""


def examples() -> list[tuple[str, str]]:
    """Return for each stage a command of the default study, and what it does."""
    found = []
    for stage in STAGES.values():
        target = stage.scope.target.format(**EXAMPLE)
        does = (stage.run.__doc__ or "").split("\n\n")[0]
        does = f"A shard's part of: {does}" if "{part}" in stage.scope.target else does
        # a stage that is run once has no target
        found.append((f"fasb run {stage.command} {target}".rstrip(), " ".join(does.split())))
    return found


@click.command("run", epilog="Example: fasb run sweep middle-s2/middle-s2/seed0")
@click.argument("stage")
@click.argument("target", default="")
@click.option("--key", help="Refuse the job if what it depends on has another hash than this.")
def run_command(stage: str, target: str, key: str | None) -> None:
    """Run one STAGE of the study in results/study.json for one TARGET.

    STAGE is a rule of the workflow, or `cell`: all stages of one. TARGET is a cell, called like its
    folder below results/, or a dataset, a model, a table or a figure. Reads and writes the files of
    that job below results/, whole or not at all.
    """
    if stage == celljobs.RULE:
        celljobs.run(target, key)
    else:
        run_job(stage, target, key)
