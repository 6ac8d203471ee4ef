"""docs/adding.md is executed: its modules run, its YAML is a study's."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from fits import some_fits

from fasb.data.protocol import Question, check_questions
from fasb.extensions import find, settings_of
from fasb.fitting.reads import Read
from fasb.study.config import Study, load
from fasb.study.layers import merge, read_mapping
from fasb.user.fitsettings import checked_settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text()
MODULES = {
    code.splitlines()[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S)
}
MAPPINGS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    """The page's modules in a folder on the path, and its CSV in the working folder."""
    for name, code in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    (tmp_path / "my.csv").write_text("question,true,false\nWhy?,a,b\nHow?,c;d,e\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_the_page_has_a_module_for_each_kind():
    assert list(MODULES) == [
        "my_lab/sums.py",
        "my_lab/exact.py",
        "my_lab/random_direction.py",
        "my_lab/best_head.py",
    ]


def test_the_dataset_gives_questions():
    questions = find("data", "my_lab.sums").load(
        settings_of("data", "my_lab.sums", {"largest": 3}, "x")
    )
    check_questions(questions, "sums")
    assert len(questions) == 9
    assert len({question.group for question in questions}) == 6


def test_the_judge_tells_true_from_false():
    judge = find("judges", "my_lab.exact")
    question = Question("1", "What is 1 plus 1?", true=("2",), false=("3",), best="2", group="1")
    found = judge.judge([question] * 4, ["It is 2.", "2 or 3", "", "5"], judge.Settings())
    assert found["true"].tolist() == [1, 0, 0, 0]
    assert found["info"].tolist() == [1, 1, 0, 1]


def test_the_method_draws_directions_of_the_same_length(tmp_path):
    method, ours = find("methods", "my_lab.random_direction"), find("methods", "head_vectors")
    training = some_fits(tmp_path).training(0)
    (drawn,) = method.fit(training, method.Settings(k=2)).changes
    (plain,) = ours.fit(training, ours.Settings(k=2)).changes
    assert torch.equal(drawn.at, plain.at)
    vectors = drawn.operation.vector, plain.operation.vector
    assert not torch.allclose(*vectors)
    assert torch.allclose(*(vector.norm(dim=-1) for vector in vectors))
    (again,) = method.fit(training, method.Settings(k=2, seed=1)).changes
    assert not torch.equal(again.operation.vector, drawn.operation.vector)


def test_the_gate_watches_the_most_accurate_head(tmp_path):
    gate = find("gates", "my_lab.best_head")
    training = some_fits(tmp_path).training(0)
    tracker = gate.fit(training, gate.Settings())
    accuracy = training.accuracy("logistic")
    layer, head = tracker.at[0].tolist()
    assert accuracy[layer, head] == accuracy.max()
    assert list(gate.READS) == [Read()]


def test_the_mappings_are_a_study():
    config = read_mapping(ROOT / "config" / "config.yaml")
    for mapping in MAPPINGS[:-1]:
        config = merge(config, mapping)
    study = load(config, "docs/adding.md")
    assert isinstance(study, Study)
    assert {"mine", "sums"} <= set(study.datasets)
    assert study.methods["my-direction"].use == "my_lab.random_direction"
    assert study.run.cells[0].model == "gemma2-2b"


def test_the_settings_of_fit_are_settings_of_fit():
    assert checked_settings(MAPPINGS[-1]).vector == "prototype"
