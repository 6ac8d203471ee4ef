"""Commands of the study's stages, from questions to test answers; each is what one rule of the workflow runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import click

from fasb.cli.options import out_option, settings_option
from fasb.errors import ArtifactError, DataError
from fasb.extensions import find, settings_of, validated
from fasb.settings import ModelSettings
from fasb.study.config import Overrides

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
SECTIONS = {"model": ModelSettings} | {
    name: type(field.default) for name, field in Overrides.model_fields.items()
}


def files(n: int, names: str) -> Callable[..., Any]:
    """The command's input files, as argument `files`."""
    return click.argument("files", nargs=n, type=PATH, metavar=names)


TRACE = click.argument("trace", required=False, type=FILE)
"""Last of a command's files: there is none where no answer is written."""
STORE = click.option(
    "--store", type=PATH, required=True, help="Folder where finished parts are kept."
)


@click.command("questions")
@settings_option
@out_option
def questions_command(settings: dict[str, Any], out: Path) -> None:
    """Write a dataset's questions as Parquet.

    Settings: load (a file of fasb/data/, or a dotted path), settings (that module's own), limit
    (the first so many of each half, or of each role; none: all).

    Example: fasb questions --settings '{"load": "fasb.world.questions", "settings": {"seed": 2}}'
    --out q.parquet
    """
    from fasb.data.protocol import write_questions
    from fasb.data.sources import origin
    from fasb.data.splits import first

    module = find("data", settings["load"])
    own = settings_of("data", settings["load"], settings["settings"], "settings")
    found = module.load(own)
    if any(isinstance(one, str) for one in found):
        raise DataError(
            f"load: {settings['load']} gives texts, not questions; name it in `side_effects`"
        )
    if settings.get("limit") is not None:
        found = first(found, settings["limit"])
    write_questions(out, found, _made_by("questions", settings) | {"source": origin(module, own)})


@click.command("splits")
@files(1, "QUESTIONS")
@click.option("--seed", type=int, required=True, help="Divides each fold's development questions.")
@settings_option
@out_option
def splits_command(files: Path, seed: int, settings: dict[str, Any], out: Path) -> None:
    """Divide questions into folds, and each fold into train, validation and test.

    Example: fasb splits q.parquet --seed 0 --settings '{"split": {"folds": 2}}' --out splits.json
    """
    from fasb.data.protocol import read_questions
    from fasb.data.splits import split, write_splits

    folds = split(read_questions(files), _section(settings, "split"), seed)
    write_splits(out, folds, _made_by("splits", settings, [files]) | {"seed": seed})


@click.command("activations")
@files(1, "QUESTIONS")
@settings_option
@out_option
def activations_command(files: Path, settings: dict[str, Any], out: Path) -> None:
    """Read the outputs of all heads at the end of every reference answer: a bank, as HDF5.

    Settings: model, read (answer_end, next_question_end), prompt, activations. A killed run goes on
    where it was.
    """
    from fasb.data.protocol import read_questions
    from fasb.fitting.bank import READS, collect, texts_of
    from fasb.model.load import load_model

    section = _section(settings, "activations")
    texts = texts_of(
        read_questions(files), READS[settings["read"]], _section(settings, "prompt"), section.seed
    )
    collect(
        load_model(_section(settings, "model")),
        texts,
        section,
        out,
        _made_by("activations", settings, [files]),
    )


@click.command("trace")
@files(1, "QUESTIONS")
@settings_option
@out_option
def trace_command(files: Path, settings: dict[str, Any], out: Path) -> None:
    """Let the model answer all questions unsteered.

    Settings: model, prompt, decoding.
    """
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.model.load import load_model
    from fasb.study.run import traced

    model = load_model(_section(settings, "model"))
    found = traced(
        model, read_questions(files), _section(settings, "prompt"), _section(settings, "decoding")
    )
    made_by = _made_by("trace", settings, [files]) | {"fingerprint": asdict(model.fingerprint)}
    write_parquet(out, found, made_by)


@click.command("anchors")
@files(2, "ANSWER_END SPLITS")
@settings_option
@out_option
def anchors_command(files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """Fit probes and prototypes of all heads in every fold, and take their accuracy.

    Settings: probes.
    """
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import fit_anchors

    section = _section(settings, "probes")
    fit_anchors(
        Bank.open(files[0]),
        read_splits(files[1]),
        section,
        out,
        _made_by("anchors", settings, files),
    )


@click.command("vectors")
@files(4, "ANSWER_END NEXT_QUESTION_END SPLITS ANCHORS")
@settings_option
@out_option
def vectors_command(files: tuple[Path, ...], settings: dict[str, Any], out: Path) -> None:
    """Make the steering vectors of all heads in every fold.

    Settings: vectors.
    """
    from fasb.data.splits import read_splits
    from fasb.fitting.bank import Bank
    from fasb.fitting.fold import check_splits, fit_vectors

    answers, following, splits_file, anchors = files
    splits = read_splits(splits_file)
    check_splits(anchors, splits)
    made_by = _made_by("vectors", settings, files)
    fit_vectors(
        (Bank.open(answers), Bank.open(following)),
        splits,
        anchors,
        _section(settings, "vectors"),
        out,
        made_by,
    )


@click.command("trackers")
@files(1, "ANCHORS")
@settings_option
@out_option
def trackers_command(files: Path, settings: dict[str, Any], out: Path) -> None:
    """Write the trackers of all heads in every fold."""
    from fasb.fitting.fold import fit_trackers

    fit_trackers(files, out, _made_by("trackers", settings, [files]))


@click.command("sweep")
@files(5, "QUESTIONS SPLITS ANCHORS VECTORS TRACKERS")
@TRACE
@settings_option
@STORE
@out_option
@click.option(
    "--out-mc", type=FILE, required=True, help="Parquet file for multiple-choice metrics."
)
def sweep_command(
    files: tuple[Path, ...],
    trace: Path | None,
    settings: dict[str, Any],
    store: Path,
    out: Path,
    out_mc: Path,
) -> None:
    """Run every method's grid on the validation questions.

    Settings: model, methods, judge (whether to generate, which needs TRACE), prompt, decoding,
    scoring, trackers.
    """
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.splits import read_splits
    from fasb.fitting.fold import check_splits
    from fasb.study.sweep import sweep_methods

    splits = read_splits(files[1])
    check_splits(files[2], splits)
    folds = list(zip(_fitted(files[2:], settings), splits, strict=True))
    if trace is not None:
        _check_model(trace, folds[0][0].fingerprint)
    questions, traces = read_questions(files[0]), _unsteered(trace, settings)
    answers, scores = sweep_methods(
        _runner(settings, store), folds, questions, traces, _methods(settings)
    )
    made_by = _made_by("sweep", settings, [*files, *filter(None, [trace])])
    write_parquet(out_mc, scores, made_by)
    write_parquet(out, answers, made_by)


@click.command("rehearse")
@files(1, "QUESTIONS")
@settings_option
@out_option
def rehearse_command(files: Path, settings: dict[str, Any], out: Path) -> None:
    """Ask each judge for a few reference answers, so that one that cannot judge is known before anything is generated.

    Settings: judges (each with use, settings).
    """
    from fasb.artifacts import write_json
    from fasb.data.protocol import read_questions
    from fasb.study.judging import Judge, rehearse

    questions = read_questions(files)
    said = [rehearse(validated(Judge, judge, "judges"), questions) for judge in settings["judges"]]
    write_json(out, said, _made_by("rehearse", settings, [files]))


@click.command("judge")
@click.argument("questions", type=FILE)
@click.argument("answers", nargs=-1, required=True, type=FILE)
@settings_option
@click.option(
    "--store", type=PATH, help="Folder where verdicts are kept, so that no answer is judged twice."
)
@out_option
def judge_command(
    questions: Path,
    answers: tuple[Path, ...],
    settings: dict[str, Any],
    store: Path | None,
    out: Path,
) -> None:
    """Judge each distinct answer in the ANSWERS files once.

    Settings: judge (use, settings), or null: then nothing is judged.
    """
    import pandas as pd

    from fasb.artifacts import Store, read_parquet, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.judging import Judge, distinct, judged, provenance

    found, judged_by = pd.DataFrame(columns=["question", "answer"]), {}
    if settings["judge"] is not None:
        pairs = distinct(read_questions(questions), [read_parquet(path) for path in answers])
        judge = validated(Judge, settings["judge"], "judge")
        found = judged(judge, pairs, None if store is None else Store(store))
        judged_by = provenance(judge)
    write_parquet(
        out, found, _made_by("judge", settings, [questions, *answers]) | {"judged_by": judged_by}
    )


@click.command("tune")
@files(7, "QUESTIONS SWEEP SWEEP_MC SWEEP_JUDGED ANCHORS VECTORS TRACKERS")
@settings_option
@out_option
@click.option("--grid", type=FILE, required=True, help="Parquet file for the whole grid's results.")
@click.option(
    "--bundles",
    type=PATH,
    required=True,
    help="Folder for the bundles of what was chosen; replaced whole.",
)
def tune_command(
    files: tuple[Path, ...], settings: dict[str, Any], out: Path, grid: Path, bundles: Path
) -> None:
    """Choose each method's setting in each fold, from its results on validation questions.

    Settings: methods, judge (false: tune on MC1), prompt, decoding, scoring, trackers.
    """
    from fasb.artifacts import read_parquet, write_json, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.study.tune import tune

    frames = [read_parquet(path) for path in files[1:4]]
    tuned = tune(
        _fitted(files[4:], settings), _methods(settings), read_questions(files[0]), *frames
    )
    made_by = _made_by("tune", settings, files)
    tuned.save_bundles(bundles, made_by)
    write_parquet(grid, tuned.grid, made_by)
    write_json(out, tuned.chosen, made_by)


@click.command("generate")
@files(4, "QUESTIONS SPLITS TUNED BUNDLES")
@TRACE
@settings_option
@STORE
@out_option
def generate_command(
    files: tuple[Path, ...], trace: Path | None, settings: dict[str, Any], store: Path, out: Path
) -> None:
    """Answer each fold's test questions with the tuned bundles, and unsteered.

    Settings: model, methods (names), judge (whether to generate, which needs TRACE), decoding
    (batch), transfer (model, dataset: whether the bundles are another's; prompt and tokens where
    the dataset is another); then SPLITS are those they came from.
    """
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.splits import read_splits
    from fasb.study.testing import generate

    questions, batch = read_questions(files[0]), _section(settings, "decoding").batch
    splits = _tested(read_splits(files[1]), questions, settings) if settings["judge"] else []
    bundles, traces = _bundles(files[3], settings), _unsteered(trace, settings)
    found = generate(_runner(settings, store), splits, questions, traces, bundles, batch)
    write_parquet(out, found, _made_by("generate", settings, [*files[:3], *filter(None, [trace])]))


@click.command("score")
@files(4, "QUESTIONS SPLITS TUNED BUNDLES")
@settings_option
@STORE
@out_option
def score_command(
    files: tuple[Path, ...], settings: dict[str, Any], store: Path, out: Path
) -> None:
    """Score the reference answers of each fold's test questions with the tuned bundles, and unsteered.

    Settings: model, methods (names), scoring (batch), transfer (as for generate).
    """
    from fasb.artifacts import write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.splits import read_splits
    from fasb.study.testing import score

    questions, batch = read_questions(files[0]), _section(settings, "scoring").batch
    splits = _tested(read_splits(files[1]), questions, settings)
    found = score(_runner(settings, store), splits, questions, _bundles(files[3], settings), batch)
    write_parquet(out, found, _made_by("score", settings, files[:3]))


@click.command("side-effects")
@files(2, "TUNED BUNDLES")
@click.argument("questions", required=False, type=FILE)
@settings_option
@STORE
@out_option
def side_effects_command(
    files: tuple[Path, Path],
    questions: Path | None,
    settings: dict[str, Any],
    store: Path,
    out: Path,
) -> None:
    """Measure what the tuned bundles do to plain texts, and to the answers to unrelated QUESTIONS.

    Settings: model, methods (names), texts (load, settings), tokens, batch, prompt and scoring (of
    QUESTIONS).
    """
    from fasb.artifacts import read_json, write_parquet
    from fasb.data.protocol import read_questions
    from fasb.data.sources import origin
    from fasb.study.testing import Unrelated, measure_side_effects

    tuned, bundles = files
    texts, sections = (
        settings["texts"],
        (_section(settings, "prompt"), _section(settings, "scoring")),
    )
    module, own = (
        find("data", texts["use"]),
        settings_of("data", texts["use"], texts["settings"], "texts.settings"),
    )
    choices = (
        [] if questions is None else [one for one in read_questions(questions) if one.role != "fit"]
    )
    unrelated = Unrelated(
        module.load(own), settings["tokens"], settings["batch"], choices, *sections
    )
    folds = len(read_json(tuned))
    found = measure_side_effects(
        _runner(settings, store), folds, (bundles, settings["methods"]), unrelated
    )
    made_by = _made_by("side-effects", settings, [tuned, *filter(None, [questions])])
    write_parquet(out, found, made_by | {"source": origin(module, own)})


def _section(settings: dict[str, Any], name: str) -> Any:
    """One section of the settings, its missing fields at their defaults."""
    return validated(SECTIONS[name], settings.get(name, {}), name)


def _methods(settings: dict[str, Any]) -> dict[str, Any]:
    from fasb.study.sweep import Method

    return {
        name: validated(Method, values, f"methods.{name}")
        for name, values in settings["methods"].items()
    }


def _fitted(paths: Sequence[Path], settings: dict[str, Any]) -> list[Any]:
    from fasb.fitting.training import Sections, read_fitted

    names = ("prompt", "decoding", "scoring", "trackers")
    return read_fitted(*paths, Sections(**{name: _section(settings, name) for name in names}))


def _runner(settings: dict[str, Any], store: Path) -> Any:
    from fasb.artifacts import Store
    from fasb.model.load import load_model
    from fasb.study.run import Runner

    section = _section(settings, "model")
    siblings = settings.get("transfer", {}).get("model", False)
    return Runner(section, cache(lambda: load_model(section)), Store(store), siblings)


def _tested(splits: list[Any], questions: list[Any], settings: dict[str, Any]) -> list[Any]:
    """The folds; where they are another dataset's, as many that test all of these questions."""
    from fasb.data.splits import all_tested

    return (
        all_tested(questions, len(splits))
        if settings.get("transfer", {}).get("dataset")
        else splits
    )


def _unsteered(trace: Path | None, settings: dict[str, Any]) -> Any:
    """The unsteered answers; None where none is written."""
    from fasb.artifacts import read_parquet

    if not settings["judge"]:
        return None
    if trace is None:
        raise ArtifactError(
            "TRACE: not given, but answers are judged; add what 'fasb trace' wrote as the last file"
        )
    return read_parquet(trace)


def _bundles(folder: Path, settings: dict[str, Any]) -> Any:
    from fasb.study.testing import Bundles

    transfer = settings.get("transfer", {})
    if not transfer.get("dataset"):
        return Bundles(folder, settings["methods"])
    return Bundles(folder, settings["methods"], _section(transfer, "prompt"), transfer["tokens"])


def _check_model(trace: Path, fingerprint: Any) -> None:
    """Refuse unsteered answers of another model, or of another revision, than the activations."""
    from fasb.artifacts import stamp_of
    from fasb.steering.fingerprint import Fingerprint

    answered_by = stamp_of(trace)["provenance"].get("fingerprint")
    if answered_by is not None:
        Fingerprint(**answered_by).check(fingerprint, what=str(trace))


def _made_by(stage: str, settings: dict[str, Any], inputs: Sequence[Path] = ()) -> dict[str, Any]:
    """Stage, settings, and the digests that the input files carry."""
    return {
        "stage": stage,
        "settings": settings,
        "inputs": {path.name: _digest(path)[:16] for path in inputs},
    }


def _digest(path: Path) -> str:
    """As recorded in the file; a bank of many gigabytes is not read again for it."""
    from fasb.artifacts import hdf5_stamp, stamp_of

    if path.suffix != ".h5":
        return str(stamp_of(path)["digest"])
    import h5py

    with h5py.File(path) as file:
        return str(hdf5_stamp(file, path)["digest"])
