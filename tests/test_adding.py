"""docs/adding.md is executed: its modules run, its YAML is a study's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fasb.data.protocol import Question, check_questions
from fasb.extensions import find, settings_of
from fasb.fitting.directions import Vectors
from fasb.fitting.training import Classifiers, Fitted
from fasb.steering.bundle import Bundle
from fasb.steering.fingerprint import Fingerprint
from fasb.study.config import Study, load, merge, read_mapping
from fasb.user.fitting import checked_settings

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


def fitted(seed: int = 0) -> Fitted:
    """One fold of a model with 2 layers of 3 heads."""
    rng = np.random.default_rng(seed)
    size = (2, 3, 4)
    vectors = Vectors(rng.normal(size=size), rng.random(size[:2]))
    classifiers = Classifiers(
        rng.normal(size=size).astype(np.float32), np.zeros(size[:2], dtype=np.float32)
    )
    return Fitted(
        fold=0,
        accuracy={"logistic": rng.random(size[:2])},
        vectors={"probe": vectors},
        classifiers={"logistic": classifiers},
        fingerprint=Fingerprint("tiny", 2, 3, 4, "hash"),
    )


def test_the_page_has_a_module_for_each_kind():
    assert list(MODULES) == ["my_lab/sums.py", "my_lab/exact.py", "my_lab/random_direction.py"]


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


def test_the_method_draws_directions_of_the_same_length():
    method, ours = find("methods", "my_lab.random_direction"), find("methods", "fasb")
    bundle = method.fit(fitted(), method.Settings(k=2, alpha=3))
    plain = ours.fit(fitted(), ours.Settings(k=2, alpha=3, beta=0.5, s=6))
    assert isinstance(bundle, Bundle)
    assert bundle.policy == plain.policy
    assert not torch.allclose(bundle.edit.vector, plain.edit.vector)
    assert torch.allclose(bundle.edit.vector.norm(dim=-1), plain.edit.vector.norm(dim=-1))
    again = method.fit(fitted(), method.Settings(k=2, alpha=3, seed=1))
    assert not torch.equal(again.edit.vector, bundle.edit.vector)


def test_the_mappings_are_a_study():
    config = read_mapping(ROOT / "config" / "config.yaml")
    for mapping in MAPPINGS[:-1]:
        config = merge(config, mapping)
    study = load(config, "docs/adding.md")
    assert isinstance(study, Study)
    assert {"mine", "sums"} <= set(study.datasets)
    assert study.methods["random-direction"].use == "my_lab.random_direction"
    assert study.run.cells[0].model == "gemma2-2b"


def test_the_settings_of_fit_are_settings_of_fit():
    assert checked_settings(MAPPINGS[-1]).vector == "prototype"
