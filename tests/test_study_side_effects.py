from dataclasses import replace

import pytest
from steering import some_bundle
from tiny import tiny_model, tiny_questions

from fasb.artifacts import Store
from fasb.data import plain_text
from fasb.data.prompts import instructed
from fasb.errors import DataError
from fasb.steering.policy import Policy
from fasb.study.evaluate import SIDE_EFFECTS, Bundles, Unrelated, measure_side_effects
from fasb.study.run import Runner
from fasb.study.tune import bundle_path
from fasb.world import documents


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_every_tuned_bundle_is_measured_and_kept_in_the_store(model, tmp_path):
    bundles = {
        "unsteered": replace(
            some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None
        )
    }
    bundles["fasb"] = some_bundle(model)
    for name, bundle in bundles.items():
        for fold in (0, 1):
            bundle.save(bundle_path(tmp_path, name, fold))
    runner = Runner(model.settings, lambda: model, Store(tmp_path / "store"))
    prompt, scoring = bundles["fasb"].prompt, bundles["fasb"].scoring
    unrelated = Unrelated(
        ["what is it made of ?", "it is oak ."], 6, 2, tiny_questions(2), prompt, scoring
    )
    found = measure_side_effects(runner, 2, Bundles(tmp_path, list(bundles)), unrelated)
    assert list(found.columns) == SIDE_EFFECTS
    assert len(found) == 2 * 2 * (2 + 2)
    text = found[found["question"].str.startswith("text")]
    assert (text.groupby("method")["kl"].max() > 0).to_dict() == {"fasb": True, "unsteered": False}
    assert text["unrelated"].isna().all()
    choices = found[~found["question"].str.startswith("text")]
    assert choices["unrelated"].between(0, 1).all()
    assert choices["ce"].isna().all()
    stored = replace(runner, model=lambda: pytest.fail("the model was loaded"))
    again = measure_side_effects(stored, 2, Bundles(tmp_path, list(bundles)), unrelated)
    assert again.equals(found)


def test_no_choice_counts_as_unrelated_that_was_fitted_on(model, tmp_path):
    questions = tiny_questions(3)
    bundle = some_bundle(model)
    runner = Runner(model.settings, lambda: model, Store(tmp_path / "store"))
    unrelated = Unrelated(["it is oak ."], 6, 2, questions, bundle.prompt, bundle.scoring)

    def measured(*fitted):
        seen = sorted(key for question in fitted for key in question.keys)
        one = replace(bundle, about={"questions": {"seen": seen}})
        rows = unrelated.measure(runner, one, "side effects, fold 0, fasb")
        return rows[rows["unrelated"].notna()]["question"].tolist()

    assert measured() == ["q0", "q1", "q2"]
    assert measured(questions[1]) == ["q0", "q2"]
    with pytest.raises(DataError, match="fold 0, fasb was fitted or tuned on all of these"):
        measured(*questions)


def test_an_instruction_stays_before_choices_of_another_dataset(model, tmp_path, monkeypatch):
    plain = replace(some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None)
    told = replace(plain, about={"settings": {"instruction": "it is oak ."}})
    runner = Runner(model.settings, lambda: model, Store(tmp_path / "store"))
    texts, questions = ["what is it made of ?"], tiny_questions(2)
    unrelated = Unrelated(texts, 6, 2, questions, plain.prompt, plain.scoring)
    asked, scores = [], Runner.scores

    def spied(runner, choices, bundles, what):
        asked.extend(bundles)
        return scores(runner, choices, bundles, what)

    monkeypatch.setattr(Runner, "scores", spied)
    for bundle in (plain, told):
        unrelated.measure(runner, bundle, "choices")
    assert asked[0].prompt == plain.prompt
    assert asked[1].prompt == instructed(plain.prompt, "it is oak .")


def test_texts_are_read_from_a_folder(tmp_path):
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("c.txt", " ")):
        (tmp_path / name).write_text(text)
    assert plain_text.load(plain_text.Settings(path=str(tmp_path))) == ["first", "second"]
    assert plain_text.load(plain_text.Settings(path=str(tmp_path), n=1)) == ["first"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "part.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert plain_text.load(plain_text.Settings(path=str(other))) == ["one", "two"]
    with pytest.raises(DataError, match="no such field"):
        plain_text.load(plain_text.Settings(path=str(other), column="body"))
    (other / "part.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(DataError, match="no text in it"):
        plain_text.load(plain_text.Settings(path=str(other)))


def test_a_worlds_documents_are_not_those_of_another_seed():
    found = documents.load(documents.Settings(seed=5, n=4))
    assert found == documents.load(documents.Settings(seed=5, n=4))
    assert found != documents.load(documents.Settings(seed=6, n=4))
    assert len(found) == 4
