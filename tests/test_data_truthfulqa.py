"""TruthfulQA: both files agree, in the JSON's order; prompt from the release's presets."""

import csv
import hashlib
import json

import numpy as np
import pytest
from published_sets import REAL, Hub, realdata, write_parquet

from fasb.data import sources, truthfulqa
from fasb.data.prompts import choice_text, generation_prompt
from fasb.data.truthfulqa import Settings, load, references
from fasb.errors import DataError
from fasb.settings import PromptSettings

CHOICES = [
    {
        "question": "Is the moon cheese?",
        "mc1_targets": {"No.": 1, "Yes.": 0},
        "mc2_targets": {"No.": 1, "It is rock.": 1, "Yes.": 0, "Unknown.": 0},
    },
    {
        "question": "Who am I?",
        "mc1_targets": {"You.": 1, "Me.": 0},
        "mc2_targets": {"You.": 1, "Me.": 0},
    },
]
ROWS = [
    {
        "Question": "Who am I? ",
        "Best Answer": "You",
        "Correct Answers": "You; You.; ",
        "Incorrect Answers": "Me",
    },
    {
        "Question": "Is the moon cheese?",
        "Best Answer": "No",
        "Correct Answers": "No; It is rock; Unknown",
        "Incorrect Answers": "Yes.; Unknown",
    },
]


def write(folder, choices=CHOICES, rows=ROWS):
    (folder / "mc_task.json").write_text(json.dumps(choices))
    with (folder / "TruthfulQA.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Settings(path=str(folder), questions=None)


def test_questions_come_in_the_order_of_the_json_with_its_labels(tmp_path):
    first, second = load(write(tmp_path))
    assert (first.text, first.true, first.best) == (
        "Is the moon cheese?",
        ("No.", "It is rock."),
        "No.",
    )
    assert (second.text, second.id) == ("Who am I?", "001")


def test_an_answer_listed_as_true_and_false_is_false(tmp_path):
    assert "Unknown." in load(write(tmp_path))[0].false


def test_the_hubs_copy_gives_the_same_questions(tmp_path, monkeypatch):
    local = tmp_path / "local"
    local.mkdir()
    commit = tmp_path / "0123abcd"
    columns = [{"_".join(key.lower().split()): value for key, value in row.items()} for row in ROWS]
    for row in columns:
        row["correct_answers"], row["incorrect_answers"] = (
            row[key].split(";") for key in ("correct_answers", "incorrect_answers")
        )
    write_parquet(commit / "generation" / "validation-00000-of-00001.parquet", columns)
    lists = [
        {
            key: value
            if key == "question"
            else {"choices": list(value), "labels": list(value.values())}
        }
        for row in CHOICES
        for key, value in row.items()
    ]
    lists = [lists[0] | lists[1] | lists[2], lists[3] | lists[4] | lists[5]]
    write_parquet(commit / "multiple_choice" / "validation-00000-of-00001.parquet", lists)
    hub = Hub(monkeypatch, main=commit)
    settings = Settings(questions=None)
    assert load(settings) == load(write(local))
    assert hub.asked[0][:2] == (
        "truthfulqa/truthful_qa",
        "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
    )
    assert sources.origin(truthfulqa, settings)["revision"] == "0123abcd"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"Question": "Who are you?"},
            "'Who am I\\?' is not in TruthfulQA.csv; get both",
            id="question",
        ),
        pytest.param(
            {"Incorrect Answers": "Them"},
            "row 2: .* list different answers; get both",
            id="false",
        ),
        pytest.param(
            {"Correct Answers": "You; We"},
            "row 2: .* list different answers; get both",
            id="true",
        ),
        pytest.param(
            {"Best Answer": "Me"}, "row 2: .* list different answers; get both", id="best"
        ),
    ],
)
def test_files_of_two_releases_are_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, rows=[ROWS[0] | change, ROWS[1]]))


def test_a_row_too_many_is_refused(tmp_path):
    with pytest.raises(
        DataError, match="not the questions of TruthfulQA.csv; get both from one release"
    ):
        load(write(tmp_path, choices=CHOICES[:1]))


def test_another_number_of_questions_is_refused(tmp_path):
    with pytest.raises(
        DataError, match="2 questions, but settings.questions is 817; get the release"
    ):
        load(Settings(path=write(tmp_path).path))


def test_references_are_split_stripped_and_ended():
    assert references("A; b. ;; A.;") == ("A.", "b.")


def test_other_presets_than_the_pinned_are_refused(tmp_path):
    (tmp_path / "presets.py").write_text("QA_PRIMER = 'mine'")
    with pytest.raises(
        DataError, match=r"presets.py: not the published file .*; get it from https"
    ):
        truthfulqa.prompt(Settings(path=str(tmp_path)))


def test_presets_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    content = (
        b"QA_PRIMER = 'Q: a\\nA: b'\n"
        b"PROF_PRIMER = 'Given instructions: Say \"x\" only. Here are'\nf(1)\n"
    )
    asked = []

    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def read(self):
            return content

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(truthfulqa, "PRESETS_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(
        sources.urllib.request,
        "urlopen",
        lambda address, timeout: asked.append(address) or Answer(),
    )
    for _ in range(2):
        assert (
            truthfulqa.prompt(Settings())["prefix"] == "Say \u201cx\u201d only.\n\nQ: a\nA: b\n\n"
        )
    assert asked == [truthfulqa.PRESETS]


def test_without_network_the_remedy_is_a_folder(tmp_path, monkeypatch):
    def refuse(address, timeout):
        raise OSError("no route to host")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sources.urllib.request, "urlopen", refuse)
    with pytest.raises(
        DataError,
        match=r"presets.py: cannot be downloaded .*; connect to the network, or set `path`",
    ):
        truthfulqa.prompt(Settings())


@pytest.fixture(scope="module")
def questions():
    return load(Settings(path=str(REAL)))


class TestReal:
    pytestmark = realdata

    def test_the_release_has_817_questions_and_6204_pairs(self, questions):
        assert len(questions) == 817
        assert sum(len(question.true) for question in questions) == 2835
        assert sum(len(question.false) for question in questions) == 3369

    def test_the_order_is_that_of_the_json(self, questions):
        listed = json.loads((REAL / "mc_task.json").read_text())
        assert [question.text for question in questions] == [
            row["question"].strip() for row in listed
        ]

    def test_every_answer_ends_with_a_period(self, questions):
        assert all(
            answer.endswith(".")
            for question in questions
            for answer in question.true + question.false
        )

    def test_no_answer_is_on_both_sides_and_none_twice(self, questions):
        for question in questions:
            answers = question.true + question.false
            assert len(set(answers)) == len(answers)

    def test_halves_are_409_and_408_questions(self, questions):
        halves = np.array_split(np.arange(817), 2)
        pairs = [sum(len(questions[i].true + questions[i].false) for i in half) for half in halves]
        assert [len(half) for half in halves] == [409, 408]
        assert pairs == [3043, 3161]

    def test_the_csv_differs_at_five_questions(self, questions):
        with (REAL / "TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = {row["Question"].strip(): row for row in csv.DictReader(file)}
        split = {
            text: [
                [part for part in row[f"{kind} Answers"].split(";") if part.strip()]
                for kind in ("Correct", "Incorrect")
            ]
            for text, row in rows.items()
        }
        numbers = [sum(len(parts[i]) for parts in split.values()) for i in (0, 1)]
        assert numbers == [2839, 3370]
        differing = [
            q.id
            for q in questions
            if [len(q.true), len(q.false)] != [len(part) for part in split[q.text]]
        ]
        assert differing == ["164", "240", "486", "607", "770"]
        assert all(
            "Unknown." in questions[i].false and "Unknown." not in questions[i].true
            for i in (164, 607)
        )

    def test_the_prompt_is_instruction_six_pairs_question(self, questions):
        prompt = PromptSettings(**truthfulqa.prompt(Settings(path=str(REAL))), open="")
        text = generation_prompt(prompt, questions[0].text)
        assert text.startswith("Interpret each question literally")
        assert (
            "\u201cI have no comment\u201d unless you are completely certain of the answer.\n\nQ: "
            in text
        )
        assert text.endswith(f"Barcelona, Spain.\n\nQ: {questions[0].text}")
        assert text.count("\nA: ") == 6
        scored = choice_text(prompt, questions[0].text, questions[0].best)
        assert scored.text == f"{text}\nA: {questions[0].best}"
