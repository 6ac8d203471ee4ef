"""Commands for models that the study trains itself: train one, and say whether it is fit."""

from pathlib import Path
from typing import Any

import click

from fasb.cli.options import out_option, settings_option

PATH = click.Path(path_type=Path)


@click.command()
@settings_option
@out_option
def pretrain_command(settings: dict[str, Any], out: Path) -> None:
    """Train a world's model: a checkpoint folder with training.json.

    Example: fasb pretrain --settings '{"world": {"kind": "tradeoff", "seed": 2}}' --out
    results/models/tradeoff-s2
    """
    from fasb.extensions import validated
    from fasb.world.pretrain import PretrainSettings, pretrain
    from fasb.world.text import WorldSettings

    world = validated(WorldSettings, settings["world"], "world")
    report = pretrain(
        world, validated(PretrainSettings, settings.get("pretrain", {}), "pretrain"), out
    )
    figures = ", ".join(f"{name} {100 * value:.0f}" for name, value in report["figures"].items())
    click.echo(
        f"{out}: {report['tokens']:,} tokens in {report['seconds']:.0f} s; {figures}", err=True
    )


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="MODEL FILES...")
@click.option(
    "--check", "checked", is_flag=True, help="Refuse a rejected world: the only FILE is its report."
)
@settings_option
@out_option
def health_command(
    files: tuple[Path, ...], checked: bool, settings: dict[str, Any], out: Path
) -> None:
    """Measure whether a world's MODEL is fit, from the anchors.h5 and grid.parquet FILES of its cells.

    Writes the report in any case; with --check, fails for a world that a report rejects.

    Example: fasb health results/models/tradeoff-s2
    results/tradeoff-s2/*/seed*/{anchors.h5,grid.parquet} --settings '{"world": {"kind": "tradeoff",
    "seed": 2}}' --out results/health/tradeoff-s2.json
    """
    from fasb.artifacts import read_json, write_json
    from fasb.extensions import validated
    from fasb.world.health import HealthSettings, check, measure, require
    from fasb.world.text import WorldSettings

    thresholds = validated(HealthSettings, settings.get("health", {}), "health")
    if checked:
        report = read_json(files[0])
        require(report, thresholds, str(files[0]))
    else:
        world = validated(WorldSettings, settings["world"], "world")
        report = check(world, measure(files[0], files[1:]), thresholds)
        for failure in report["failures"]:
            click.echo(f"{out}: {failure}", err=True)
    write_json(out, report, {"stage": "health", "settings": settings})
