"""The stages in the order of the pipeline, as `fasb run` runs them, on a tiny model."""

import contextlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from published_sets import write_lines
from tiny import tiny_checkpoint

from fasb.artifacts import read_json, read_parquet, stamp_of
from fasb.cli import group
from fasb.errors import ArtifactError, BundleError, ConfigError, DataError
from fasb.steering.bundle import Bundle
from fasb.study import shards
from fasb.study.config import load
from fasb.study.jobs import STAGES, STUDY, dump_study, job, read_study, run_job, write_study
from fasb.study.layers import merge
from fasb.study.stages.fit import say_ties
from fasb.study.verify import verify_folder

METHODS = {
    "unsteered": {},
    "fasb": {
        "use": "head_vectors",
        "gate": "probe",
        "settings": {"alpha": 60, "beta": 0.4},
        "grid": {"k": [2, 3], "s": [4]},
    },
    "same": {
        "use": "head_vectors",
        "gate": "probe",
        "settings": {"alpha": 60, "beta": 0.4, "when": "prompt"},
        "like": "fasb",
    },
}
FIT = ("questions", "splits", "activations", "trace", "trackers", "anchors", "vectors")
TUNE = ("check_judges", "sweep", "judge_sweep", "tune")
TEST = ("generate", "judge", "score", "side_effects", "metrics")
CELL = "m/d/seed3"
NAMES = ("splits.json", "anchors.h5", "vectors.safetensors", "trackers.safetensors")
NAMES += ("sweep.parquet", "grid.parquet", "tuned.json", "generations.parquet", "judged.parquet")
NAMES += ("scores.parquet", "metrics.parquet")


def mapping(model, **dataset):
    """A study of one model and one table of questions, in the working folder."""
    texts = {"load": "plain_text", "settings": {"path": "texts"}, "tokens": 8, "batch": 2}
    entry = {"load": "table", "settings": {"path": "t.jsonl"}, "side_effects": texts}
    return {
        "models": {"m": {"path": model}},
        "datasets": {"d": {**entry, **dataset}},
        "methods": METHODS,
        "split": {"validation": 0.4},
        "activations": {"batch": 8},
        "decoding": {"tokens": 6, "batch": 4},
        "scoring": {"batch": 4},
        "run": {"cells": [{"model": "m", "dataset": "d"}], "seeds": [3], "methods": [*METHODS]},
    }


def prepare(folder):
    """The study's questions and texts."""
    rows = []
    for i in range(14):
        rows.append({"question": f"What is {i}?", "true": [f"{i}.", "It."], "false": [f"{i + 1}."]})
    write_lines(folder / "t.jsonl", rows)
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("The sky is blue.")


def run_stages(study, names):
    """Run these stages for every target that the study has."""
    write_study(study)
    for name in names:
        for target in STAGES[name].scope.targets(study):
            run_job(STAGES[name].command, target, job(study, name, target).key)


def run_study(folder, study):
    """All stages from questions to metrics, in a folder; its cell's folder."""
    prepare(folder)
    with contextlib.chdir(folder):
        run_stages(study, (*FIT, *TUNE, *TEST))
    return folder / "results" / CELL


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory):
    """A judge of somebody else's."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "lab").mkdir()
    (folder / "lab" / "counting.py").write_text(
        "import numpy as np\nfrom fasb.settings import Section\n"
        "class Settings(Section):\n    model: str = ''\n"
        "def judge(questions, answers, settings):\n"
        "    return "
        "{'true': np.array([len(a) % 2 for a in answers], float), 'info': np.ones(len(answers))}\n"
        "def provenance(settings):\n    return {'version': 7}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lab", "lab.counting"):
            patch.delitem(sys.modules, name, raising=False)
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def entries(model):
    """The config of a study whose answers are judged."""
    unrelated = {"load": "plain_text", "settings": {"path": "texts"}, "tokens": 8, "choices": "d"}
    return mapping(model, judge={"use": "lab.counting"}, side_effects=unrelated)


@pytest.fixture(scope="module")
def cell(tmp_path_factory, entries):
    return run_study(tmp_path_factory.mktemp("study"), load(entries))


def test_every_method_is_tested_on_every_question_once(cell):
    questions = read_parquet(cell.parents[2] / "questions" / "d.parquet")
    names = ("generations", "scores", "metrics")
    generations, scores, metrics = (read_parquet(cell / f"{name}.parquet") for name in names)
    for frame in (generations, scores[scores["tuned_for"] == "mc2"], metrics):
        for method in METHODS:
            assert sorted(frame[frame["method"] == method]["question"]) == sorted(questions["id"])
    assert metrics[["true", "info", "mc1", "mc2_tuned", "harmed"]].notna().all(axis=None)


def test_the_same_study_gives_the_same_results(cell, entries, tmp_path):
    again = run_study(tmp_path, load(entries))
    for name in NAMES:
        assert stamp_of(again / name)["digest"] == stamp_of(cell / name)["digest"], name


def test_results_say_what_made_them(cell):
    made_by = stamp_of(cell / "generations.parquet")["provenance"]
    assert made_by["stage"] == "generate"
    assert made_by["settings"]["methods"] == list(METHODS)
    for path in ("traces/m/d.parquet", f"{CELL}/splits.json", f"{CELL}/tuned.json"):
        digest = stamp_of(cell.parents[2] / path)["digest"]
        assert made_by["inputs"][f"results/{path}"] == digest[:16]
    assert stamp_of(cell / "splits.json")["provenance"]["seed"] == 3
    assert stamp_of(cell / "judged.parquet")["provenance"]["judged_by"] == {"version": 7}


def test_tuned_bundles_can_be_loaded_and_name_their_method(cell):
    bundle = Bundle.load(cell / "bundles" / "same-fold1-mc2.safetensors")
    about = (bundle.about["method"], bundle.about["tuned_for"], bundle.policy.when)
    tuned = read_json(cell / "tuned.json")
    assert set(tuned) == {"fold0", "fold1"}
    steers = tuned["fold1"]["same"]["steers"]["mc2"]
    assert about == ("same", "mc2", "prompt" if steers else "never")


def test_a_dataset_without_judge_is_tuned_and_tested_on_choices(tmp_path, model):
    cell = run_study(tmp_path, load(mapping(model)))
    assert read_parquet(cell / "generations.parquet").empty
    metrics, grid = (read_parquet(cell / f"{name}.parquet") for name in ("metrics", "grid"))
    assert len(metrics) == 14 * len(METHODS)
    assert metrics["mc1"].notna().all()
    assert metrics["true"].isna().all()
    assert (grid[grid["chosen"]]["method"].value_counts() == 2).all()
    assert set(read_parquet(cell / "side_effects.parquet")["question"]) == {"text0"}


def test_a_sibling_is_steered_by_the_bundles_of_the_model_they_were_fitted_to(
    cell, entries, tmp_path, monkeypatch
):
    monkeypatch.chdir(cell.parents[3])
    sibling = {"path": str(tiny_checkpoint(tmp_path / "sibling", seed=1))}
    own = {"model": "m", "dataset": "d"}
    above = {"models": {"s": sibling}}
    above["run"] = {"cells": [own, {"model": "s", "dataset": "d", "from": own}]}
    study, target = load(merge(entries, above)), "s/d/seed3-from-m.d"
    write_study(study)
    run_job("trace", "s/d")
    run_job("generate", target)
    run_job("score", target)
    folder = Path("results") / target
    mine, other = (read_parquet(at / "generations.parquet") for at in (cell, folder))
    unsteered = read_parquet(Path("results/traces/s/d.parquet"))
    assert stamp_of(Path("results/traces/s/d.parquet"))["provenance"]["passed_over"] == {}
    keys = ["fold", "method", "question", "phrasing"]
    assert other[keys].equals(mine[keys])
    said = other[other["method"] == "unsteered"].set_index("question")["answer"]
    traced = unsteered.set_index("question")["text"].rename("answer")
    assert said.sort_index().equals(traced.sort_index())
    assert other[other["fired"]]["answer"].tolist() != mine[mine["fired"]]["answer"].tolist()
    assert read_parquet(folder / "scores.parquet")[["mc1", "mc2"]].notna().all(axis=None)


def test_a_model_that_is_no_sibling_is_refused(cell, entries, tmp_path, monkeypatch):
    monkeypatch.chdir(cell.parents[3])
    other = str(tiny_checkpoint(tmp_path / "other", seed=1))
    write_study(load(merge(entries, {"models": {"m": {"path": other}}})))
    with pytest.raises(BundleError, match=r"made for 'model0' \(weights .*, but this is 'other'"):
        run_job("score", CELL)


def test_a_job_refuses_a_study_that_changed_where_it_matters_to_it(
    cell, entries, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    study = load(entries)
    keys = {name: job(study, name, CELL).key for name in ("splits", "sweep", "tune")}
    changed = load(merge(entries, {"decoding": {"tokens": 7}}))
    write_study(changed)
    with pytest.raises(
        ArtifactError, match=r"^results/study.json: sweep m/d/seed3 depends on other settings, "
    ):
        run_job("sweep", CELL, keys["sweep"])
    assert job(changed, "splits", CELL).key == keys["splits"]
    assert job(changed, "tune", CELL).key != keys["tune"]


def test_replaced_files_make_stale_what_was_made_with_them(entries, model, tmp_path, monkeypatch):
    """A local model, or one that a judge asks, may be trained anew in its place."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    own, asked = (shutil.copytree(model, tmp_path / name) for name in ("own", "asked"))
    judge = {"use": "lab.counting", "settings": {"model": str(asked)}}
    other = {"models": {"m": {"path": str(own)}}, "datasets": {"d": {"judge": judge}}}

    def keys():
        study = load(merge(entries, other))
        found = {}
        for stage in STAGES.values():
            for target in stage.scope.targets(study):
                found[stage.name, target] = job(study, stage.name, target).key
        return found

    def changed(before):
        now = keys()
        return {stage for stage, target in now if now[stage, target] != before[stage, target]}

    before = keys()
    (asked / "model.safetensors").write_bytes(b"of another judge")
    assert changed(before) == {"check_judges", "judge_sweep", "judge"}
    before = keys()
    (own / "chat_template.jinja").write_text("{{ messages }}")
    loading = {"activations", "trace", "sweep", "generate", "score", "side_effects"}
    assert changed(before) == loading


def test_the_study_is_written_only_where_it_changes_and_read_as_it_was(
    entries, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    study = load({**entries, "preset": "reference"})
    write_study(study)
    first = STUDY.stat().st_mtime_ns
    write_study(study)
    assert STUDY.stat().st_mtime_ns == first
    assert read_study() == study
    # what nobody gave still comes from the preset below
    assert read_study().sections("d").decoding.edit == "transient"
    STUDY.write_text("{")
    write_study(study)
    assert dump_study(read_study()) == dump_study(study)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweeep", CELL], "fasb run: no stage 'sweeep'; did you mean 'sweep'?"),
        (["sweep", "m/d/seed4"], "sweep: the study has no target 'm/d/seed4'; did you mean 'm/d/s"),
        (["table", "judges"], "table: the study has no target 'judges'; "),
        (["check-judges", "e"], "check-judges: the study has no target 'e'; known: d"),
    ],
)
def test_a_wrong_stage_or_target_is_one_line(entries, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_study(load(entries))
    found = CliRunner().invoke(group, ["run", *arguments])
    assert isinstance(found.exception, ConfigError)
    assert str(found.exception).startswith(message)


def test_without_a_study_a_job_says_how_to_write_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"study.json: no such file; run 'snakemake', or 'fasb"):
        run_job("questions", "d")


def test_side_effects_name_the_files_of_their_texts(cell):
    effects = cell / "side_effects.parquet"
    questions = read_parquet(cell.parents[2] / "questions" / "d.parquet")
    assert set(read_parquet(effects)["question"]) == {"text0", *questions["id"]}
    assert list(stamp_of(effects)["provenance"]["source"]["files"]) == ["a.txt"]


def test_texts_are_no_questions(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    write_study(load(mapping(model, load="plain_text", settings={"path": "texts"})))
    with pytest.raises(
        DataError, match=r"d\.load: plain_text gives texts, not questions; name it in `side_eff"
    ):
        run_job("questions", "d")


def test_questions_may_be_yielded_one_by_one(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "one_by_one.py").write_text(
        "from fasb.data.protocol import Question\n"
        "from fasb.settings import Section\n"
        "class Settings(Section):\n    'None.'\n"
        "def load(settings):\n"
        "    for i in range(4):\n"
        "        yield Question(f'{i}', f'Who {i}?', ('me',), ('you',), 'me', f'{i}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    write_study(load(mapping(model, load="my_lab.one_by_one", settings={})))
    run_job("questions", "d")
    assert len(read_parquet(tmp_path / "results" / "questions" / "d.parquet")) == 4


def test_a_missing_file_is_one_line(tmp_path, monkeypatch, entries):
    monkeypatch.chdir(tmp_path)
    write_study(load(entries))
    with pytest.raises(ArtifactError, match=r"d\.parquet: no such file"):
        run_job("splits", CELL)


CONTROLS = {
    "unsteered": {},
    "fasb": METHODS["fasb"],
    "after": {"use": "head_vectors", "settings": {"alpha": 60, "k": 2}, "grid": {"after": [1, 2]}},
    "mean": {"use": "head_vectors", "like": "fasb", "mean_strength": True},
    "chance": {
        "use": "head_vectors",
        "gate": "chance",
        "settings": {"alpha": 60, "beta": 0.4},
        "like": "fasb",
    },
    "random": {
        "use": "head_vectors",
        "gate": "probe",
        "settings": {"vector": "random", "s": 1000, "k": 2},
        "grid": {"alpha": [20, 60]},
        "crossed": ["Random", "Probe"],
    },
    "oracle": {
        "use": "head_vectors",
        "settings": {"vector": "prototype", "k": 2, "when": "oracle", "s": 1000},
        "grid": {"alpha": [20, 60]},
    },
    "abstain": {
        "gate": "probe",
        "settings": {"when": "token", "abstain": True, "k": 2, "s": 2},
        "grid": {"beta": [0.3, 0.5]},
    },
    "best": {
        "gate": "probe",
        "settings": {"when": "always", "best_of": 3},
        "grid": {"k": [2, 3]},
    },
    "particles": {
        "gate": "probe",
        "settings": {"when": "always", "best_of": 3, "s": 2, "k": 2},
        "grid": {"resample": [1, 9]},
    },
    "guided": {
        "gate": "probe",
        "settings": {"when": "always", "among": 4, "k": 2},
        "grid": {"guide": [1, 9]},
    },
    "asked": {"grid": {"instruction": ["", "Be true."]}},
}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory, entries):
    """The folder of a study of controls, and its generations and metrics."""
    folder = tmp_path_factory.mktemp("controls")
    run = {**entries["run"], "methods": [*CONTROLS]}
    roles = {"unsteered": "main", "fasb": "main"}
    named = {}
    for name, entry in CONTROLS.items():
        named[name] = {"role": roles.get(name, "control"), **entry}
    study = load({**entries, "methods": named, "run": run})
    cell = run_study(folder, study)
    with contextlib.chdir(folder):
        run_stages(study, ("table", "figure", "report"))
    return folder / "results", read_parquet(cell / "generations.parquet"), cell


def test_controls_are_swept_tuned_tested_and_shown(controlled):
    results, generations, cell = controlled
    unsteered = generations[generations["method"] == "unsteered"].set_index("question")
    tuned = read_json(cell / "tuned.json")
    for name in CONTROLS:
        rows = generations[generations["method"] == name].set_index("question")
        assert len(rows) == len(unsteered)
        for fold, of_fold in rows.groupby("fold"):
            steers = tuned[f"fold{fold}"][name].get("steers", {}).get("generation")
            if not steers and name != "asked":
                assert (of_fold["answer"] == unsteered["answer"][of_fold.index]).all()
                assert (of_fold["strength"] == 0).all()
    text = (results / "tables" / "crossing.md").read_text()
    assert "Random, Probe" in text
    assert "Random, Probe" not in (results / "tables" / "ablation.md").read_text()


SHOWN = ("tables/main.csv", "tables/tuning.md", "figures/costs.png", "report.html")


def test_tables_figures_and_the_report_are_checked_by_their_receipts(controlled, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(controlled[0], folder)
    for name in SHOWN:
        made_by = stamp_of(folder / name)["provenance"]
        assert {"settings", "inputs", "versions", "commit", "hardware"} <= set(made_by)
    with contextlib.chdir(tmp_path):
        before = {str(one.path): one.told for one in verify_folder(Path("results")) if one.wrong}
        assert not [name for name in SHOWN if f"results/{name}" in before]
        for name in SHOWN:
            (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        after = {str(one.path): one.told for one in verify_folder(Path("results")) if one.wrong}
    changed = {f"results/{name}" for name in SHOWN}
    # the report was made of what is another now
    assert changed <= after.keys() - before.keys() <= changed | {"results/report.json"}
    assert all("content does not match its checksum" in after[name] for name in changed)


def test_a_method_that_abstains_declines_where_it_fires(controlled):
    _, generations, _ = controlled
    rows = generations[generations["method"] == "abstain"]
    declined = rows["answer"] == "I have no comment."
    assert (declined == rows["fired"]).all()


def test_an_oracle_steers_exactly_what_the_judge_finds_not_true(controlled):
    _, generations, cell = controlled
    tuned = read_json(cell / "tuned.json")
    rows = generations[generations["method"] == "oracle"]
    steers = np.array(
        [tuned[f"fold{fold}"]["oracle"]["steers"]["generation"] for fold in rows["fold"]]
    )
    # the judge of these tests finds answers of an odd length true
    wrong = rows["trace_answer"].map(len) % 2 == 0
    assert (rows["fired"] == (wrong & steers)).all()
    assert (rows[rows["fired"]]["kept"] == 0).all()
    sweep = read_parquet(cell / "sweep.parquet")
    assert sweep[sweep["method"] == "oracle"]["fired"].any()


def test_best_of_n_counts_all_that_it_draws_and_edits_nothing(controlled):
    _, generations, cell = controlled
    tuned = read_json(cell / "tuned.json")
    rows = generations[generations["method"] == "best"]
    drawn = rows[[tuned[f"fold{fold}"]["best"]["steers"]["generation"] for fold in rows["fold"]]]
    assert (drawn["strength"] == 0).all()
    assert (drawn["decoded"] >= drawn["n_tokens"] + 2).all()
    assert (drawn["passes"] == drawn["decoded"] + 3).all()
    scores = read_parquet(cell / "scores.parquet")
    assert not scores[scores["method"] == "best"]["fired"].any()


SHARED = ("sweep", "generate", "score")
WRITTEN = ("sweep.parquet", "sweep_mc.parquet", "generations.parquet", "scores.parquet")


def test_shards_give_the_bytes_of_one_job_and_a_killed_one_resumes_alone(
    cell, entries, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "BLOCK", 2)
    found = {}
    for n in (1, 3):
        folder = tmp_path / f"by{n}"
        shutil.copytree(cell.parents[3], folder, ignore=shutil.ignore_patterns(".store"))
        monkeypatch.chdir(folder)
        study = load(merge(entries, {"models": {"m": {"job": {"shards": n}}}}))
        for name in WRITTEN:
            (folder / "results" / CELL / name).unlink()
        for stage in SHARED:
            run_stages(study, (f"{stage}_part", stage))
        paths = [folder / "results" / CELL / name for name in WRITTEN]
        found[n] = [stamp_of(path)["digest"] for path in paths]
    assert found[3] == found[1]

    parts = Path("results") / CELL / "parts"
    rows = [len(read_parquet(parts / f"{i}of3" / "generations.parquet")) for i in (1, 2, 3)]
    assert min(rows) > 0
    assert sum(rows) == 14 * len(METHODS)
    killed = parts / "2of3" / "generations.parquet"
    digest = stamp_of(killed)["digest"]
    killed.unlink()
    monkeypatch.setattr("fasb.study.run.load_model", lambda settings: pytest.fail("loaded"))
    run_job("generate-part", f"{CELL}/2of3")
    run_job("generate", CELL)
    assert stamp_of(killed)["digest"] == digest
    assert stamp_of(Path("results") / CELL / "generations.parquet")["digest"] == found[1][2]
    found = [one for one in verify_folder(Path("results")) if "parts" in one.path.parts]
    assert [one for one in found if one.wrong] == []


def keys_by_prompt(entries, stage, target, method):
    """Keys of a job under the study's prompt and under one with other words around a question."""
    keys = []
    for prompt in ({}, {"prefix": "Answer truly.\n\n"}):
        over = {"methods": {"other": method}, "datasets": {"d": {"prompt": prompt}}}
        study = load(merge(entries, {**over, "run": {"methods": ["unsteered", "other"]}}))
        keys.append(job(study, stage, target).key)
    return keys


@pytest.mark.parametrize(("method", "depends"), [("head_vectors", False), ("loreft", True)])
def test_what_is_learned_behind_the_prompt_depends_on_it(entries, method, depends):
    before, after = keys_by_prompt(entries, "vectors", CELL, {"use": method})
    assert (before != after) == depends


@pytest.mark.parametrize(("read", "depends"), [("answer_end", False), ("prompted_end", True)])
def test_a_bank_depends_on_the_prompt_where_it_is_read_behind_it(entries, read, depends):
    method = {"use": "head_vectors", "settings": {"read": read}}
    before, after = keys_by_prompt(entries, "activations", f"m/d/{read}", method)
    assert (before != after) == depends


def test_no_job_depends_on_how_many_shards_there_are(entries):
    other = {"models": {"m": {"job": {"shards": 4}}}}
    plain, shared = load(entries), load(merge(entries, other))
    for stage in STAGES.values():
        for target in stage.scope.targets(plain):
            assert job(plain, stage.name, target).key == job(shared, stage.name, target).key
    parts = STAGES["generate_part"].scope.targets(shared)
    assert list(parts) == [f"{CELL}/{i}of4" for i in (1, 2, 3, 4)]
    assert len({job(shared, "generate_part", one).key for one in parts}) == 1
    files = job(shared, "generate", CELL).inputs["generations_parts"]
    assert files == [f"results/{CELL}/parts/{i}of4/generations.parquet" for i in (1, 2, 3, 4)]
    assert "generations_parts" not in job(plain, "generate", CELL).inputs


def test_what_chooses_among_texts_counts_all_of_them_and_edits_nothing(controlled):
    _, generations, cell = controlled
    sweep = read_parquet(cell / "sweep.parquet")
    for name in ("particles", "guided"):
        chosen = sweep[(sweep["method"] == name) & sweep["fired"]]
        assert len(chosen)
        assert (chosen["strength"] == 0).all()
    rows = generations[(generations["method"] == "guided") & generations["fired"]]
    assert (rows["decoded"] == 4 * rows["n_tokens"]).all()
    assert (rows["passes"] == rows["decoded"] + 1).all()
    rows = generations[(generations["method"] == "particles") & generations["fired"]]
    assert (rows["decoded"] >= rows["n_tokens"] + 2).all()
    assert ((rows["passes"] - rows["decoded"]) % 3 == 0).all()
    assert (rows["passes"] > rows["decoded"]).all()


def test_what_only_asks_in_another_way_has_unsteered_answers_of_its_own(controlled):
    _, generations, cell = controlled
    rows = generations[generations["method"] == "asked"]
    assert (rows["answer"] == rows["trace_answer"]).all()
    assert not rows["fired"].any()
    sweep = read_parquet(cell / "sweep.parquet")
    first, second = (
        sweep[(sweep["method"] == "asked") & (sweep["setting"] == i)]["answer"].tolist()
        for i in range(2)
    )
    assert first != second


def test_heads_that_tie_at_the_last_place_are_named(capsys):
    accuracy = {"logistic": np.array([[0.7, 0.8], [0.7, 0.7]]), "cosine": np.eye(2)}
    training = SimpleNamespace(fold=1, accuracy=accuracy.get)
    settings = [SimpleNamespace(k=2), SimpleNamespace(k=1), SimpleNamespace()]
    say_ties(training, [SimpleNamespace(method=one, gate_settings=None) for one in settings])
    assert capsys.readouterr().err.splitlines() == [
        "fold 1, logistic, k = 2: the last heads tie at 70.0 %; taken (layer.head) 0.0, left out "
        "1.0, 1.1",
        "fold 1, cosine, k = 1: the last heads tie at 100.0 %; taken (layer.head) 0.0, left out "
        "1.1",
    ]
