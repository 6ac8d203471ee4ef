"""Every reader of a file, with a small whole file for it, and how its content is mutated."""

import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import yaml
from mutations import of_arrays, of_frame, of_hdf5, of_value, put_frame
from restamped import FRAMES, GRID, METRICS, QUESTIONS
from synthetic import _anchors, _tuned

from fasb.artifacts import read_tensors, write_json, write_tensors
from fasb.cli.options import read_settings
from fasb.data.protocol import read_questions, write_questions
from fasb.data.splits import read_splits
from fasb.data.table import Settings, load
from fasb.fitting.anchors import read_anchors
from fasb.hdf5files import writing_hdf5
from fasb.study import config
from fasb.study.frames import read_mapping, read_table
from fasb.study.jobs import dump_study, read_study
from fasb.study.layers import read_mapping as read_config
from fasb.study.metrics import summary

Mutate = Callable[[Path, random.Random], bool]
"""Writes a mutation of the file's content in its place; False where it cannot be written."""


@dataclass(frozen=True)
class Reader:
    """A reader: writes its whole file, mutates that, reads it. sealed: it has a checksum."""

    name: str
    file: str
    write: Callable[[Path], object]
    mutate: Mutate
    read: Callable[[Path], object]
    sealed: bool = True


ROWS = [
    {"question": "Who?", "true": "me; she", "false": "you", "id": "a"},
    {"question": "What?", "true": "this", "false": "that; those", "id": "b"},
]
CONFIG: dict[str, Any] = {
    "models": {"llama": {"path": "some/llama", "device": "cuda", "job": {"threads": 4}}},
    "datasets": {
        "own": {"load": "table", "settings": {"path": "my.csv"}, "decoding": {"tokens": 9}}
    },
    "methods": {
        "unsteered": {},
        "iti": {"use": "head_vectors", "settings": {"k": 2}, "grid": {"alpha": [1, 2.5]}},
        "fasb": {"use": "head_vectors", "gate": "probe", "grid": {"s": [2, 4], "beta": [0.5]}},
    },
    "run": {
        "cells": [{"model": "llama", "dataset": "own"}],
        "seeds": [0, 1],
        "methods": ["unsteered", "iti", "fasb"],
    },
    "wandb": {"mode": "disabled"},
}
FIT = {
    "grid": {"k": [2], "alpha": [1.0, 2.0], "beta": [0.5], "s": [4]},
    "decoding": {"tokens": 9, "seed": 1},
    "prompt": {"question": "Q: {question}", "stop": ["\n"]},
    "seed": 3,
}


def put_json(value: Any, path: Path, rng: random.Random) -> bool:
    try:
        write_json(path, of_value(value, rng))
    except UnicodeEncodeError:
        return False
    return True


def put_text(make: Callable[[Any], str], value: Any, path: Path, rng: random.Random) -> bool:
    try:
        path.write_text(make(of_value(value, rng)), encoding="utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        return False
    return True


def as_csv(rows: Any) -> str:
    text = io.StringIO()
    rows = rows if isinstance(rows, list) else [rows]
    writer = csv.writer(text)
    writer.writerow(["question", "true", "false", "id"])
    for row in rows:
        writer.writerow(list(row.values()) if isinstance(row, dict) else [row])
    return text.getvalue()


def as_jsonl(rows: Any) -> str:
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def put_tensors(path: Path, rng: random.Random) -> bool:
    arrays, about, _ = read_tensors(path)
    if rng.random() < 0.5 and about:
        about = of_value(about, rng)
    else:
        arrays = of_arrays(arrays, rng)
    write_tensors(path, arrays or {"none": np.zeros(1)}, {}, about)
    return True


def put_hdf5(path: Path, rng: random.Random) -> bool:
    of_hdf5(path, rng)
    return True


def write_anchors(path: Path) -> None:
    with writing_hdf5(path) as file:
        _anchors(file, np.random.default_rng(0))


def write_bundle(path: Path) -> None:
    from test_steering_bundle import bundle

    bundle("cosine").save(path)


def read_bundle(path: Path) -> object:
    from fasb.steering.bundle import Bundle

    return Bundle.load(path)


def write_bank(path: Path) -> None:
    from tiny import tiny_bank

    tiny_bank(path, 8)


def read_bank(path: Path) -> object:
    from fasb.fitting.bank import Bank

    bank = Bank.open(path)
    return [bank.layer(layer) for layer in range(bank.n_layers)]


def write_trackers(path: Path) -> None:
    arrays = {}
    for kind in ("logistic", "cosine"):
        arrays |= {
            f"fold0.{kind}.weight": np.ones((2, 3, 4)),
            f"fold0.{kind}.bias": np.ones((2, 3)),
        }
    write_tensors(path, arrays, {}, {"fingerprint": {}})


def read_trackers(path: Path) -> object:
    from fasb.fitting.fold import read_classifiers

    return read_classifiers(path)


def write_vectors(path: Path) -> None:
    from test_steering_bundle import bundle

    from fasb.steering.serialize import edit_layout, edit_tensors, tracker_layout, tracker_tensors

    one = bundle()
    tensors = edit_tensors(one.edit, "fold0.a") | tracker_tensors(one.tracker, "fold1.b")
    arrays = {name: value.numpy() for name, value in tensors.items()}
    layouts = {
        "fold0.a": {"edit": edit_layout(one.edit)},
        "fold1.b": {"tracker": tracker_layout(one.tracker)},
    }
    write_tensors(path, arrays, {}, layouts)
    write_anchors(path.with_name("anchors.h5"))


def read_vectors(path: Path) -> object:
    from fasb.fitting.fold import read_folds
    from fasb.settings import StageSettings

    return read_folds(path.with_name("anchors.h5"), path, StageSettings())


def read_options(path: Path) -> object:
    from fasb.user.fitsettings import checked_settings

    option = click.Option(["--settings"])
    context = click.Context(click.Command("fit", params=[option]))
    return checked_settings(read_settings(context, option, str(path)))


def write_study(path: Path) -> None:
    write_json(path, dump_study(config.load(CONFIG)))


def study_json(path: Path, rng: random.Random) -> bool:
    return put_json(dump_study(config.load(CONFIG)), path, rng)


def _frame(name: str) -> Reader:
    frame = FRAMES[name]
    if len(frame) > 40:
        frame = frame.iloc[:20]

    def mutate(path: Path, rng: random.Random) -> bool:
        return put_frame(path, of_frame(frame, rng))

    return Reader(name.partition("/")[0], name, partial(put_frame, frame=frame), mutate, read_table)


def _json(name: str, value: Any, read: Callable[[Path], object]) -> Reader:
    return Reader(name, name, lambda path: write_json(path, value), partial(put_json, value), read)


def _text(
    name: str, value: Any, make: Callable[[Any], str], read: Callable[[Path], object]
) -> Reader:
    write = lambda path: path.write_text(make(value))  # noqa: E731
    return Reader(name, name, write, partial(put_text, make, value), read, sealed=False)


def read_any_table(path: Path) -> object:
    return load(Settings(path=str(path)))


def plain_parquet(path: Path, rng: random.Random | None = None) -> bool:
    frame = pd.DataFrame(ROWS) if rng is None else of_frame(pd.DataFrame(ROWS), rng)
    return put_frame(path, frame)


def questions(path: Path, rng: random.Random) -> bool:
    write_questions(path, QUESTIONS[:3], {})
    return put_frame(path, of_frame(pd.read_parquet(path), rng))


FOLDS = {"folds": [{"train": ["a", "b"], "validation": ["c"], "test": ["d"]}]}
READERS = [
    Reader("bundle", "my.bundle", write_bundle, put_tensors, read_bundle),
    Reader("bank", "bank.h5", write_bank, put_hdf5, read_bank),
    Reader("anchors.h5", "anchors.h5", write_anchors, put_hdf5, read_anchors),
    Reader("trackers", "trackers.safetensors", write_trackers, put_tensors, read_trackers),
    Reader("vectors", "vectors.safetensors", write_vectors, put_tensors, read_vectors),
    _text("table.csv", ROWS, as_csv, read_any_table),
    _text("table.jsonl", ROWS, as_jsonl, read_any_table),
    Reader(
        "table.parquet", "t.parquet", plain_parquet, plain_parquet, read_any_table, sealed=False
    ),
    _text(
        "config.yaml",
        CONFIG,
        yaml.safe_dump,
        lambda path: config.load(read_config(path), str(path)),
    ),
    _text("settings.json", FIT, json.dumps, read_options),
    Reader("study.json", "study.json", write_study, study_json, read_study),
    Reader(
        "questions",
        "questions.parquet",
        lambda path: write_questions(path, QUESTIONS[:3], {}),
        questions,
        read_questions,
    ),
    _json("splits.json", FOLDS, read_splits),
    _json("tuned.json", _tuned(GRID), read_mapping),
    _json("metrics.json", summary(METRICS, ["iti"]), read_mapping),
    *(_frame(name) for name in FRAMES),
]
