from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from steering import some_bundle
from tiny import tiny_model, tiny_questions

from fasb.artifacts import Store, write_parquet
from fasb.data.prompts import clean_answer, generation_prompt
from fasb.data.protocol import Question, Split
from fasb.data.splits import all_tested
from fasb.decoding.decode import decode, trace
from fasb.decoding.score import encode_choices, score
from fasb.decoding.stream import stream
from fasb.errors import ArtifactError, BundleError
from fasb.metrics.answers import choice_metrics
from fasb.settings import DecodingSettings, PromptSettings, ScoringSettings, StageSettings
from fasb.steering.fingerprint import Fingerprint
from fasb.steering.policy import Policy
from fasb.study.evaluate import GENERATIONS, SCORED, Bundles, generate
from fasb.study.evaluate import score as score_stage
from fasb.study.run import Asked, Runner, check_traced_by, traced
from fasb.study.tune import bundle_path

QUESTIONS = tiny_questions(6)
PROMPT = PromptSettings(stop=())
DECODING = DecodingSettings(tokens=14, batch=4)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def traces(model):
    return traced(model, QUESTIONS, PROMPT, DECODING)


@pytest.fixture(scope="module")
def bundles(model):
    policies = (
        {"beta": 0.6},
        {"beta": 0.7},
        {"when": "always"},
        {"when": "prompt", "beta": 0.2},
        {"backtrack": False},
    )
    return [some_bundle(model, **policy) for policy in policies]


@pytest.fixture
def runner(model, tmp_path):
    return Runner(model.settings, lambda: model, Store(tmp_path / "store"))


def without_model(runner):
    def load():
        raise AssertionError("the model was loaded")

    return replace(runner, model=load)


def everything(traces):
    return Asked.of(QUESTIONS, [question.id for question in QUESTIONS], traces)


def test_a_trace_holds_every_phrasing_in_order_with_its_cleaned_answer(model, traces):
    expected = [
        (question.id, i, text)
        for question in QUESTIONS
        for i, text in enumerate(question.phrasings)
    ]
    assert [*zip(traces["question"], traces["phrasing"])] == [row[:2] for row in expected]
    prompts = model.encode([generation_prompt(PROMPT, text) for *_, text in expected])
    plain = trace(model, prompts, DECODING, PROMPT.stop)
    assert traces["prompt"].tolist() == prompts
    assert traces["tokens"].tolist() == plain.rows()
    assert traces["text"].tolist() == [
        clean_answer(model.decode(row), PROMPT) for row in plain.rows()
    ]
    assert ["".join(pieces) for pieces in traces["pieces"]] == [
        model.tokenizer.decode(row) for row in plain.rows()
    ]


def test_answers_are_those_that_each_bundle_gives_by_itself(model, runner, traces, bundles):
    asked = everything(traces)
    found = runner.answers(asked, bundles, "test")
    fired = 0
    for i, bundle in enumerate(bundles):
        rows = found[found["setting"] == i]
        alone = decode(model, asked.prompts, bundle)
        texts = [clean_answer(model.decode(row), PROMPT) for row in alone.after.rows()]
        assert rows["answer"].tolist() == texts
        assert rows["n_tokens"].tolist() == alone.after.length.tolist()
        for column in ("fired", "strength"):
            assert rows[column].tolist() == getattr(alone.decision, column).tolist()
        fired += rows["fired"].mean()
    assert 0 < fired < len(bundles)


def test_details_show_what_the_tracker_saw_and_what_was_written(model, runner, traces, bundles):
    asked = everything(traces)
    found = runner.answers(asked, bundles[:1], "test", detail=True)
    p = decode(model, asked.prompts, bundles[0]).before.p
    assert found["text"].tolist() == [text for question in QUESTIONS for text in question.phrasings]
    for i, row in enumerate(found.itertuples()):
        assert np.allclose(row.p, p[i, : len(row.trace_pieces) + 1])
        assert len(row.answer_pieces) == row.n_tokens
        assert list(row.answer_pieces[: row.kept]) == list(row.trace_pieces[: row.kept])
        assert row.trace_answer == traces["text"][i]
        if not row.fired:
            assert row.answer == row.trace_answer


def test_what_is_not_tracked_has_no_p(runner, model, traces):
    found = runner.answers(
        everything(traces), [some_bundle(model, when="always")], "test", detail=True
    )
    assert [len(p) for p in found["p"]] == [0] * len(found)


def test_unsteered_answers_are_the_trace(runner, model, traces):
    never = replace(some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None)
    found = runner.answers(everything(traces), [never], "test", detail=True)
    assert found["answer"].tolist() == traces["text"].tolist()
    assert [*map(list, found["answer_pieces"])] == [*map(list, traces["pieces"])]
    assert found["decoded"].tolist() == [len(row) for row in traces["tokens"]]
    assert not found["fired"].any()


def test_scores_are_the_metrics_of_each_bundles_log_probabilities(model, runner, bundles):
    found = runner.scores(QUESTIONS, bundles, "test")
    for i, bundle in enumerate(bundles):
        for question in QUESTIONS:
            for phrasing, text in enumerate(question.phrasings):
                pairs = [(text, reference) for reference in (*question.true, *question.false)]
                alone = score(
                    model, encode_choices(model, bundle.prompt, bundle.scoring, pairs), bundle
                )
                true, false = np.split(alone.logprob, [len(question.true)])
                at = (
                    (found["setting"] == i)
                    & (found["question"] == question.id)
                    & (found["phrasing"] == phrasing)
                )
                (row,) = found[at].to_dict("records")
                expected = choice_metrics(true, false, question.true.index(question.best))
                numbers = [row["mc1"], row["mc2"], row["mc3"]]
                np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-9)
                assert row["fired"] == alone.fired.mean()


def test_questions_without_false_answers_are_not_scored(runner, model):
    questions = [*QUESTIONS[:2], Question("open", "Why?", ("So.",), (), "So.", "open")]
    found = runner.scores(questions, [some_bundle(model)], "test")
    assert set(found["question"]) == {"q0", "q1"}
    assert without_model(runner).scores(questions[2:], [some_bundle(model)], "test").empty


def test_a_finished_cell_needs_no_model(runner, traces, bundles, capsys):
    asked = everything(traces)
    first = runner.answers(asked, bundles, "cell a"), runner.scores(QUESTIONS, bundles, "cell b")
    again = without_model(runner)
    second = again.answers(asked, bundles, "cell a"), again.scores(QUESTIONS, bundles, "cell b")
    assert all(a.equals(b) for a, b in zip(first, second, strict=True))
    said = capsys.readouterr().err
    assert "cell a: 5 settings" in said
    assert "cell b: taken from the store" in said


@pytest.mark.parametrize(
    "changed", ["bundle", "order", "trace", "questions", "model", "code", "detail"]
)
def test_a_cell_that_depends_on_something_else_is_made_anew(
    runner, traces, bundles, changed, monkeypatch
):
    runner.answers(everything(traces), bundles[:2], "test")
    asked, used, detail, again = everything(traces), bundles[:2], False, without_model(runner)
    if changed == "bundle":
        used = [bundles[0], bundles[1].with_policy(alpha=3.0)]
    elif changed == "order":
        used = used[::-1]
    elif changed == "trace":
        asked = everything(traces.assign(tokens=[list(row)[:-1] for row in traces["tokens"]]))
    elif changed == "questions":
        asked = Asked.of(QUESTIONS, ["q1", "q2"], traces)
    elif changed == "model":
        again = replace(again, settings=runner.settings.model_copy(update={"revision": "other"}))
    elif changed == "code":
        # as after an edit of a module that decodes
        monkeypatch.setattr("fasb.study.run.version_of", lambda module: f"0+other {module}")
    else:
        detail = True
    with pytest.raises(AssertionError, match="the model was loaded"):
        again.answers(asked, used, "test", detail=detail)


def test_a_trace_of_other_questions_is_refused(traces):
    with pytest.raises(ArtifactError, match="run the stage 'trace' again"):
        Asked.of([*QUESTIONS, tiny_questions(7)[6]], ["q0", "q6"], traces)
    with pytest.raises(ArtifactError, match="run the stage 'trace' again"):
        Asked.of(QUESTIONS, ["q0", "q1"], traces[traces["phrasing"] == 0])


def test_a_bundle_of_another_model_is_refused(runner, traces, bundles):
    other = replace(bundles[0], fingerprint=replace(bundles[0].fingerprint, n_heads=7))
    with pytest.raises(BundleError, match="n_heads"):
        runner.answers(everything(traces), [other], "test")
    other = replace(bundles[0], fingerprint=replace(bundles[0].fingerprint, weights="0" * 16))
    # a config has no key that allows it
    with pytest.raises(BundleError, match=r"whose weights differ; fit one for it$"):
        runner.answers(everything(traces), [other], "test")


@pytest.fixture
def tuned(tmp_path, bundles):
    """Bundles as tuning leaves them: two methods, two folds.

    Method b has another setting for MC2.
    """
    for fold, split in enumerate(SPLITS):
        own = [q for q in QUESTIONS if q.id in (*split.train, *split.validation)]
        seen = [key for q in own for key in q.keys]
        for method, (first, second) in {"a": bundles[:1] * 2, "b": bundles[1:3]}.items():
            for bundle, purpose in ((first, "generation"), (second, "mc2")):
                about = {"questions": {"seen": seen}}
                replace(bundle, about=about).save(bundle_path(tmp_path, method, fold, purpose))
    return Bundles(tmp_path, ["b", "a"])


SPLITS = [Split(("q3",), ("q4",), ("q0", "q1", "q2")), Split(("q0",), ("q1",), ("q3", "q4", "q5"))]


def test_generations_are_of_each_folds_test_questions(runner, traces, tuned):
    found = generate(runner, SPLITS, QUESTIONS, traces, tuned, batch=2)
    assert list(found.columns) == GENERATIONS
    for fold, split in enumerate(SPLITS):
        for method in tuned.methods:
            rows = found[(found["fold"] == fold) & (found["method"] == method)]
            assert tuple(dict.fromkeys(rows["question"])) == split.test
    assert generate(runner, [], QUESTIONS, traces, tuned, batch=2).columns.tolist() == GENERATIONS


def test_bundles_of_other_questions_are_tested_on_all_of_these_and_never_on_one_they_have_seen(
    runner, traces, tuned
):
    others = [
        replace(
            question,
            text=f"{question.text} now",
            paraphrases=tuple(f"{text} now" for text in question.paraphrases),
        )
        for question in QUESTIONS
    ]
    folds = all_tested([replace(others[0], role="fit"), *others[1:]], 2)
    scoring = ScoringSettings(start="answer", span="offsets")
    asked = StageSettings(prompt=PROMPT, decoding=DecodingSettings(tokens=4), scoring=scoring)
    taken = replace(tuned, asked=asked)
    (loaded, *_) = taken.load(tuned.methods[0], 0, others, folds[0]).values()
    assert (loaded.prompt, loaded.decoding.tokens, loaded.scoring) == (PROMPT, 4, scoring)
    found = score_stage(runner, folds, others, taken, batch=4)
    assert (
        found.groupby(["fold", "method", "tuned_for"])["question"].nunique().tolist()
        == [len(QUESTIONS) - 1] * 8
    )
    assert "q0" not in set(found["question"])
    with pytest.raises(
        ArtifactError, match=r"was fitted or tuned on question 'q3'; test on other questions"
    ):
        score_stage(runner, folds, QUESTIONS, taken, batch=4)


@pytest.mark.parametrize("moved", ["a test question", "a question that was not tuned on"])
def test_bundles_that_were_tuned_on_other_questions_are_refused(runner, traces, tuned, moved):
    first, second = SPLITS
    if moved == "a test question":
        second = replace(second, train=("q2",), test=("q0", *second.test))
    else:
        second = replace(second, train=("q0", "q2"))
    for stage in (
        lambda: generate(runner, [first, second], QUESTIONS, traces, tuned, batch=2),
        lambda: score_stage(runner, [first, second], QUESTIONS, tuned, batch=2),
    ):
        with pytest.raises(
            ArtifactError,
            match=r"b-fold1\.safetensors: tuned on other questions .* run the stage 'tune'",
        ):
            stage()


def test_passes_are_those_of_a_live_run(runner, model, traces, bundles):
    previous = some_bundle(model, beta=0.6, judged="previous")
    never = replace(some_bundle(model), policy=Policy(when="never"), edit=None, tracker=None)
    count = [0]
    handle = model.model.register_forward_hook(lambda *_: count.append(count.pop() + 1))
    try:
        again = some_bundle(model, beta=0.45, backtracks=3, release=0.3, s=3)
        often = some_bundle(model, when="always", beta=0.45, backtracks=2)
        for bundle in [*bundles, previous, never, again, often]:
            bundle = replace(bundle, decoding=DECODING)
            found = runner.answers(everything(traces), [bundle], "test")
            ran = []
            for prompt in traces["prompt"]:
                count[0] = 0
                list(stream(model, prompt, bundle))
                ran.append(count[0])
            assert found["passes"].tolist() == ran
    finally:
        handle.remove()


def test_scores_are_of_both_tuned_settings(runner, bundles, tuned):
    found = score_stage(runner, SPLITS, QUESTIONS, tuned, batch=8)
    assert list(found.columns) == SCORED
    one, other = (
        found[(found["method"] == "a") & (found["tuned_for"] == t)] for t in ("generation", "mc2")
    )
    assert one["mc2"].tolist() == other["mc2"].tolist()
    test = [question for question in QUESTIONS if question.id in SPLITS[1].test]
    for bundle, purpose in zip(bundles[1:3], ("generation", "mc2"), strict=True):
        rows = found[
            (found["method"] == "b") & (found["tuned_for"] == purpose) & (found["fold"] == 1)
        ]
        expected = runner.scores(test, [bundle], "alone")
        assert rows["mc2"].tolist() == pytest.approx(expected["mc2"].tolist(), abs=1e-9)


def test_unsteered_answers_of_other_weights_than_the_activations_are_refused(tmp_path):
    made_for = Fingerprint("some/model", 3, 4, 8, "vocabulary", "1" * 40, "first")
    path = tmp_path / "trace.parquet"
    write_parquet(path, pd.DataFrame({"a": [1]}), {"fingerprint": asdict(made_for)})
    check_traced_by(made_for, path)
    check_traced_by(replace(made_for, revision=""), path)
    with pytest.raises(
        BundleError, match=r"trace\.parquet: made for 'some/model' at 1+ \(weights first\)"
    ):
        check_traced_by(replace(made_for, weights="second"), path)


def test_choices_that_methods_share_are_encoded_once(runner, bundles, monkeypatch):
    encoded = []

    def encode(model, prompt, scoring, pairs):
        encoded.append((prompt, scoring, pairs))
        return encode_choices(model, prompt, scoring, pairs)

    monkeypatch.setattr("fasb.study.run.encode_choices", encode)
    elsewhere = replace(bundles[0], scoring=ScoringSettings(span="released"))
    told = replace(bundles[0], prompt=PROMPT.model_copy(update={"prefix": "Be exact.\n"}))
    cells = [[bundles[0]], [bundles[1]], [elsewhere], [told]]
    found = [runner.scores(QUESTIONS, cell, "choices") for cell in cells]
    found.append(runner.scores(QUESTIONS[:1], [bundles[0]], "choices"))
    assert len(encoded) == 4  # the first two share theirs
    few = found[-1]
    assert few["mc2"].to_numpy() == pytest.approx(found[0]["mc2"][: len(few)])
    for kept, cell in zip(found[1:4], cells[1:]):
        alone = replace(runner, store=Store(runner.store.folder / "other"))
        pd.testing.assert_frame_equal(kept, alone.scores(QUESTIONS, cell, "choices"))
