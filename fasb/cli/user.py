"""Commands for one's own model and questions: fit, steer, evaluate, show, export, compile."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from fasb.cli.options import check_written, read_settings
from fasb.errors import BundleError, ConfigError, did_you_mean


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--model` and `--settings`."""
    keys = "JSON text, or a .json or .yaml file; keys: docs/adding.md."
    model = click.option("--model", required=True, metavar="MODEL", help="Hub id or folder.")
    settings = click.option("--settings", callback=read_settings, metavar="FILE", help=keys)
    return model(settings(command))


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
INSTEAD = {
    "alpha": (float, "Strength, in place of the bundle's own."),
    "beta": (float, "Threshold of p, in place of the bundle's own; turns on one that was off."),
    "tokens": (int, "The most tokens of an answer, in place of the bundle's own."),
}
"""Options that change a bundle where it is used; `opened_bundle` takes them."""


def instead_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--alpha`, `--beta` and `--tokens`."""
    for name, (kind, text) in reversed(INSTEAD.items()):
        command = click.option(f"--{name}", type=kind, help=text)(command)
    return command


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


@click.command(
    "fit", epilog="Example: fasb fit --model Qwen/Qwen2.5-0.5B --data my.csv --out my.bundle"
)
@model_options
@DATA
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option(
    "--use",
    metavar="METHOD",
    help="Whose edit is fitted: CAA's (caa), say, or that of your own file by its dotted name.  "
    "[default: head_vectors]",
)
@click.option(
    "--vector",
    type=click.Choice(["probe", "prototype"]),
    help="Steering vectors.  [default: probe]",
)
@JUDGE
@click.option(
    "--controls",
    type=click.Path(path_type=Path),
    help="Text file of questions to leave alone, one a line.  [default: the library's own]",
)
def fit_command(model: str, settings: dict[str, Any], data: Path, out: Path, **given: Any) -> None:
    """Fit a bundle to a model and your own questions, and tune it.

    Reads the questions' true and false answers. Writes OUT, and activations in OUT.work, from where
    a killed run goes on. Without --judge it is tuned on MC2 as generated, the probability of true
    answers among all under the edit that free answers get. A bundle that would not help, or does
    harm, does not steer (docs/steer.md).
    """
    from fasb.provenance import content_hash, content_of
    from fasb.study.escaping import without_controls
    from fasb.user.fitsettings import checked_settings
    from fasb.user.fitting import fit
    from fasb.user.report import report

    check_written(out, model, settings, data, given["controls"])
    if given["judge"] is not None:
        given["judge"] = {"use": given["judge"]}
    settings = _merged(settings, {key: value for key, value in given.items() if value is not None})
    checked = checked_settings(settings)
    check_model(settings)
    read = (data,) if checked.controls is None else (data, checked.controls)
    inputs = {str(path): content_hash(content_of(str(path))) for path in read}
    work = out.with_name(out.name + ".work")
    bundle = fit(model, data, checked, work, lambda line: click.echo(line, err=True))
    # `fasb explain` makes the command of these, and says which files are others by now
    given_settings = checked.model_dump(mode="json", exclude_unset=True)
    made_by = {"data": str(data), "model": model, "settings": given_settings, "inputs": inputs}
    bundle.save(out, made_by)
    click.echo(without_controls(report(bundle)))
    click.echo(f"{out}: written; {work} may be deleted", err=True)


@click.command(
    "steer",
    epilog="Example: fasb steer --model Qwen/Qwen2.5-0.5B --bundle my.bundle "
    '"Who built the tower?"',
)
@model_options
@BUNDLE
@instead_options
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
    from fasb.cli.terminal import legend, opened_console, picture, show
    from fasb.decoding.stream import stream
    from fasb.user.steering import attach, prompts_of
    from fasb.wholefiles import writing

    check_keys(settings, "model")
    bundle = opened_bundle(options)  # before a model is loaded
    if options["svg"] is not None:
        if options["as_json"]:
            raise ConfigError("--svg: draws answers as they are shown; leave out --json")
        check_written(options["svg"], model, settings, options["bundle"])
    loaded = load_named(model, settings)
    attach(loaded, bundle, options["siblings"])
    beta, console, pages = bundle.policy.beta, opened_console(), []
    if console.is_terminal and not options["as_json"]:
        console.print(legend(beta), end="\n\n")
    for question, prompt in zip(questions, prompts_of(loaded, bundle, questions), strict=True):
        events = stream(loaded, prompt, bundle, options["siblings"])
        if options["as_json"]:
            for event in events:
                click.echo(_json({"question": question, **asdict(event)}))
        else:
            pages.append((question, show(console, question, events, beta)))
    if options["svg"]:
        with writing(options["svg"]) as part:
            part.write_text(picture(pages, beta), encoding="utf-8")


@click.command(
    "evaluate",
    epilog="Example: fasb evaluate --model Qwen/Qwen2.5-0.5B --bundle my.bundle --data my.csv",
)
@model_options
@BUNDLE
@DATA
@JUDGE
@click.option("--seen", is_flag=True, help="Keep questions that the bundle was fitted or tuned on.")
@SIBLINGS
@JSON
def evaluate_command(**options: Any) -> None:
    """Compare a model with and without a bundle on questions with reference answers.

    Questions that the bundle was fitted or tuned on are left out, and the number of those is
    printed.
    """
    from fasb.steering.bundle import Bundle
    from fasb.user.evaluation import as_table, evaluate, judge_of, questions_of, unseen

    settings = options["settings"]
    check_keys(settings, "model", "judge", "separator")
    # "" is no judge either, but somebody's variable that is not set
    named = {} if options["judge"] is None else {"judge": {"use": options["judge"]}}
    judge = judge_of(_merged(settings, named).get("judge"))
    # before a model is loaded
    bundle = Bundle.load(options["bundle"])
    questions = questions_of(options["data"], settings.get("separator", ""))
    if not options["seen"]:
        unseen(questions, bundle)
    model = load_named(options["model"], settings)
    found = evaluate(model, bundle, questions, judge, options["seen"], siblings=options["siblings"])
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
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
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

    check_written(file, bundle)
    export(Bundle.load(bundle), file)
    click.echo(f"{file}: written; tracker and policy stay behind", err=True)


@click.command(
    "compile", epilog="Example: fasb compile my.bundle --model Qwen/Qwen2.5-0.5B --out steered"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@model_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to write; a new one."
)
@SIBLINGS
def compile_command(
    bundle: Path, model: str, settings: dict[str, Any], out: Path, siblings: bool
) -> None:
    """Write a model with a bundle's edit in its weights.

    Only for edits that are always on, the same at every token, prompt included, and affine. The
    folder loads like any model, and answers as the bundle does.
    """
    from fasb.steering.bundle import Bundle
    from fasb.user.compiling import compile_bundle, refuse_what_varies

    check_keys(settings, "model")
    known = Bundle.load(bundle)
    refuse_what_varies(known)
    check_written(out, model, settings, bundle)  # a folder that is there would be replaced
    compile_bundle(load_named(model, settings), known, out, siblings)
    click.echo(f"{out}: written; no bundle is needed with it", err=True)


def _merged(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options over settings; a judge's own settings stay if it is the same judge."""
    judge = settings.get("judge")
    if isinstance(judge, dict) and given.get("judge", {}).get("use") == judge.get("use"):
        given = {**given, "judge": judge}
    return {**settings, **given}


def check_keys(settings: dict[str, Any], *known: str) -> None:
    """Refuse settings that a command would pass over without a word.

    Raises:
        ConfigError: naming the first key that is not among those known.
    """
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"--settings: {key}: not used by this command; it takes {', '.join(known)}"
            )


def opened_bundle(options: dict[str, Any]) -> Any:
    """Return the bundle of `--bundle` with what `--alpha`, `--beta` and `--tokens` change.

    Raises:
        BundleError: the file is missing, damaged or no bundle.
        ConfigError: an option is out of range, or changes nothing of this bundle.
    """
    from fasb.extensions import validated
    from fasb.settings import DecodingSettings
    from fasb.steering.bundle import Bundle

    bundle = Bundle.load(options["bundle"])
    given = {name: options[name] for name in INSTEAD if options[name] is not None}
    can_track = bundle.edit is not None and bundle.tracker is not None
    if bundle.policy.when == "never" and can_track and "beta" in given:
        bundle = bundle.with_policy(when="token")
    steers = bundle.edit is not None and bundle.policy.when != "never"
    for name, counts in (("alpha", steers), ("beta", bundle.policy.reads_p)):
        if name in given and not counts:
            turn_on = ", or give --beta, which turns it on" if name == "alpha" and can_track else ""
            raise ConfigError(
                f"--{name}: changes nothing of a bundle that does not steer by it; leave it "
                f"out{turn_on}; see 'fasb show'"
            )
    if "tokens" in given:
        decoding = {**bundle.decoding.model_dump(), "tokens": given.pop("tokens")}
        bundle = replace(bundle, decoding=validated(DecodingSettings, decoding, "decoding"))
    return bundle.with_policy(**given) if given else bundle


def load_named(model: str, settings: dict[str, Any]) -> Any:
    """Return the model of a command line, loaded as its settings say."""
    from fasb.user.steering import load

    check_model(settings)
    return load(model, **settings.get("model", {}))


def check_model(settings: dict[str, Any]) -> None:
    """Refuse settings of a model that are none, or that name another than `--model`.

    Raises:
        ConfigError: naming the first of them.
    """
    from fasb.settings import ModelSettings

    own = settings.get("model", {})
    if not isinstance(own, dict):
        raise ConfigError(
            f"--settings: model: not a mapping, got {own!r}; give keys such as dtype and device"
        )
    unknown = [key for key in own if key == "path" or key not in ModelSettings.model_fields]
    if unknown:
        raise ConfigError(
            f"--settings: model.{unknown[0]}: not a setting beside --model; "
            f"{did_you_mean(unknown[0], set(ModelSettings.model_fields) - {'path'})}"
        )


def _json(value: Any) -> str:
    """JSON as every reader takes it: what is not a number is null."""
    return json.dumps(_known(value), allow_nan=False)


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
