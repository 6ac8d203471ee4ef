"""Steering, evaluating and fitting one's own model."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import fasb
from fasb.errors import ArtifactError, BundleError, ConfigError, DataError, ModelError
from fasb.model.chat import settled
from fasb.settings import DecodingSettings, PromptSettings
from fasb.steering.tracker import Cosine, Logistic
from fasb.user.evaluation import as_table, questions_of
from fasb.user.fitsettings import checked_settings
from fasb.user.report import report
from fasb.user.steering import prompts_of
from tests.tiny import tiny_checkpoint, tiny_model
from tests.unchecked import unchecked

WORDS = (
    "slate",
    "oak",
    "Mira",
    "Tom",
    "a river",
    "the sky",
    "blue",
    "no one",
    "a fox",
    "the old house",
)
QUESTIONS = [
    fasb.Question(
        id=str(i),
        text=f"What is the {word} of place {i}?",
        true=(f"{word}.", f"It is {word}."),
        false=(f"not {word}.", f"It is not {word}."),
        best=f"{word}.",
        group=str(i),
    )
    for i, word in enumerate(WORDS * 2)
]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def chatty():
    """A model whose tokenizer has a chat template."""
    model = tiny_model()
    model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return model


def bundle_for(model, **policy):
    """A bundle with random vectors and classifiers."""
    generator = torch.Generator().manual_seed(1)
    heads = torch.tensor([[0, 1], [2, 3]])
    size = (2, model.layout.head_dim)
    return fasb.Bundle(
        policy=fasb.Policy(**{"alpha": 6.0, "beta": 0.5, "s": 3, **policy}),
        edit=fasb.Edit.add(heads, torch.randn(size, generator=generator)),
        tracker=fasb.Tracker(
            "head", heads, Logistic(torch.randn(size, generator=generator), torch.zeros(2))
        ),
        prompt=PromptSettings(stop=()),
        decoding=DecodingSettings(tokens=8),
        fingerprint=model.fingerprint,
    )


def test_steer_says_what_happened_to_each_answer(model):
    texts = [question.text for question in QUESTIONS]
    answers = fasb.steer(model, bundle_for(model), texts)
    assert [answer.question for answer in answers] == texts
    assert any(answer.fired for answer in answers)
    for answer in answers:
        assert len(answer.p) >= 2
        assert (answer.strength > 0) == answer.fired
        if not answer.fired:
            assert answer.text == answer.unsteered


def test_one_question_may_be_given_without_a_list(model):
    bundle = bundle_for(model)
    assert fasb.steer(model, bundle, QUESTIONS[0].text) == fasb.steer(
        model, bundle, [QUESTIONS[0].text]
    )
    assert fasb.steer(model, bundle, []) == fasb.steer(model, bundle, ()) == []
    assert prompts_of(model, bundle, "Why?") == prompts_of(model, bundle, ["Why?"])


def test_the_newest_answer_of_a_conversation_is_steered(chatty):
    bundle = replace(bundle_for(chatty), prompt=settled(chatty, PromptSettings(chat="on")))
    said = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]
    said.append({"role": "user", "content": "Why?"})
    (one,) = fasb.steer(chatty, bundle, said)
    (alone,) = fasb.steer(chatty, bundle, "Why?")
    assert one.question == alone.question == "Why?"
    assert one.text != alone.text
    both = fasb.steer(chatty, bundle, [said, "Why?"])
    assert [answer.text for answer in both] == [one.text, alone.text]


def test_a_plain_prompt_takes_one_message(model):
    bundle = bundle_for(model)
    said = [{"role": "user", "content": "Why?"}]
    assert fasb.steer(model, bundle, said) == fasb.steer(model, bundle, "Why?")
    with pytest.raises(DataError, match=r"2 of them, but the prompt is plain text"):
        fasb.steer(model, bundle, [{"role": "system", "content": "Be kind."}, *said])


def test_fit_uses_the_models_own_prompt_and_the_bundle_keeps_it(chatty, tmp_path):
    said = []
    settings = {**SETTINGS, "prompt": {"system": "Be kind."}}
    bundle = fasb.fit(chatty, QUESTIONS, settings, say=said.append)
    assert "prompt: the tokenizer's chat template (prompt.chat on)" in said
    bundle.save(tmp_path / "my.bundle")
    again = fasb.Bundle.load(tmp_path / "my.bundle")
    assert (again.prompt.chat, again.prompt.system, again.prompt.stop) == ("on", "Be kind.", ())
    assert again.prompt.template == settled(chatty, PromptSettings(chat="on")).template
    with pytest.raises(ConfigError, match=r"prompt: prefix is not used where chat is on"):
        fasb.fit(chatty, QUESTIONS, {**SETTINGS, "prompt": {"prefix": "Say."}})


def test_steering_that_always_fires_asks_for_no_unsteered_answer(model):
    (answer,) = fasb.steer(
        model, bundle_for(model, when="always", backtrack=False), [QUESTIONS[0].text]
    )
    assert answer.fired
    assert answer.unsteered is None
    assert answer.p == ()


def test_a_bundle_of_another_model_is_refused(model):
    other = replace(bundle_for(model), fingerprint=replace(model.fingerprint, n_layers=9))
    with pytest.raises(BundleError, match=r"made for n_layers 9"):
        fasb.steer(model, other, ["Why?"])


def test_a_sibling_is_taken_when_it_is_called_one(model):
    other = replace(bundle_for(model), fingerprint=replace(model.fingerprint, weights="its base"))
    with pytest.raises(BundleError, match=r"siblings"):
        fasb.steer(model, other, ["Why?"])
    assert fasb.steer(model, other, ["Why?"], siblings=True)


def test_a_model_loads_from_a_folder_and_from_memory(tmp_path):
    folder = tiny_checkpoint(tmp_path / "checkpoint")
    loaded = fasb.load(folder)
    assert fasb.load(loaded) is loaded
    again = fasb.load(loaded.model, loaded.tokenizer)
    assert again.layout.n_heads == loaded.layout.n_heads
    assert fasb.load(str(folder), dtype="float64").model.dtype == torch.float64


def test_evaluate_compares_with_the_unsteered_model(model):
    found = fasb.evaluate(model, bundle_for(model), QUESTIONS)
    assert (found.n, found.left_out) == (len(QUESTIONS), 0)
    names = [measure.name for measure in found.measures]
    choices = ["mc1", "mc2", "mc3", "mc2_as_generated"]
    assert names == [*choices, "steered", "changed", "degenerate"]
    for measure in found.measures:
        assert measure.difference == pytest.approx(measure.steered - measure.unsteered)
        if measure.low is None:  # nothing varied
            assert measure.difference in (0, 1)
        else:
            assert measure.low <= measure.difference <= measure.high
    assert found.of("steered").steered == np.mean([answer["fired"] for answer in found.answers])


def test_a_bundle_that_never_fires_changes_nothing(model):
    found = fasb.evaluate(model, bundle_for(model, beta=1.0), QUESTIONS)
    assert all(measure.difference == 0 for measure in found.measures)


def test_what_never_fires_has_no_interval_whatever_the_batches():
    """Rounding that differs between batches is no difference."""
    model = tiny_model(dtype="float32")
    for i in range(0, len(QUESTIONS), 2):
        found = fasb.evaluate(model, bundle_for(model, beta=1.0), QUESTIONS[i : i + 2])
        as_generated = found.of("mc2_as_generated")
        assert (as_generated.difference, as_generated.low) == (0, None)


def test_questions_that_were_fitted_on_are_left_out(model):
    seen = [key for question in QUESTIONS[:15] for key in question.keys]
    bundle = replace(bundle_for(model), about={"questions": {"seen": seen}})
    found = fasb.evaluate(model, bundle, QUESTIONS)
    assert (found.n, found.left_out) == (5, 15)
    assert "15 that were fitted or tuned on left out" in as_table(found)
    assert fasb.evaluate(model, bundle, QUESTIONS, seen=True).n == 20
    with pytest.raises(DataError, match=r"give others, or keep them with --seen"):
        fasb.evaluate(model, bundle, QUESTIONS[:15])
    twin = replace(QUESTIONS[19], id="twin", text="Asked anew?", paraphrases=(QUESTIONS[0].text,))
    assert fasb.evaluate(model, bundle, [*QUESTIONS[15:], twin]).left_out == 1


def test_questions_of_one_text_count_as_one_draw_however_they_are_grouped(model):
    bundle = bundle_for(model)
    twins = [replace(q, id=f"twin{q.id}", text=f" {q.text}", group=q.id) for q in QUESTIONS]
    apart = [replace(twin, group=twin.id) for twin in twins]
    together = fasb.evaluate(model, bundle, [*QUESTIONS, *twins])
    assert fasb.evaluate(model, bundle, [*QUESTIONS, *apart]).measures == together.measures


def test_the_table_of_an_evaluation_is_in_percent(model):
    lines = as_table(fasb.evaluate(model, bundle_for(model), QUESTIONS)).splitlines()
    assert lines[0].split() == ["unsteered", "steered", "difference", "95", "%", "interval"]
    assert lines[1].startswith("MC1")
    assert lines[-1] == "n = 20 questions; %"


def test_of_questions_without_false_answers_multiple_choice_is_said_to_be_of_the_others(model):
    asked = [replace(q, false=() if i < 15 else q.false) for i, q in enumerate(QUESTIONS)]
    found = fasb.evaluate(model, bundle_for(model), asked)
    assert (found.n, found.choices) == (20, 5)
    told = "n = 20 questions (5 of them with false answers, for MC); %"
    assert as_table(found).splitlines()[-1] == told


def test_questions_come_from_a_list_a_table_or_a_study(tmp_path):
    from fasb.data.protocol import write_questions

    (tmp_path / "my.csv").write_text("question,true,false\nWhy?,a,b\n")
    assert questions_of(tmp_path / "my.csv")[0].text == "Why?"
    write_questions(tmp_path / "q.parquet", QUESTIONS, {})
    assert questions_of(str(tmp_path / "q.parquet")) == QUESTIONS == questions_of(QUESTIONS)
    with pytest.raises(DataError, match="no questions"):
        questions_of([])


SETTINGS = {
    "grid": {"k": [2, 4], "alpha": [2.0, 6.0], "s": [3]},
    "decoding": {"tokens": 8},
    "prompt": {"stop": []},
    "touch": 0.5,  # a random model's answers hardly differ
    "perplexity": 100,
}


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory):
    """A bundle, the folder of its activations, and what fitting said."""
    work, said = tmp_path_factory.mktemp("work"), []
    return fasb.fit(model, QUESTIONS, SETTINGS, work, said.append), work, said


def test_fit_says_how_good_the_tracker_is_and_what_was_chosen(fitted):
    bundle, _, said = fitted
    about = bundle.about
    assert said[:2] == [
        "20 questions: 12 to fit, 4 to tune, 4 held out",
        "prompt: plain text (prompt.chat off)",
    ]
    assert about["tuned"]["on"] == "mc2_as_generated"
    assert about["tuned"]["settings"] == 4
    assert 0 <= about["tracker"]["auc"] <= 1
    assert len(about["tracker"]["heads"]) == len(bundle.tracker.at) > 0
    assert set(about["tuned"]["point"]) in (set(), {"k", "alpha", "beta", "s"})
    text = report(bundle)
    assert "AUC of p on 64 states held out" in text
    assert "best of 4 settings and none" in text
    assert "controls  of 111 everyday questions held out" in text
    assert text.split(":")[0] in ("HELPS", "HARMS", "NO CLEAR EFFECT", "DOES NOT HELP")
    assert "widen grid" not in text  # two values have no edge


def test_held_out_questions_were_not_seen(fitted, model):
    bundle, *_ = fitted
    seen = set(bundle.about["questions"]["seen"])
    assert len(seen) == 16
    assert fasb.evaluate(model, bundle, QUESTIONS).n == 4


def test_a_model_that_no_setting_helps_is_left_as_it_is(model):
    settings = {**SETTINGS, "grid": {**SETTINGS["grid"], "alpha": [0.0]}}
    bundle = fasb.fit(model, QUESTIONS, settings)
    assert bundle.policy.when == "never"
    assert bundle.about["tuned"]["steered"] == 0
    assert report(bundle).startswith("DOES NOT HELP: ")
    assert "so this bundle does not steer" in report(bundle).splitlines()[0]
    assert all(not answer.fired for answer in fasb.steer(model, bundle, ["Why?", "How?"]))


def test_fit_goes_on_from_finished_activations(fitted, model):
    bundle, work, _ = fitted
    written = {file: file.stat().st_mtime_ns for file in work.glob("*.h5")}
    assert [file.name.partition("-")[0] for file in written] == ["prompted_tokens"]
    again = fasb.fit(model, QUESTIONS, SETTINGS, work)
    assert {file: file.stat().st_mtime_ns for file in work.glob("*.h5")} == written
    assert again.key() == bundle.key()


def test_activations_that_other_code_has_read_are_read_again(fitted, model, tmp_path, monkeypatch):
    (old,) = fitted[1].glob("*.h5")
    shutil.copy(old, tmp_path)
    monkeypatch.setattr("fasb.user.fitting.version_of", lambda module: f"another {module}")
    fasb.fit(model, QUESTIONS, SETTINGS, tmp_path)
    (new,) = {file.name for file in tmp_path.glob("*.h5")} - {old.name}
    assert new.startswith("prompted_tokens-")


def test_a_bundle_is_the_same_after_saving(fitted, tmp_path):
    bundle, *_ = fitted
    bundle.save(tmp_path / "my.bundle")
    again = fasb.Bundle.load(tmp_path / "my.bundle")
    assert again.key() == bundle.key()
    assert report(again) == report(bundle)


def test_prototypes_and_a_judge_are_used_when_asked_for(model, tmp_path, monkeypatch):
    (tmp_path / "longest.py").write_text(
        "import numpy as np\n"
        "from fasb.settings import Section\n"
        "class Settings(Section):\n    'None.'\n    least: int = 3\n"
        "def judge(questions, answers, settings):\n"
        "    return {'true': np.array([float(len(a) >= settings.least) for a in answers])}\n"
    )
    (tmp_path / "lab").mkdir()
    (tmp_path / "longest.py").rename(tmp_path / "lab" / "longest.py")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {
        **SETTINGS,
        "vector": "prototype",
        "judge": {"use": "lab.longest", "settings": {"least": 2}},
    }
    bundle = fasb.fit(model, QUESTIONS, settings)
    assert isinstance(bundle.tracker.score, Cosine)
    # this judge gives one score, and that is what was tuned on, and what the report is of
    assert bundle.about["tuned"]["on"] == "true"
    steering = replace(
        bundle, about={**bundle.about, "tuned": {**bundle.about["tuned"], "point": {"k": 2}}}
    )
    assert "True " in report(steering)
    assert {"true", "harmed", "helped"} <= {measure["name"] for measure in bundle.about["held_out"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"grid": {"k": [99]}},
            r"grid.k: 99, but this model has 12 heads; add 12 or less",
            id="k",
        ),
        pytest.param({"gird": {}}, r"settings.gird: unknown key; did you mean 'grid'", id="key"),
        pytest.param({"judge": {"use": "nobody"}}, r"judges: no module 'nobody'", id="judge"),
        pytest.param({"grid": {"s": []}}, r"settings.grid.s: ", id="empty"),
    ],
)
def test_a_wrong_setting_is_one_line(model, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        fasb.fit(model, QUESTIONS, settings)
    assert "\n" not in str(caught.value)


def test_too_few_questions_are_refused(model):
    with pytest.raises(DataError, match=r"3 groups of questions, but 5 folds; lower"):
        fasb.fit(model, QUESTIONS[:3], SETTINGS)


def test_public_names_are_those_of_the_readme():
    assert set(fasb.__all__) <= set(dir(fasb))
    assert len(fasb.__all__) == 14
    with pytest.raises(AttributeError, match=r"no attribute 'fitt'; public names: load"):
        _ = fasb.fitt


@pytest.mark.parametrize("given", [{"dtype": "bfloat16"}, {"device": "cuda"}, {"nonsense": 3}])
def test_a_model_in_memory_takes_no_settings(model, given):
    for one, more in ((model, ()), (model.model, (model.tokenizer,))):
        with pytest.raises(ConfigError, match=f"model.{min(given)}: the model is in memory"):
            fasb.load(one, *more, **given)


def test_fit_loads_a_model_that_is_named_as_its_settings_say(tmp_path):
    tiny_checkpoint(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"model.dtype"):
        fasb.fit(tmp_path / "model", QUESTIONS, {**SETTINGS, "model": {"dtype": "zig"}})


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_work_folder_that_is_none_is_refused_before_a_model_is_looked_for(tmp_path, kind):
    work = tmp_path / "work"
    work.touch() if kind == "file" else work.symlink_to("gone")
    with pytest.raises(ArtifactError, match=r"work/bank.h5: cannot be written .*; "):
        fasb.fit("no/such", QUESTIONS, SETTINGS, work)


def test_one_message_is_a_conversation_and_what_is_no_question_is_refused():
    # in a process of its own, as the tests' type checker would refuse them first
    said = unchecked(
        "from fasb.errors import DataError\n"
        "from fasb.user.steering import _each\n"
        "message = {'role': 'user', 'content': 'Why?'}\n"
        "assert _each(message) == _each([message]) == _each([[message]]) == [[message]]\n"
        "for wrong in (5, [5], [None], b'Why?', ['Why?', 3]):\n"
        "    try:\n"
        "        print('taken', _each(wrong))\n"
        "    except DataError as error:\n"
        "        print(error)\n"
    )
    lines = said.splitlines()
    assert len(lines) == 5
    assert all("is no question; give texts" in line for line in lines)


def test_what_is_no_bundle_no_tokenizer_and_no_data_is_one_line(tmp_path):
    tiny_checkpoint(tmp_path / "model")
    said = unchecked(
        "import fasb\n"
        f"name = {str(tmp_path / 'model')!r}\n"
        "model = fasb.load(name)\n"
        "def inside(bundle):\n"
        "    with fasb.editing(model, bundle):\n"
        "        print('taken')\n"
        "for call in (\n"
        "    lambda: fasb.steer(model, None, ['Why?']),\n"
        "    lambda: fasb.Bundle.load(b'x.bundle'),\n"
        "    lambda: inside(5),\n"
        "    lambda: fasb.load(name, model.tokenizer),\n"
        "    lambda: fasb.load(model, 'other'),\n"
        "    lambda: fasb.load(model, model.tokenizer),\n"
        "    lambda: fasb.fit(model, 5),\n"
        "    lambda: fasb.fit(model, None),\n"
        "):\n"
        "    try:\n"
        "        print('taken', call())\n"
        "    except fasb.errors.FasbError as error:\n"
        "        print(error)\n"
    )
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == (
        ["bundle"] * 3 + ["tokenizer"] * 3 + ["questions"] * 2
    )
    assert all("; " in line for line in lines)


def test_vectors_that_are_not_finite_are_named_and_no_hook_is_blamed(model):
    bundle = bundle_for(model)
    (change,) = bundle.edit.changes
    vector = torch.full_like(change.operation.vector, torch.nan)
    bundle = replace(bundle, edit=fasb.Edit.add(change.at, vector))
    with pytest.raises(BundleError, match=r"^bundle: edit.0.vector is not finite; fit it again"):
        fasb.steer(model, bundle, "Why?")
    editing = fasb.editing(model, bundle)
    with pytest.raises(BundleError, match=r"^bundle: edit.0.vector is not finite"), editing:
        pass


def test_weights_that_were_changed_since_are_another_model():
    model = tiny_model()
    bundle = bundle_for(model)
    fasb.steer(model, bundle, ["Why?"])
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    for ask in (lambda m: fasb.steer(m, bundle, ["Why?"]), lambda m: fasb.fit(m, QUESTIONS)):
        with pytest.raises(ModelError, match="weights were changed since it was loaded; load it"):
            ask(model)
    again = fasb.load(model.model, model.tokenizer)
    assert again.fingerprint.weights != model.fingerprint.weights


def test_bytes_that_are_no_text_are_one_line(model):
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        fasb.steer(model, bundle_for(model), "caf\udce9?")


def test_another_policy_has_no_other_keys(model):
    with pytest.raises(ConfigError, match=r"policy.alhpa: unknown key; did you mean 'alpha'"):
        bundle_for(model).with_policy(alhpa=3.0)


@pytest.mark.parametrize(
    ("key", "template"), [("probe", "{question} {answer}"), ("next_question", " {next}")]
)
def test_a_template_that_no_read_looks_at_is_refused(key, template):
    given = {"prompt": {key: template}}
    with pytest.raises(ConfigError, match=f"settings.prompt.{key}: not looked at by read"):
        checked_settings(given)
    assert checked_settings({**given, "read": "answer_end"}).read == "answer_end"
