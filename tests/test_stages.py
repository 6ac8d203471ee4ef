"""The stages' commands in the order of the pipeline, as the rules call them, on a tiny model."""

import json
import sys
from dataclasses import asdict, replace

import pandas as pd
import pytest
from click.testing import CliRunner
from published_sets import write_lines
from tiny import tiny_checkpoint

from fasb.artifacts import read_json, read_parquet, stamp_of, write_parquet
from fasb.cli import group
from fasb.cli.stages import _check_model
from fasb.errors import ArtifactError, BundleError, ConfigError, DataError
from fasb.steering.bundle import Bundle
from fasb.steering.fingerprint import Fingerprint

METHODS = {
    "unsteered": {"use": "unsteered", "code": "", "settings": {}, "grid": {}, "like": None},
    "fasb": {
        "use": "fasb",
        "code": "",
        "settings": {"beta": 0.4},
        "grid": {"k": [2, 3], "s": [4]},
        "like": None,
    },
    "same": {
        "use": "fasb",
        "code": "",
        "settings": {"gate": "question"},
        "grid": {},
        "like": "fasb",
    },
}
FITTED = ("anchors.h5", "vectors.safetensors", "trackers.safetensors")


def fasb(command, *arguments, settings, out, **options):
    """Run the command in this process; `options` are further ones, such as store."""
    options = {"settings": json.dumps({"version": "0", **settings}), "out": out, **options}
    named = [
        text
        for key, value in options.items()
        for text in (f"--{key.replace('_', '-')}", str(value))
    ]
    result = CliRunner().invoke(
        group, [command, *map(str, arguments), *named], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return {"path": str(tiny_checkpoint(tmp_path_factory.mktemp("model")))}


JUDGE = {"use": "lab.counting", "code": "", "settings": {}}


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory):
    """A judge of somebody else's."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "lab").mkdir()
    (folder / "lab" / "counting.py").write_text(
        "import numpy as np\nfrom fasb.settings import Section\n"
        "class Settings(Section):\n    pass\n"
        "def judge(questions, answers, settings):\n"
        "    return {'true': np.array([len(a) % 2 for a in answers], float), 'info': np.ones(len(answers))}\n"
        "def provenance(settings):\n    return {'version': 7}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lab", "lab.counting"):
            patch.delitem(sys.modules, name, raising=False)
        patch.syspath_prepend(folder)
        yield


class Study:
    """All stages from questions to metrics, in a folder."""

    def __init__(self, folder, model, judge):
        self.folder, self.model, self.judge = folder, model, judge
        self.trace = [] if judge is None else ["t"]
        rows = [
            {"question": f"What is {i}?", "true": [f"{i}.", "It."], "false": [f"{i + 1}."]}
            for i in range(14)
        ]
        write_lines(folder / "t.jsonl", rows)

    def at(self, *names):
        """Files by name; Parquet where it has no suffix."""
        return [
            self.folder / (name if "." in name or name == "bundles" else f"{name}.parquet")
            for name in names
        ]

    def run(self):
        self.fit()
        self.tune()
        self.test()
        return self

    def fit(self):
        source = {"load": "table", "code": "", "settings": {"path": str(self.folder / "t.jsonl")}}
        (questions, splits, traces), asked = (
            self.at("q", "splits.json", "t"),
            {"model": self.model, "prompt": {}},
        )
        fasb("questions", settings=source, out=questions)
        fasb("splits", questions, settings={"split": {"validation": 0.4}}, out=splits, seed=3)
        for read in ("answer_end", "next_question_end"):
            bank = {**asked, "read": read, "activations": {"batch": 8}}
            fasb("activations", questions, settings=bank, out=self.folder / f"{read}.h5")
        if self.trace:
            fasb("trace", questions, settings={**asked, "decoding": {"tokens": 6}}, out=traces)
        banks, (anchors, vectors, trackers) = (
            self.at("answer_end.h5", "next_question_end.h5"),
            self.at(*FITTED),
        )
        fasb("anchors", banks[0], splits, settings={"probes": {}}, out=anchors)
        fasb("vectors", *banks, splits, anchors, settings={"vectors": {}}, out=vectors)
        fasb("trackers", anchors, settings={"trackers": {}}, out=trackers)

    def tune(self):
        sections = {"decoding": {"tokens": 6}, "trackers": {}, "prompt": {}, "scoring": {}}
        settings = {"methods": METHODS, "judge": self.judge is not None, **sections}
        sweep, scores, judged, tuned, grid = self.at(
            "sweep", "sweep_mc", "sweep_judged", "tuned.json", "grid"
        )
        files, store = self.at("q", "splits.json", *FITTED, *self.trace), self.folder / "store"
        fasb(
            "sweep",
            *files,
            settings={"model": self.model, **settings},
            out=sweep,
            out_mc=scores,
            store=store,
        )
        fasb("judge", *self.at("q"), sweep, settings={"judge": self.judge}, out=judged, store=store)
        files = [*self.at("q"), sweep, scores, judged, *self.at(*FITTED)]
        fasb(
            "tune", *files, settings=settings, out=tuned, grid=grid, bundles=self.folder / "bundles"
        )

    def test(self):
        tested, store = {"model": self.model, "methods": list(METHODS)}, self.folder / "store"
        questions, generations, judged, scores = self.at("q", "generations", "judged", "scores")
        settings = {**tested, "judge": self.judge is not None, "decoding": {"batch": 4}}
        files = self.at("q", "splits.json", "tuned.json", "bundles", *self.trace)
        fasb("generate", *files, settings=settings, out=generations, store=store)
        fasb(
            "judge", questions, generations, settings={"judge": self.judge}, out=judged, store=store
        )
        files = self.at("q", "splits.json", "tuned.json", "bundles")
        fasb("score", *files, settings={**tested, "scoring": {"batch": 4}}, out=scores, store=store)
        cell, (metrics, summary) = (
            {"model": "m", "dataset": "d", "seed": 3},
            self.at("metrics", "metrics.json"),
        )
        settings = {**cell, "methods": list(METHODS)}
        fasb(
            "metrics",
            questions,
            generations,
            judged,
            scores,
            settings=settings,
            out=metrics,
            summary=summary,
        )


@pytest.fixture(scope="module")
def study(tmp_path_factory, model):
    return Study(tmp_path_factory.mktemp("study"), model, JUDGE).run()


def test_every_method_is_tested_on_every_question_once(study):
    (questions, generations, scores, metrics) = map(
        read_parquet, study.at("q", "generations", "scores", "metrics")
    )
    for frame in (generations, scores[scores["tuned_for"] == "mc2"], metrics):
        for method in METHODS:
            assert sorted(frame[frame["method"] == method]["question"]) == sorted(questions["id"])
    assert metrics[["true", "info", "mc1", "mc2_tuned", "harmed"]].notna().all(axis=None)


def test_the_same_commands_give_the_same_results(study, model, tmp_path):
    again = Study(tmp_path, model, JUDGE).run()
    names = (
        "answer_end.h5",
        *FITTED,
        "sweep",
        "grid",
        "tuned.json",
        "generations",
        "judged",
        "scores",
        "metrics",
    )
    for name in ("q", "t", "splits.json", *names):
        assert stamp_of(*again.at(name))["digest"] == stamp_of(*study.at(name))["digest"], name


def test_results_say_what_made_them(study):
    made_by = stamp_of(*study.at("generations"))["provenance"]
    assert made_by["stage"] == "generate"
    assert made_by["settings"]["methods"] == list(METHODS)
    assert made_by["inputs"]["t.parquet"] == stamp_of(*study.at("t"))["digest"][:16]
    assert stamp_of(*study.at("splits.json"))["provenance"]["seed"] == 3
    assert stamp_of(*study.at("judged"))["provenance"]["judged_by"] == {"version": 7}


def test_tuned_bundles_can_be_loaded_and_name_their_method(study):
    bundle = Bundle.load(study.folder / "bundles" / "same-fold1-mc2.safetensors")
    assert (bundle.about["method"], bundle.about["tuned_for"], bundle.policy.gate) == (
        "same",
        "mc2",
        "question",
    )
    assert set(read_json(*study.at("tuned.json"))) == {"fold0", "fold1"}


def test_a_dataset_without_judge_is_tuned_and_tested_on_choices(tmp_path, model):
    study = Study(tmp_path, model, None).run()
    assert read_parquet(*study.at("generations")).empty
    metrics, grid = read_parquet(*study.at("metrics")), read_parquet(*study.at("grid"))
    assert len(metrics) == 14 * len(METHODS)
    assert metrics["mc1"].notna().all()
    assert metrics["true"].isna().all()
    assert (grid[grid["chosen"]]["method"].value_counts() == 2).all()


def test_a_sibling_is_steered_by_the_bundles_of_the_model_they_were_fitted_to(study, tmp_path):
    sibling = {"path": str(tiny_checkpoint(tmp_path / "sibling", seed=1))}
    traces, generations, scores = (
        tmp_path / f"{name}.parquet" for name in ("t", "generations", "scores")
    )
    fasb(
        "trace",
        *study.at("q"),
        settings={"model": sibling, "prompt": {}, "decoding": {"tokens": 6}},
        out=traces,
    )
    tested = {"model": sibling, "methods": list(METHODS), "judge": True, "decoding": {"batch": 4}}
    files, options = study.at("q", "splits.json", "tuned.json", "bundles"), {"store": tmp_path}
    with pytest.raises(
        BundleError, match=r"made for 'model0' \(weights .*\), but this is 'sibling' .*siblings"
    ):
        fasb("generate", *files, traces, settings=tested, out=generations, **options)
    with pytest.raises(
        ArtifactError, match="TRACE: not given, but answers are judged; add what 'fasb trace' wrote"
    ):
        fasb("generate", *files, settings=tested, out=generations, **options)
    transfer = {**tested, "transfer": {"model": True, "dataset": False}}
    fasb("generate", *files, traces, settings=transfer, out=generations, **options)
    fasb("score", *files, settings=transfer, out=scores, **options)
    own, other, unsteered = map(read_parquet, (*study.at("generations"), generations, traces))
    keys = ["fold", "method", "question", "phrasing"]
    assert other[keys].equals(own[keys])
    said = other[other["method"] == "unsteered"].set_index("question")["answer"]
    assert said.sort_index().equals(
        unsteered.set_index("question")["text"].rename("answer").sort_index()
    )
    assert other[other["fired"]]["answer"].tolist() != own[own["fired"]]["answer"].tolist()
    assert read_parquet(scores)[["mc1", "mc2"]].notna().all(axis=None)


def test_a_wrong_key_is_one_line(tmp_path, study):
    with pytest.raises(ConfigError, match=r"split\.fold: unknown key; did you mean 'folds'\?"):
        fasb(
            "splits",
            *study.at("q"),
            settings={"split": {"fold": 3}},
            out=tmp_path / "s.json",
            seed=0,
        )


def test_a_missing_key_is_one_line(tmp_path, study):
    with pytest.raises(
        ConfigError, match="--settings: lacks the key 'judge'; see the command's --help"
    ):
        fasb("judge", *study.at("q", "sweep"), settings={}, out=tmp_path / "j.parquet")


def test_side_effects_name_the_files_of_their_texts(study, tmp_path):
    (tmp_path / "a.txt").write_text("The sky is blue.")
    texts = {"use": "plain_text", "code": "", "settings": {"path": str(tmp_path)}}
    settings = {
        "model": study.model,
        "methods": list(METHODS),
        "texts": texts,
        "tokens": 8,
        "batch": 2,
    }
    out, files = tmp_path / "side_effects.parquet", study.at("tuned.json", "bundles", "q")
    fasb("side-effects", *files, settings=settings, out=out, store=tmp_path)
    assert set(read_parquet(out)["question"]) == {"text0", *read_parquet(*study.at("q"))["id"]}
    assert list(stamp_of(out)["provenance"]["source"]["files"]) == ["a.txt"]
    fasb("side-effects", *files[:2], settings=settings, out=out, store=tmp_path)
    assert set(read_parquet(out)["question"]) == {"text0"}


def test_texts_are_no_questions(tmp_path):
    (tmp_path / "a.txt").write_text("Not a question.")
    texts = {"load": "plain_text", "settings": {"path": str(tmp_path)}}
    with pytest.raises(
        DataError, match="load: plain_text gives texts, not questions; name it in `side_effects`"
    ):
        fasb("questions", settings=texts, out=tmp_path / "q.parquet")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ArtifactError, match=r"q\.parquet: no such file"):
        fasb(
            "splits",
            tmp_path / "q.parquet",
            settings={"split": {}},
            out=tmp_path / "s.json",
            seed=0,
        )


def test_unsteered_answers_of_other_weights_than_the_activations_are_refused(tmp_path):
    made_for = Fingerprint("some/model", 3, 4, 8, "vocabulary", "1" * 40, "first")
    trace = tmp_path / "trace.parquet"
    write_parquet(trace, pd.DataFrame({"a": [1]}), {"fingerprint": asdict(made_for)})
    _check_model(trace, made_for)
    _check_model(trace, replace(made_for, revision=""))
    with pytest.raises(
        BundleError, match=r"trace\.parquet: made for 'some/model' at 1+ \(weights first\)"
    ):
        _check_model(trace, replace(made_for, weights="second"))
