"""Commands for one's own model and questions: fit, steer, evaluate, show, verify."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fasb.cli.options import read_settings
from fasb.errors import ArtifactError, BundleError, ConfigError


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--model` and `--settings`."""
    text = "JSON text, or a .json or .yaml file; keys: docs/adding.md."
    command = click.option("--settings", callback=read_settings, metavar="FILE", help=text)(command)
    return click.option("--model", required=True, metavar="MODEL", help="Hub id or folder.")(
        command
    )


BUNDLE = click.option(
    "--bundle", required=True, type=click.Path(path_type=Path), help="File that 'fasb fit' made."
)
DATA = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="CSV, JSONL or Parquet: question, true, false.",
)
JUDGE = click.option(
    "--judge",
    metavar="NAME",
    help="Judge of free answers: a file of fasb/judges/, or a dotted path.",
)
SIBLINGS = click.option(
    "--siblings",
    is_flag=True,
    help="Take the bundle of a model of the same build, such as its base.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


@click.command(
    "fit", epilog="Example: fasb fit --model Qwen/Qwen2.5-0.5B --data my.csv --out my.bundle"
)
@model_options
@DATA
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option(
    "--vector",
    type=click.Choice(["probe", "prototype"]),
    help="Steering vectors.  [default: probe]",
)
@JUDGE
def fit_command(
    model: str,
    settings: dict[str, Any],
    data: Path,
    out: Path,
    vector: str | None,
    judge: str | None,
) -> None:
    """Fit a bundle to a model and your own questions, and tune it.

    Reads the questions' true and false answers. Writes OUT, and activations in OUT.work, from where
    a killed run goes on. Without --judge it is tuned on MC2, the probability of true answers among
    all (docs/decisions.md).
    """
    from fasb.user.evaluation import questions_of
    from fasb.user.fitting import checked_settings, fit, report
    from fasb.wholefiles import check_out

    check_out(out)
    given = {"vector": vector, "judge": {"use": judge} if judge else None}
    settings = _merged(settings, {key: value for key, value in given.items() if value is not None})
    checked = checked_settings(settings)
    questions = questions_of(data, checked.separator)  # before a model is loaded
    work = out.with_name(out.name + ".work")
    bundle = fit(load_named(model, settings), questions, checked, work, _progress)
    bundle.save(out, {"data": str(data)})
    click.echo(report(bundle))
    click.echo(f"{out}: written; {work} may be deleted", err=True)


@click.command(
    "steer",
    epilog="Example: fasb steer --model Qwen/Qwen2.5-0.5B --bundle my.bundle "
    '"Who built the tower?"',
)
@model_options
@BUNDLE
@click.argument("questions", nargs=-1, required=True, metavar="QUESTION...")
@click.option(
    "--svg", type=click.Path(path_type=Path), help="Also draw the answers, as a picture to share."
)
@SIBLINGS
@JSON
def steer_command(
    model: str, settings: dict[str, Any], questions: tuple[str, ...], **options: Any
) -> None:
    """Answer questions, showing what the tracker sees, where it steps back, and what it writes."""
    from rich.console import Console

    from fasb.cli.terminal import legend, picture, show
    from fasb.decoding.stream import stream
    from fasb.steering.bundle import Bundle
    from fasb.user.steering import attach, prompts_of
    from fasb.wholefiles import writing

    bundle = Bundle.load(options["bundle"])  # before a model is loaded
    loaded = load_named(model, settings)
    attach(loaded, bundle, options["siblings"])
    beta, console, pages = bundle.policy.beta, Console(), []
    if console.is_terminal and not options["as_json"]:
        console.print(legend(beta), end="\n\n")
    for question, prompt in zip(questions, prompts_of(loaded, bundle, questions), strict=True):
        events = stream(loaded, prompt, bundle)
        if options["as_json"]:
            for event in events:
                click.echo(_json({"question": question, **asdict(event)}))
        else:
            pages.append((question, show(console, question, events, beta)))
    if options["svg"]:
        with writing(options["svg"]) as part:
            part.write_text(picture(pages, beta))


@click.command(
    "evaluate",
    epilog="Example: fasb evaluate --model Qwen/Qwen2.5-0.5B --bundle my.bundle --data my.csv",
)
@model_options
@BUNDLE
@DATA
@JUDGE
@click.option("--seen", is_flag=True, help="Keep questions that the bundle was fitted or tuned on.")
@JSON
def evaluate_command(**options: Any) -> None:
    """Compare a model with and without a bundle on questions with reference answers.

    Questions that the bundle was fitted or tuned on are left out, and the number of those is
    printed.
    """
    from fasb.steering.bundle import Bundle
    from fasb.user.evaluation import as_table, evaluate, judge_of, questions_of

    settings = options["settings"]
    judge = _merged(settings, {"judge": {"use": options["judge"]}} if options["judge"] else {}).get(
        "judge"
    )
    # before a model is loaded
    bundle, questions, judge = (
        Bundle.load(options["bundle"]),
        questions_of(options["data"], settings.get("separator", "")),
        judge_of(judge),
    )
    model = load_named(options["model"], settings)
    found = evaluate(model, bundle, questions, judge, options["seen"])
    click.echo(_json(asdict(found)) if options["as_json"] else as_table(found))


@click.command("show", epilog="Example: fasb show my.bundle")
@click.argument("bundle", type=click.Path(path_type=Path))
@JSON
def show_command(bundle: Path, as_json: bool) -> None:
    """Say what a bundle is: its model, its prompt, what it does, and what was measured of it."""
    from fasb.steering.bundle import Bundle
    from fasb.study.escaping import without_controls
    from fasb.user.showing import as_text, described

    known = Bundle.load(bundle)
    try:
        shown = _json(described(known)) if as_json else as_text(known)
    except (AttributeError, KeyError, TypeError, ValueError):
        # what was measured is free-form in the file: it may hold anything
        raise BundleError(f"{bundle}: what it says of itself is not by 'fasb fit'") from None
    click.echo("\n".join(without_controls(line) for line in shown.splitlines()))


@click.command("export", epilog="Example: fasb export my.bundle my.gguf")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def export_command(bundle: Path, file: Path) -> None:
    """Write a bundle's edit as a control vector for llama.cpp and repeng.

    Only for edits that add to the residual stream. FILE is GGUF; at scale 1 it adds what the bundle
    adds at its alpha, at every token: there is no tracker, and nothing is taken back.
    """
    from fasb.steering.bundle import Bundle
    from fasb.user.exporting import export
    from fasb.wholefiles import check_out

    check_out(file)
    export(Bundle.load(bundle), file)
    click.echo(f"{file}: written; tracker and policy stay behind", err=True)


@click.command(
    "verify", epilog="Example: fasb verify my.bundle results/middle-s2/middle-s2/seed0/*"
)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
def verify_command(files: tuple[Path, ...]) -> None:
    """Check files against their own checksums and say what made them, one line each."""
    from fasb.artifacts import stamp_of

    wrong = 0
    for file in files:
        try:
            stamp = stamp_of(file)
        except ArtifactError as error:
            wrong += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"{file}: ok, {stamp['digest'][:12]}, {_provenance(stamp['provenance'])}")
    if wrong:
        sys.exit(2)


def _provenance(made_by: dict[str, Any]) -> str:
    """Version, commit, hardware, then what the maker added, in one line."""
    from fasb.provenance import content_hash

    versions = made_by.get("versions", {})
    commit = made_by.get("commit") or "no commit"
    hardware = made_by.get("hardware", {})
    parts = [f"fasb {versions.get('fasb')} ({commit[:12]}{'+' if commit.endswith('+') else ''})"]
    parts += [f"torch {versions['torch']}"] if versions.get("torch") else []
    parts.append(str(hardware.get("gpu") or f"{hardware.get('cpus')} CPUs"))
    own = {
        key: value
        for key, value in made_by.items()
        if key not in ("versions", "commit", "hardware")
    }
    # settings and inputs are whole mappings: their hash tells whether two files agree in them
    short = {
        key: content_hash(value)[:8] if isinstance(value, dict) else value
        for key, value in own.items()
    }
    return ", ".join(parts + [f"{key} {value}" for key, value in sorted(short.items())])


def _merged(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options over settings; a judge's own settings stay if it is the same judge."""
    judge = settings.get("judge")
    if isinstance(judge, dict) and given.get("judge", {}).get("use") == judge.get("use"):
        given = {**given, "judge": judge}
    return {**settings, **given}


def load_named(model: str, settings: dict[str, Any]) -> Any:
    """Return the model of a command line, loaded as its settings say."""
    from fasb.user.steering import load

    own = settings.get("model", {})
    if not isinstance(own, dict):
        raise ConfigError(
            f"--settings: model: not a mapping, got {own!r}; give keys such as dtype and device"
        )
    return load(model, **own)


def _json(value: Any) -> str:
    """JSON as every reader takes it: what is not a number is null."""
    return json.dumps(_known(value), allow_nan=False)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _progress(line: str) -> None:
    click.echo(line, err=True)
