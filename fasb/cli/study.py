"""Commands about a study as a whole: what it would run, and how its configuration is written."""

import json
from pathlib import Path

import click


@click.command("plan")
@click.option("--configfile", "configs", multiple=True, type=click.Path(path_type=Path), help="As for snakemake.")
def plan_command(configs: tuple[Path, ...]) -> None:
    """Print a study's cells and how many jobs of each rule it needs.

    Merges config/models.yaml, config/config.yaml and each --configfile, as snakemake does; writes nothing. The
    configuration is checked.

    Example: fasb plan --configfile config/evidence.yaml
    """
    from fasb.study import cells
    from fasb.study.config import load_study

    study = load_study(configs)
    for cell in cells.cells(study):
        click.echo(cell.folder)
    jobs = cells.jobs(study)
    click.echo("\n" + "\n".join(f"{n:5} {rule}" for rule, n in jobs.items()) + f"\n{jobs.total():5} jobs")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a study's configuration.

    Example: fasb schema > config/schema.json
    """
    from fasb.study.config import Study

    click.echo(json.dumps(Study.model_json_schema(), indent=1, sort_keys=True))
