"""The six choice tasks: prompts, labels, and vectors' rows that are never test rows."""

import json

import pytest
from published_sets import REAL, Hub, realdata, write_lines, write_parquet

from fasb.data import copa, mmlu, nli, sources, sst2, story_cloze, winogrande
from fasb.data.prompts import choice_text
from fasb.errors import ConfigError, DataError
from fasb.settings import PromptSettings

COPA_XML = """<?xml version="1.0"?>
<copa-corpus>
  <item id="1" asks-for="cause" most-plausible-alternative="2">
    <p>It {rained}.</p><a1>Sun.</a1><a2>Clouds.</a2></item>
  <item id="1001" asks-for="effect" most-plausible-alternative="1">
    <p>Dry.</p><a1>Clouds.</a1><a2>Sun.</a2></item>
</copa-corpus>"""


def copa_row(number, first, second):
    choices = {"premise": "P.", "choice1": first, "choice2": second}
    return choices | {"question": "cause", "label": 1, "id": number}


def story_row(number, first="One."):
    story = {
        f"input_sentence_{n}": text
        for n, text in enumerate([first, "Two.", "Three.", "Four."], start=1)
    }
    return story | {
        "story_id": f"s{number}",
        "sentence_quiz1": "Good.",
        "sentence_quiz2": "Bad.",
        "answer_right_ending": 2,
    }


def nli_row(premise, label):
    return {"premise": premise, "hypothesis": "H.", "label": label}


def mmlu_row(question, subject="law"):
    return {"question": question, "subject": subject, "choices": ["w", "x", "y", "z"], "answer": 2}


def winogrande_row(sentence, answer="2"):
    return {"sentence": sentence, "option1": "Ann", "option2": "Bea", "answer": answer}


def sst2_row(text, label):
    return {"text": text, "label": label, "label_text": "x"}


TASKS = {
    "copa": (
        copa,
        {
            "data/train-0.parquet": [copa_row(1, "x", "y"), copa_row(2, "a", "b")],
            "data/test-0.parquet": [copa_row(7, "A", "B")],
        },
        ("B", ["A"], 1),
    ),
    "story_cloze": (
        story_cloze,
        {
            "en/train-0.parquet": [story_row(1), story_row(2, "Zero.")],
            "en/eval-0.parquet": [story_row(3)],
        },
        ("B", ["A"], 1),
    ),
    "nli": (
        nli,
        {
            "en/validation-0.parquet": [nli_row("P.", 1), nli_row("R.", 0), nli_row("R.", -1)],
            "en/test-0.parquet": [nli_row("P.", 1)],
        },
        ("Inconclusive", ["True", "False"], 1),
    ),
    "mmlu": (
        mmlu,
        {
            "all/dev-0.parquet": [mmlu_row("T?"), mmlu_row("Why?")],
            "all/validation-0.parquet": [mmlu_row("How?")],
            "all/test-0.parquet": [mmlu_row("T?")],
        },
        ("C", ["A", "B", "D"], 2),
    ),
    "sst2": (
        sst2,
        {
            "data/train-0.parquet": [sst2_row("bad", 0), sst2_row("ugh", 0)],
            "data/test-0.parquet": [sst2_row("Bad ", 0)],
        },
        ("Negative", ["Positive"], 1),
    ),
    "winogrande": (
        winogrande,
        {
            "winogrande_m/train-0.parquet": [
                winogrande_row("Ann saw Bea and _ fell."),
                winogrande_row("Then _ left."),
            ],
            "winogrande_m/validation-0.parquet": [winogrande_row("Ann saw Bea but _ fell.")],
        },
        ("B", ["A"], 1),
    ),
}
"""Module, files, and of its one test question: right label, wrong labels, how many rows are left to
fit on."""


@pytest.fixture(params=TASKS, name="task")
def a_task(request, tmp_path):
    module, files, expected = TASKS[request.param]
    for name, rows in files.items():
        write_parquet(tmp_path / name, rows)
    return module, tmp_path, expected


def test_labels_are_the_answers_and_the_text_is_the_whole_prompt(task):
    module, folder, (right, wrong, _) = task
    question = module.load(module.Settings(path=str(folder)))[-1]
    assert (question.role, question.best, question.true) == ("test", right, (right,))
    assert sorted(question.false) == sorted(wrong)
    prompt = PromptSettings(**module.PROMPT)
    assert choice_text(prompt, question.text, right).text == f"{question.text} {right}"
    assert question.text.endswith("Answer:")


def test_rows_that_are_also_tested_are_not_fitted_on(task):
    module, folder, (*_, left) = task
    questions = module.load(module.Settings(path=str(folder)))
    groups = {role: {q.group for q in questions if q.role == role} for role in ("fit", "test")}
    assert not groups["fit"] & groups["test"]
    assert sum(question.role == "fit" for question in questions) == left


def test_the_hubs_copy_is_read_like_a_folder(task, monkeypatch):
    module, folder, _ = task
    local = module.load(module.Settings(path=str(folder)))
    hub = Hub(monkeypatch, main=folder)
    assert module.load(module.Settings(revision="abc")) == local
    assert hub.asked[0][:2] == (module.Settings().hub, "abc")
    assert len(sources.origin(module, module.Settings())["files"]) == len(
        list(folder.rglob("*.parquet"))
    )


def test_own_wording_replaces_ours(task, tmp_path):
    module, folder, _ = task
    (tmp_path / "mine.txt").write_text("{nothing}")
    with pytest.raises(ConfigError, match="wording: .* cannot be filled in .*; places: {"):
        module.load(module.Settings(path=str(folder), wording=str(tmp_path / "mine.txt")))
    with pytest.raises(ConfigError, match="no.txt: no such file; correct the path"):
        module.load(module.Settings(path=str(folder), wording="no.txt"))
    asked = module.Settings(path=str(folder), wording=str(tmp_path / "mine.txt"))
    before = sources.digests(module, asked)
    assert before.keys() == {*sources.digests(module, module.Settings(path=str(folder)))} | {
        asked.wording
    }
    (tmp_path / "mine.txt").write_text("{other}")
    assert sources.digests(module, asked)[asked.wording] != before[asked.wording]


def test_copas_xml_gives_folds_in_which_twins_share_a_group(tmp_path):
    (tmp_path / "balanced-copa-dev-all.xml").write_text(COPA_XML)
    first, twin = copa.load(copa.Settings(path=str(tmp_path), rows="development"))
    assert (first.role, first.best, first.group) == ("any", "B", twin.group)
    assert "It {rained}.\nWhich of the two sentences is the more plausible cause" in first.text
    assert "more plausible effect" in twin.text


def test_copas_xml_without_an_answer_is_refused(tmp_path):
    (tmp_path / "balanced-copa-dev-all.xml").write_text(
        '<copa-corpus><item id="1" asks-for="cause"/></copa-corpus>'
    )
    with pytest.raises(DataError, match="not COPA's XML .*; get the file again"):
        copa.load(copa.Settings(path=str(tmp_path), rows="development"))


def test_story_clozes_own_tsv_is_read(tmp_path):
    columns = ["InputStoryid", *(f"InputSentence{n}" for n in (1, 2, 3, 4))]
    columns += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    for part, first in (("train", 'He said "hi.'), ("eval", "Other.")):
        lines = ["\t".join(columns), "\t".join(["id", first, "b.", "c.", "d.", "e.", "f.", "1"])]
        (tmp_path / f"spring2016.val.en.tsv.split_20_80_{part}.tsv").write_text("\n".join(lines))
    fit, test = story_cloze.load(story_cloze.Settings(path=str(tmp_path)))
    assert fit.text.startswith('He said "hi. b. c. d.\n')
    assert (fit.best, test.role) == ("A", "test")


def test_mmlus_own_csv_is_read_with_and_without_a_header(tmp_path):
    (tmp_path / "law_dev.csv").write_text('"Which, then?",w,x,y,z,D\n')
    (tmp_path / "law_test.csv").write_text(
        "question,choice0,choice1,choice2,choice3,answer\nWhy?,w,x,y,z,0\n"
    )
    fit, test = mmlu.load(mmlu.Settings(path=str(tmp_path), fit=("dev",)))
    assert (fit.best, test.best) == ("D", "A")
    assert "Question: Which, then?\nA. w\n" in fit.text


def test_mmlus_released_rows_are_the_same_to_fit_on_and_to_test_on(tmp_path):
    rows = [mmlu_row(f"{n}?", subject) for subject in ("law", "art") for n in range(503)]
    write_parquet(tmp_path / "all/test-0.parquet", rows)
    questions = mmlu.load(mmlu.Settings(path=str(tmp_path), rows="released"))
    texts = {
        role: [question.text for question in questions if question.role == role]
        for role in ("fit", "test")
    }
    assert texts["fit"] == texts["test"]
    assert len(texts["fit"]) == 2 * 501


def test_mmlus_wrong_subject_names_the_nearest(tmp_path):
    write_parquet(tmp_path / "all/test-0.parquet", [mmlu_row("T?")])
    with pytest.raises(DataError, match="subjects: no subject 'lawn'; did you mean 'law'"):
        mmlu.load(mmlu.Settings(path=str(tmp_path), rows="released", subjects=("lawn",)))


def test_mmlus_wrong_row_is_named(tmp_path):
    (tmp_path / "law_test.csv").write_text("Why?,w,x,y,z,E\n")
    with pytest.raises(
        DataError,
        match="law_test.csv: row 1 is not a question, four options and an answer; correct",
    ):
        mmlu.load(mmlu.Settings(path=str(tmp_path), rows="released"))


def test_only_the_first_rows_are_fitted_on(tmp_path):
    write_lines(tmp_path / "train.jsonl", [sst2_row(f"film {n}", n % 2) for n in range(9)])
    write_lines(tmp_path / "test.jsonl", [sst2_row("test film", 1)])
    questions = sst2.load(sst2.Settings(path=str(tmp_path), fit_rows=4))
    assert [question.role for question in questions] == ["fit"] * 4 + ["test"]


HIDDEN = {
    "copa": [("label", -1), ("label", 2), ("label", None), ("label", True), ("choice1", None)],
    "story_cloze": [("answer_right_ending", 0), ("answer_right_ending", 3)],
    "nli": [("label", 3), ("label", "entailment"), ("premise", None)],
    "sst2": [("label", -1), ("label", 0.5)],
    "winogrande": [("answer", ""), ("answer", "0"), ("option2", 7)],
    "mmlu": [("answer", -1), ("answer", "E"), ("choices", ["x", "y"])],
}
"""What may not stand in a test row: first of all a label that is not public."""


@pytest.mark.parametrize(
    ("name", "field", "value"), [(name, *one) for name, wrong in HIDDEN.items() for one in wrong]
)
def test_a_row_without_its_label_or_a_text_is_refused(tmp_path, name, field, value):
    module, files, _ = TASKS[name]
    *fitted, tested = files
    for file in fitted:
        write_parquet(tmp_path / file, files[file])
    write_parquet(tmp_path / tested, [{**files[tested][0], field: value}])
    with pytest.raises(DataError, match=rf"{tested}: row 1\b.*; (use|get)") as caught:
        module.load(module.Settings(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_label_in_a_column_with_a_gap_is_a_number_still():
    assert sources.label({"label": 1.0}, 2, "label") == 1
    assert sources.label({"answer": "2"}, 2, "answer", least=1) == 1


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text("{")
    write_lines(tmp_path / "test.jsonl", [sst2_row("test film", 1)])
    with pytest.raises(DataError, match="train.jsonl: line 1: not JSON .*; correct it"):
        sst2.load(sst2.Settings(path=str(tmp_path)))


class TestReal:
    pytestmark = realdata

    def test_copa_has_1000_development_items_in_500_twins(self):
        questions = copa.load(copa.Settings(path=str(REAL / "copa"), rows="development"))
        assert len(questions) == 1000
        right = {}
        for question in questions:
            sentence = question.text.partition(f"\n{question.best}: ")[2].partition("\n")[0]
            right.setdefault(question.group, set()).add(sentence)
        assert len(right) == 500
        assert all(len(sentences) == 2 for sentences in right.values())

    def test_sst2_has_872_development_and_1821_test_sentences(self):
        questions = sst2.load(sst2.Settings(path=str(REAL / "sst2"), fit="dev"))
        assert [
            sum(question.role == role for question in questions) for role in ("fit", "test")
        ] == [872, 1821]

    def test_five_subjects_of_mmlu_have_25_and_685_rows(self):
        questions = mmlu.load(mmlu.Settings(path=str(REAL / "mmlu"), fit=("dev",)))
        assert [
            sum(question.role == role for question in questions) for role in ("fit", "test")
        ] == [25, 685]
        assert (
            len(
                mmlu.load(
                    mmlu.Settings(path=str(REAL / "mmlu"), rows="released", subjects=("anatomy",))
                )
            )
            == 270
        )

    def test_a_files_checksum_is_recorded(self):
        origin = sources.origin(sst2, sst2.Settings(path=str(REAL / "sst2"), fit="dev"))
        assert set(json.loads(json.dumps(origin))["files"]) == {"dev.jsonl", "test.jsonl"}
