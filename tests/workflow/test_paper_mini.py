"""The paper's study in little, run for real.

TruthfulQA's files and prompt, tiny checkpoints, LM judges.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkpoints import checkpoints
from published_sets import REAL, realdata
from transformers import AutoTokenizer

from fasb.artifacts import read_json, read_parquet, stamp_of
from fasb.data import truthfulqa
from fasb.study import cells
from fasb.study.config import load_files

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "config" / name for name in ("models.yaml", "config.yaml", "paper-mini.yaml")]
FILES = ("judged", "judged_second", "metrics")
MODELS = {"llama2-mini": "llama2", "qwen2.5-mini": "qwen2.5"}
pytestmark = [*realdata, pytest.mark.study]


def run(folder, *arguments):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [
        "snakemake",
        "--directory",
        folder,
        "--cores",
        "2",
        *arguments,
        "--configfile",
        *CONFIGS,
    ]
    environment = {**os.environ, "PATH": path, "FASB_MODELS": str(folder / "checkpoints")}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    checkpoints(folder / "checkpoints")
    run(folder)
    return folder


@pytest.fixture
def study(finished, monkeypatch):
    monkeypatch.setenv("FASB_MODELS", str(finished / "checkpoints"))
    return load_files(CONFIGS)


def cell(folder, model):
    return folder / "results" / model / "truthfulqa" / "seed42"


@pytest.mark.timeout(2000)
def test_every_table_figure_and_the_report_are_made_once(finished, study):
    assert [target for target in cells.targets(study) if not (finished / target).exists()] == []
    assert "Nothing to be done" in run(finished, "-n")
    rows = pd.read_csv(finished / "results" / "tables" / "main.csv")
    assert set(rows["model"]) == set(MODELS)
    assert rows[rows["metric"].isin(["true_info", "mc1", "mc2"])]["value"].between(0, 100).all()


def test_a_transfer_and_a_share_of_the_data_are_among_them(finished):
    made = finished / "results"
    transferred = pd.read_csv(made / "tables" / "transfer.csv")
    assert set(transferred["dataset"].str.contains("natural_questions")) == {True}
    assert (made / "figures" / "data_efficiency.png").exists()
    shared = pd.read_csv(made / "figures" / "data_efficiency.csv")
    assert len(set(shared.filter(like="pairs").iloc[:, 0])) == 2


def test_questions_are_the_first_of_each_half_and_folds_test_one_half_each(finished):
    asked = read_parquet(finished / "results" / "questions" / "truthfulqa.parquet")["id"].tolist()
    assert asked == [f"{i:03d}" for i in (*range(8), *range(409, 417))]
    for model in MODELS:
        folds = read_json(cell(finished, model) / "splits.json")["folds"]
        assert [fold["test"] for fold in folds] == [asked[:8], asked[8:]]
        assert [len(fold["train"]) for fold in folds] == [6, 6]


def test_both_judges_are_tried_before_anything_is_swept(finished):
    tried, *swept = [
        finished / "results" / "questions" / "truthfulqa.judge.json",
        *finished.rglob("sweep.parquet"),
    ]
    assert [said["n"] for said in read_json(tried)] == [16, 16]
    assert all(tried.stat().st_mtime < path.stat().st_mtime for path in swept)


@pytest.mark.parametrize("model", MODELS)
def test_each_answer_is_judged_once_by_the_judge_that_is_named(finished, model):
    written, judged = (
        read_parquet(cell(finished, model) / f"{name}.parquet")
        for name in ("generations", "judged")
    )
    pairs = set(zip(written["question"], written["answer"])) | set(
        zip(written["question"], written["trace_answer"])
    )
    assert len(judged) == len(pairs)
    assert set(zip(judged["question"], judged["answer"])) == pairs
    assert judged[["true", "info"]].apply(lambda scores: scores.between(0, 1)).all(axis=None)
    by = stamp_of(cell(finished, model) / "judged.parquet")["provenance"]["judged_by"]
    named = {kind: (by[kind]["path"], by[kind]["revision"]) for kind in ("true", "info")}
    folder = finished / "checkpoints"
    assert named == {
        "true": (str(folder / "truth-judge"), None),
        "info": (str(folder / "info-judge"), None),
    }


def test_two_judges_are_compared_and_their_verdicts_stay_apart(finished):
    rows = pd.read_csv(finished / "results" / "tables" / "judges.csv")
    assert set(rows["model"]) == set(MODELS)
    every = rows[(rows["method"] == "all") & (rows["score"] == "truth")]
    assert (every["only_first"] + every["only_second"] > 0).all()
    assert every["kappa"].between(-1, 1).all()
    for model in MODELS:
        made = [stamp_of(cell(finished, model) / f"{name}.parquet")["provenance"] for name in FILES]
        first, second, used = made[0]["judged_by"], made[1]["judged_by"], made[2]["judge"]
        assert first["true"]["path"] == used["true"]["path"] != second["true"]["path"]
    assert 'id="judges"' in (finished / "results" / "report.html").read_text()


@pytest.mark.parametrize("model", MODELS)
def test_the_model_was_given_the_real_prompt_as_its_tokenizer_gives_it(finished, model):
    path = finished / "results" / "traces" / model / "truthfulqa.parquet"
    checkpoint = finished / "checkpoints" / MODELS[model]
    assert stamp_of(path)["provenance"]["settings"]["model"]["path"] == str(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    settings = truthfulqa.Settings(path=str(REAL))
    text = truthfulqa.prompt(settings)["prefix"] + f"Q: {truthfulqa.load(settings)[409].text}"
    (prompt,) = read_parquet(path).query("question == '409'")["prompt"]
    assert prompt.tolist() == tokenizer(text)["input_ids"]
    assert (prompt[0] == tokenizer.bos_token_id) == (model == "llama2-mini")
    assert tokenizer.decode(prompt, skip_special_tokens=True) == text
