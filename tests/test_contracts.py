"""What every dataset, method and judge must do: one list of checks, which a new file joins by being there.

A file that needs other files to be tried gets them in `DATASETS` or `JUDGES` below.
"""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from fits import some_fits, spoil
from published_sets import write_parquet
from pydantic import ValidationError
from test_choice_tasks import TASKS
from test_transfer_sets import CSV
from test_truthfulqa import write as write_truthfulqa
from tiny import tiny_checkpoint

from fasb.data.protocol import Question, check_questions, read_questions, write_questions
from fasb.extensions import FUNCTION, find, known, settings_of, validated
from fasb.settings import Section
from fasb.steering.bundle import Bundle

WORLD = {"kind": "tradeoff", "seed": 5, "entities": 6}

EXTENSIONS = [
    (package, name) for package in ("data", "methods", "judges") for name in known(package)
]
EXTENSIONS += [("data", "fasb.world.questions"), ("judges", "fasb.world.judge")]


def of(package):
    return [name for where, name in EXTENSIONS if where == package]


# ---- every extension


@pytest.fixture(params=EXTENSIONS, ids=lambda extension: "/".join(extension))
def extension(request):
    return request.param


def test_it_has_frozen_settings_one_function_and_a_docstring(extension):
    module = find(*extension)
    assert module.__doc__
    assert issubclass(module.Settings, Section)
    assert callable(getattr(module, FUNCTION[extension[0]]))
    assert getattr(module, FUNCTION[extension[0]]).__doc__


def test_its_settings_are_refused_by_name_and_cannot_be_changed(extension):
    module = find(*extension)
    with pytest.raises(ValidationError, match="no_such_key"):
        module.Settings(no_such_key=1)
    required = {
        name: "x" for name, field in module.Settings.model_fields.items() if field.is_required()
    }
    settings = module.Settings(**required)
    for name in module.Settings.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, None)


def test_its_settings_survive_json(extension):
    module = find(*extension)
    required = {
        name: "x" for name, field in module.Settings.model_fields.items() if field.is_required()
    }
    settings = module.Settings(**required)
    assert validated(module.Settings, settings.model_dump(mode="json"), "settings") == settings
    assert module.Settings.model_json_schema()


def test_reading_their_settings_needs_no_torch():
    lines = [f"settings = find({package!r}, {name!r}).Settings" for package, name in EXTENSIONS]
    heavy = "print([name for name in ('torch', 'transformers', 'sklearn', 'h5py') if name in sys.modules])"
    code = "\n".join(["import sys", "from fasb.extensions import find", *lines, heavy])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ---- datasets


def _table(folder: Path) -> dict:
    (folder / "t.csv").write_text("question,true,false\nwhy?,so;thus,no\nhow?,well,badly\n")
    return {"path": str(folder / "t.csv")}


def _truthfulqa(folder: Path) -> dict:
    return write_truthfulqa(folder).model_dump()


def _transfer(name: str):
    def write(folder: Path) -> dict:
        (folder / f"{name}.csv").write_text(CSV)
        return {"path": str(folder), "rows": "released"}

    return write


def _task(name: str):
    def write(folder: Path) -> dict:
        for file, rows in TASKS[name][1].items():
            write_parquet(folder / file, rows)
        return {"path": str(folder)}

    return write


DATASETS = {
    "table": _table,
    "truthfulqa": _truthfulqa,
    "fasb.world.questions": lambda _: WORLD,
    **{name: _transfer(name) for name in ("natural_questions", "trivia_qa")},
    **{name: _task(name) for name in TASKS},
}
"""For each dataset, what writes a small copy of it and gives the settings that read it."""


@pytest.fixture(
    params=[name for name in of("data") if name != "plain_text"]
)  # texts: tests/test_side_effects.py
def dataset(request, tmp_path):
    assert request.param in DATASETS, (
        "a new dataset: say in DATASETS how a small copy of it is made"
    )
    return find("data", request.param), settings_of(
        "data", request.param, DATASETS[request.param](tmp_path), ""
    )


def test_a_dataset_gives_the_same_valid_questions_each_time(dataset):
    module, settings = dataset
    questions = module.load(settings)
    check_questions(questions, "test")
    assert module.load(settings) == questions


def test_a_datasets_questions_are_read_as_written(dataset, tmp_path):
    module, settings = dataset
    questions = module.load(settings)
    write_questions(tmp_path / "q.parquet", questions, {})
    assert read_questions(tmp_path / "q.parquet") == questions


def test_a_dataset_gives_roles_to_all_its_questions_or_to_none(dataset):
    module, settings = dataset
    roles = {question.role for question in module.load(settings)}
    assert roles == {"any"} or roles <= {"fit", "test"}


# ---- methods


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    return some_fits(tmp_path_factory.mktemp("fits")).fit()


@pytest.fixture(scope="module")
def without_test(tmp_path_factory):
    """The same, but that the rows of fold 0's test questions are nonsense."""
    fits = some_fits(tmp_path_factory.mktemp("spoiled"))
    for bank in fits.banks:
        spoil(bank, fits.splits[0].test)
    return fits.fit()


@pytest.fixture(params=of("methods"))
def method(request):
    module = find("methods", request.param)
    few = {"k": 2} if "k" in module.Settings.model_fields else {}
    return lambda fits: module.fit(fits.read()[0], module.Settings(**few))


def test_a_method_fits_the_same_bundle_each_time(method, fits):
    assert method(fits).key() == method(fits).key()


def test_a_method_gives_a_bundle_that_can_be_attached(method, fits):
    bundle = method(fits)
    bundle.require()
    assert bundle.fingerprint == fits.banks[0].fingerprint
    for part in (bundle.edit, bundle.tracker):
        if part is not None:
            assert len({*map(tuple, part.heads.tolist())}) == len(part.heads) == 2


def test_a_method_uses_no_test_question(method, fits, without_test):
    assert method(fits).key() == method(without_test).key()


def test_a_methods_bundle_is_loaded_as_saved(method, fits, tmp_path):
    bundle = method(fits)
    bundle.save(tmp_path / "b.safetensors")
    loaded = Bundle.load(tmp_path / "b.safetensors")
    assert loaded.key() == bundle.key()
    assert asdict(loaded.policy) == asdict(bundle.policy)
    assert loaded.fingerprint == bundle.fingerprint


# ---- judges

MOON = Question(
    "m", "What is the moon made of?", ("It is rock.", "Rock."), ("It is cheese.",), "Rock.", "m"
)
ANSWERS = ["Rock.", "It is cheese.", "", "I have no comment.", "Nobody knows what it is made of."]


def _small_models(folder: Path) -> dict:
    model = {"path": str(tiny_checkpoint(folder)), "device": "cpu", "dtype": "float32"}
    return {"truth": model, "info": model, "batch": 2}


def _sacrebleu(_: Path) -> dict:
    pytest.importorskip("sacrebleu")
    return {}


JUDGES = {
    "causal_lm": _small_models,
    "similarity": _sacrebleu,
    "fasb.world.judge": lambda _: WORLD,
    "light": lambda _: pytest.skip("is trained first: tests/test_judges.py"),
}
"""For each judge, what makes the files that it needs and gives its settings."""


@pytest.fixture(params=of("judges"))
def judge(request, tmp_path):
    assert request.param in JUDGES, "a new judge: say in JUDGES which settings it is tried with"
    module = find("judges", request.param)
    settings = settings_of("judges", request.param, JUDGES[request.param](tmp_path), "")
    question = MOON
    if request.param == "fasb.world.judge":
        question = find("data", "fasb.world.questions").load(settings)[0]
    return lambda answers: module.judge([question] * len(answers), answers, settings)


def test_a_judge_gives_each_answer_a_score_from_0_to_1(judge):
    scores = judge(ANSWERS)
    assert scores
    assert set(scores) <= {"true", "info"}
    for values in scores.values():
        assert values.shape == (len(ANSWERS),)
        assert ((values >= 0) & (values <= 1)).all()


def test_a_judge_says_the_same_each_time_and_in_any_order(judge):
    forth, back = judge(ANSWERS), judge(ANSWERS[::-1])
    for kind, values in forth.items():
        assert np.allclose(values, back[kind][::-1], atol=1e-6)
        assert np.array_equal(values, judge(ANSWERS)[kind])


def test_a_judge_of_no_answers_gives_no_scores(judge):
    assert {values.shape for values in judge([]).values()} == {(0,)}
