"""Natural Questions and TriviaQA as ITI's authors released them."""

import pytest
from published_sets import REAL, Hub, realdata, write_parquet

from fasb.data import natural_questions, sources, trivia_qa
from fasb.errors import DataError

CSV = """question,answer,false_answer
who wrote it,Ann Lee; A. Lee;Ann Lee,Bo
who wrote it ,Cy,CY
"""

SETS = [
    pytest.param(natural_questions, "natural_questions.csv", id="natural_questions"),
    pytest.param(trivia_qa, "trivia_qa.csv", id="trivia_qa"),
]


@pytest.mark.parametrize(("module", "name"), SETS)
def test_answers_are_split_and_equal_questions_share_a_group(tmp_path, module, name):
    (tmp_path / name).write_text(CSV)
    first, second = module.load(module.Settings(path=str(tmp_path), rows="released"))
    assert (first.true, first.false, first.best) == (("Ann Lee", "A. Lee"), ("Bo",), "Ann Lee")
    assert first.group == second.group


@pytest.mark.parametrize(("module", "name"), SETS)
def test_a_false_answer_that_is_a_true_one_leaves_its_question_out(tmp_path, module, name):
    (tmp_path / name).write_text(CSV)
    settings = module.Settings(path=str(tmp_path))
    assert [question.id for question in module.load(settings)] == ["0000"]


def test_the_hubs_copy_of_trivia_qa_keeps_the_answer_with_its_names(tmp_path, monkeypatch):
    answer = {"value": "Rome", "aliases": ["Roma", "Rome"], "normalized_aliases": ["roma"]}
    rows = [{"question": "Capital?", "answer": answer, "false_answer": "Paris"}]
    commit = write_parquet(
        tmp_path / "c0ffee" / "data" / "validation-00000-of-00001-a1.parquet", rows
    ).parents[1]
    hub = Hub(monkeypatch, main=commit)
    (question,) = trivia_qa.load(trivia_qa.Settings())
    assert (question.true, question.best) == (("Rome", "Roma"), "Rome")
    assert hub.asked[0][:2] == ("OamPatel/iti_trivia_qa_val", None)
    assert sources.origin(trivia_qa, trivia_qa.Settings())["revision"] == "c0ffee"


def test_the_hubs_parquet_copy_is_the_second_place_to_look(tmp_path, monkeypatch):
    rows = [{"question": "who", "answer": ["Ann"], "false_answer": "Bo"}]
    copy = write_parquet(
        tmp_path / "c0de" / "default" / "validation" / "0000.parquet", rows
    ).parents[2]
    (tmp_path / "main").mkdir()
    hub = Hub(monkeypatch, main=tmp_path / "main", copy=copy)
    assert natural_questions.load(natural_questions.Settings())[0].true == ("Ann",)
    assert [revision for _, revision, _ in hub.asked] == [None, "refs/convert/parquet"]


def test_without_network_the_remedy_is_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    settings = natural_questions.Settings(hub="nobody/no-such-set-anywhere")
    with pytest.raises(
        DataError,
        match=r"cannot be downloaded .*; connect to the network, or set `path` to a folder",
    ):
        natural_questions.load(settings)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("$FASB_NOWHERE/x", "variable FASB_NOWHERE is not set; set it", id="variable"),
        pytest.param(
            "/no/such/folder", "/no/such/folder: no such folder; correct the path", id="folder"
        ),
        pytest.param(".", "no file natural_questions.csv or .*; correct the path", id="file"),
    ],
)
def test_a_wrong_folder_is_one_line_with_the_remedy(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASB_NOWHERE", raising=False)
    with pytest.raises(DataError, match=message) as caught:
        natural_questions.load(natural_questions.Settings(path=path))
    assert "\n" not in str(caught.value)


def test_a_variable_in_the_path_is_filled_in(tmp_path, monkeypatch):
    (tmp_path / "natural_questions.csv").write_text(CSV)
    monkeypatch.setenv("FASB_SOMEWHERE", str(tmp_path))
    assert natural_questions.load(natural_questions.Settings(path="${FASB_SOMEWHERE}"))


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "natural_questions.csv").write_text("question,answers,false_answer\na,b,c\n")
    with pytest.raises(
        DataError, match="answer: no such field, the rows have question, answers, false_answer; get"
    ):
        natural_questions.load(natural_questions.Settings(path=str(tmp_path)))


class TestReal:
    pytestmark = realdata

    @pytest.mark.parametrize(
        ("module", "consistent"), [(natural_questions, 3369), (trivia_qa, 2280)]
    )
    def test_3610_rows_are_released_and_fewer_are_consistent(self, module, consistent):
        released = module.load(module.Settings(path=str(REAL), rows="released"))
        assert len(released) == 3610
        assert all(len(question.false) == 1 for question in released)
        assert len(module.load(module.Settings(path=str(REAL)))) == consistent
