"""Files whose content was altered and whose checksum was then made anew."""

import json
from dataclasses import asdict

import h5py
import numpy as np
import pandas as pd
from registry import fault, said
from synthetic import _anchors, _answers, _effects, _grid, _questions, _tuned

from fasb.artifacts import write_json, write_parquet, write_tensors
from fasb.data.protocol import read_questions, write_questions
from fasb.data.splits import read_splits
from fasb.fitting.anchors import read_anchors
from fasb.hdf5files import seal, writing_hdf5
from fasb.steering.fingerprint import Fingerprint
from fasb.study.frames import read_mapping, read_table
from fasb.study.jobs import read_study
from fasb.study.metrics import question_metrics, summary

KEPT = "the file, as it is; no number is made of it"
QUESTIONS = _questions(2)
GENERATIONS, JUDGED, SCORES = _answers(QUESTIONS, np.random.default_rng(0))
METRICS = question_metrics(QUESTIONS, GENERATIONS, JUDGED, SCORES)
GRID = _grid(np.random.default_rng(0))
TRACE = pd.DataFrame(
    {
        "question": ["a", "b"],
        "phrasing": [0, 0],
        "prompt": [[1], [1, 2]],
        "tokens": [[3], [4, 5]],
        "ended": [1, 0],
        "text": ["x", "y"],
        "pieces": [["x"], ["y", "z"]],
    }
)
SWEPT = {"n_tokens": 3, "fired": True, "kept": 1, "strength": 2.0, "alpha": 1.0}
SWEEP = pd.DataFrame(
    [
        {
            "fold": 0,
            "method": "m",
            "setting": 0,
            "question": "a",
            "phrasing": 0,
            "answer": "x",
            **SWEPT,
        }
    ]
)
FRAMES = {
    "generations.parquet": GENERATIONS,
    "judged.parquet": JUDGED,
    "scores.parquet": SCORES,
    "metrics.parquet": METRICS,
    "grid.parquet": GRID,
    "side_effects.parquet": _effects(np.random.default_rng(0)),
    "traces/m/d.parquet": TRACE,
    "sweep.parquet": SWEEP,
}


def put(frame, column, value, row=1):
    """A copy with one value changed, whatever its type."""
    values = list(frame[column])
    values[min(row, len(values) - 1)] = value
    return frame.assign(**{column: pd.Series(values, index=frame.index)})


CHANGES = {
    "a verdict of 7": ("judged.parquet", lambda f: put(f, "true", 7.0)),
    "a verdict that is NaN": ("judged.parquet", lambda f: put(f, "info", np.nan)),
    "a verdict there twice": ("judged.parquet", lambda f: pd.concat([f, f.iloc[:1]])),
    "p of 1.5": ("generations.parquet", lambda f: put(f, "p", [1.5])),
    "p that is NaN": ("generations.parquet", lambda f: put(f, "p", [np.nan])),
    "fewer p than tokens": ("generations.parquet", lambda f: put(f, "p", [0.5])),
    "another number of tokens": ("generations.parquet", lambda f: put(f, "n_tokens", 3)),
    "a negative count": ("generations.parquet", lambda f: put(f, "decoded", -1)),
    "a count of 2^40": ("generations.parquet", lambda f: put(f, "passes", 2**40)),
    "a number where a switch is": (
        "generations.parquet",
        lambda f: f.assign(fired=f["fired"].astype(int)),
    ),
    "an answer that is no text": ("generations.parquet", lambda f: put(f, "answer", None)),
    "a strength that is not finite": ("generations.parquet", lambda f: put(f, "strength", np.inf)),
    "generations without a column": ("generations.parquet", lambda f: f.drop(columns="kept")),
    "generations with one more": ("generations.parquet", lambda f: f.assign(extra=1)),
    "an answer there twice": ("generations.parquet", lambda f: pd.concat([f, f.iloc[:1]])),
    "MC2 of 2": ("scores.parquet", lambda f: put(f, "mc2", 2.0)),
    "a share of -0.5": ("metrics.parquet", lambda f: put(f, "harmed", -0.5)),
    "a grid with a setting twice": ("grid.parquet", lambda f: pd.concat([f, f.iloc[:1]])),
    "nats that are negative": ("side_effects.parquet", lambda f: put(f, "kl", -1.0)),
    "a token below zero": ("traces/m/d.parquet", lambda f: put(f, "tokens", [-1, 2])),
    "a trace that ended otherwise": ("traces/m/d.parquet", lambda f: put(f, "ended", 9)),
    "fewer pieces than tokens": ("traces/m/d.parquet", lambda f: put(f, "pieces", ["y"])),
    "more tokens kept than there are": ("sweep.parquet", lambda f: put(f, "kept", 5)),
}


def changed(folder, name, change):
    path = folder / name
    write_parquet(path, FRAMES[name])
    read_table(path)
    write_parquet(path, change(FRAMES[name]).reset_index(drop=True))
    return said(lambda: read_table(path))


for what, (name, change) in CHANGES.items():
    fault(f"{what}, in `{name.split('/')[0].removesuffix('.parquet')}`", KEPT)(
        lambda folder, name=name, change=change: changed(folder, name, change)
    )


@fault("a question's rows lost from the generations of one method", KEPT)
def lost(folder):
    some = GENERATIONS[(GENERATIONS["method"] != "iti") | (GENERATIONS["question"] != "e0-r1")]
    return said(lambda: question_metrics(QUESTIONS, some, JUDGED, SCORES))


@fault("a question's rows lost from the scores of all methods", KEPT)
def all_lost(folder):
    some = SCORES[SCORES["question"] != "e0-r1"]
    return said(lambda: question_metrics(QUESTIONS, GENERATIONS, JUDGED, some))


@fault("a question whose answers are no texts", KEPT)
def no_question(folder):
    write_questions(folder / "q.parquet", QUESTIONS, {})
    frame = pd.read_parquet(folder / "q.parquet")
    frame["true"] = [[1]] * len(frame)
    write_parquet(folder / "q.parquet", frame)
    return said(lambda: read_questions(folder / "q.parquet"))


@fault("a test question among those fitted on, in `splits.json`", KEPT)
def mixed(folder):
    fold = {"train": ["a"], "validation": ["b"], "test": ["a"]}
    write_json(folder / "splits.json", {"folds": [fold]})
    return said(lambda: read_splits(folder / "splits.json"))


@fault("`tuned.json` without a key", KEPT)
def tuned(folder):
    told = _tuned(GRID)
    write_json(folder / "tuned.json", told)
    read_mapping(folder / "tuned.json")
    del told["fold0"]["iti"]["edge"]
    write_json(folder / "tuned.json", told)
    return said(lambda: read_mapping(folder / "tuned.json"))


@fault("a list where a mean is, in `metrics.json`", KEPT)
def means(folder):
    told = summary(METRICS, ["iti"])
    write_json(folder / "metrics.json", told)
    read_mapping(folder / "metrics.json")
    told["iti"]["true"] = [0.5]
    write_json(folder / "metrics.json", told)
    return said(lambda: read_mapping(folder / "metrics.json"))


@fault("an unknown key in `study.json`", "the study's file; the workflow writes it anew")
def study(folder):
    write_json(folder / "study.json", {"sede": 3})
    return said(lambda: read_study(folder / "study.json"))


def ranked(folder, change):
    path = folder / "anchors.h5"
    with writing_hdf5(path) as file:
        _anchors(file, np.random.default_rng(0))
    read_anchors(path)
    with writing_hdf5(path) as file:
        _anchors(file, np.random.default_rng(0))
        change(file)
    return said(lambda: read_anchors(path))


def _set(name, at, value):
    def change(file):
        file[name][at] = value

    return change


def _move(file):
    file.move("fold1", "fold7")


def _both(file):
    del file["fold0/validation"]
    file["fold0/validation"] = ["e0-r0"]


def _drop(file):
    del file["fold0/cosine/accuracy"]


for what, change in {
    "an accuracy of 7": _set("fold0/logistic/accuracy", (0, 0), 7.0),
    "an accuracy that is NaN": _set("fold1/cosine/accuracy", (0, 0), np.nan),
    "no accuracy": _drop,
    "a fold of another number": _move,
    "a question fitted on and ranked on": _both,
}.items():
    fault(f"{what}, in `anchors.h5`", KEPT)(lambda folder, change=change: ranked(folder, change))


@fault("a dataset that lies in another file, in `anchors.h5`", KEPT)
def linked(folder):
    def change(file):
        del file["fold0/train"]
        file["fold0/train"] = h5py.ExternalLink("other.h5", "/x")

    path = folder / "anchors.h5"
    with writing_hdf5(path) as file:
        _anchors(file, np.random.default_rng(0))
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)
    return said(lambda: read_anchors(path))


def banked(folder, change):
    from tiny import tiny_bank

    from fasb.fitting.bank import Bank

    path = tiny_bank(folder / "bank.h5", 8).path
    with h5py.File(path, "r+") as file:
        change(file)
    seal(path)
    return said(lambda: Bank.open(path).layer(0))


def _value(name, value):
    def change(file):
        file[name][0] = value

    return change


def _shorter(name):
    def change(file):
        values = file[name][:-1]
        del file[name]
        file[name] = values

    return change


def _other_model(file):
    other = Fingerprint("tiny", 2, 4, 5, "vocabulary")
    file.attrs["fingerprint"] = json.dumps(asdict(other))


def _site(file):
    file.attrs["site"] = "nowhere"


for what, change in {
    "a label of 7": _value("label", 7),
    "an activation that is NaN": _value("activations", np.nan),
    "a label fewer": _shorter("label"),
    "a question id fewer": _shorter("question"),
    "activations of another model's shape": _other_model,
    "an unknown site": _site,
}.items():
    fault(f"{what}, in a bank", KEPT)(lambda folder, change=change: banked(folder, change))


@fault("a probe's weight that is NaN, in `trackers.safetensors`", KEPT)
def probe(folder):
    from fasb.fitting.fold import read_classifiers

    path, arrays = folder / "trackers.safetensors", {}
    for kind in ("logistic", "cosine"):
        arrays |= {
            f"fold0.{kind}.weight": np.ones((2, 3, 4)),
            f"fold0.{kind}.bias": np.ones((2, 3)),
        }
    write_tensors(path, arrays)
    read_classifiers(path)
    arrays["fold0.cosine.weight"][0] = np.nan
    write_tensors(path, arrays)
    return said(lambda: read_classifiers(path))


def bundled(folder, way, value):
    from test_steering_bundle import bundle

    from fasb.artifacts import read_tensors
    from fasb.steering.bundle import Bundle

    path = folder / "my.bundle"
    bundle().save(path)
    arrays, about, _ = read_tensors(path)
    part, key = way
    (arrays if part == "tensors" else about[part])[key] = value
    write_tensors(path, arrays, {}, about)
    return said(lambda: Bundle.load(path))


for what, way, value in (
    ("a step back of half a token", ("policy", "s"), 2.5),
    ("a thousand million steps back", ("policy", "backtracks"), 10**9),
    ("a strength of 1e39", ("policy", "alpha"), 1e39),
    ("answers of a thousand million tokens", ("decoding", "tokens"), 10**9),
    ("a template that reaches into objects", ("prompt", "question"), "{question.foo}"),
    (
        "a tracker's weight that is NaN",
        ("tensors", "tracker.weight"),
        np.full((2, 3), np.nan, "f4"),
    ),
    ("an unknown tensor", ("tensors", "more"), np.ones(3)),
    (
        "a calibration of 10^400",
        ("tracker", "calibration"),
        {"slope": 10**400, "intercept": 0.0},
    ),
):
    fault(f"{what}, in a bundle", KEPT)(
        lambda folder, way=way, value=value: bundled(folder, way, value)
    )
