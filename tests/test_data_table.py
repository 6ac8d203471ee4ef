"""A person's own questions, read from a table."""

import json
import os
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fasb.data.protocol import Question
from fasb.data.table import Settings, load
from fasb.errors import DataError
from fasb.extensions import find, settings_of
from fasb.user.evaluation import questions_of

CSV = """question,true,false
Who built the tower?,Mira; Mira did ;Mira,Tom;The king
What is it made of?,slate,"oak; a mix, of oak"
"""


def write(folder: Path, text: str, name: str = "my.csv") -> Settings:
    path = folder / name
    path.write_text(text)
    return Settings(path=str(path))


def test_a_csv_gives_questions_in_its_order(tmp_path):
    first, second = load(write(tmp_path, CSV))
    assert first == Question(
        id="1",
        text="Who built the tower?",
        true=("Mira", "Mira did"),
        false=("Tom", "The king"),
        best="Mira",
        group="who built the tower?",
    )
    assert second.false == ("oak", "a mix, of oak")


def test_jsonl_lists_are_taken_whole(tmp_path):
    row = {"question": "Why?", "true": ["one; and two", "three"], "false": "no; never"}
    (question,) = load(write(tmp_path, json.dumps(row) + "\n\n", "my.jsonl"))
    assert question.true == ("one; and two", "three")
    assert question.false == ("no", "never")


def test_parquet_equals_jsonl(tmp_path):
    rows = [
        {"question": "Why?", "true": ["a", "b"], "false": ["c"]},
        {"question": "How?", "true": ["d"], "false": []},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "my.parquet")
    lines = write(tmp_path, "\n".join(map(json.dumps, rows)), "my.jsonl")
    assert load(Settings(path=str(tmp_path / "my.parquet"))) == load(lines)


def test_optional_columns_are_used(tmp_path):
    text = "id,group,best,q,true,false\na,g,two,Why?,one;two,three\nb,g,four,How?,five,six\n"
    first, second = load(write(tmp_path, text).model_copy(update={"question": "q"}))
    assert (first.id, first.group, first.best, first.true) == ("a", "g", "two", ("one", "two"))
    assert second.true == ("four", "five")


def test_words_that_pandas_takes_for_missing_are_answers(tmp_path):
    (question,) = load(write(tmp_path, "question,true,false\nHow many?,None,NA\n"))
    assert (question.true, question.false) == (("None",), ("NA",))


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    (tmp_path / "my.csv").write_text(CSV, encoding="utf-8-sig")
    assert len(load(Settings(path=str(tmp_path / "my.csv")))) == 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        pytest.param("", "my.csv", r"my.csv: an empty file; write a header", id="empty file"),
        pytest.param(
            "question,true,false\n", "my.csv", r"my.csv: no questions; check", id="no rows"
        ),
        pytest.param(
            "question,treu,false\na,b,c\n",
            "my.csv",
            r"no column 'true'; did you mean 'treu'",
            id="column",
        ),
        pytest.param(
            "question,true,false\na,b,c\n ,b,c\n",
            "my.csv",
            r"row 2 .* 'question'; fill it in",
            id="text",
        ),
        pytest.param(
            "question,true,false\na,,c\n",
            "my.csv",
            r"row 1 .* 'true'; fill it in",
            id="no true answer",
        ),
        pytest.param(
            "question,true,false\na,b,\n",
            "my.csv",
            r"no false answer in any row; fill in",
            id="one class",
        ),
        pytest.param(
            '{"question": 1}\n{"q\n',
            "my.jsonl",
            r"line 2: not JSON .*; correct it",
            id="not JSON",
        ),
        pytest.param(
            "[1]\n", "my.jsonl", r"line 1 is not a mapping; write one", id="not a mapping"
        ),
        pytest.param(
            "", "my.jsonl", r"no column 'question'; the file has no columns", id="empty JSONL"
        ),
        pytest.param(
            "x", "my.parquet", r"my.parquet: cannot be read .*; correct the file", id="not Parquet"
        ),
        pytest.param("x", "my.txt", r"give one of .csv, .jsonl, .parquet", id="kind"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_remedy(tmp_path, text, name, message):
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, text, name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"gone.csv: no such file; correct the path"):
        load(Settings(path="gone.csv"))


def test_it_is_an_extension_found_by_name():
    assert find("data", "table").load is load
    assert settings_of("data", "table", {"path": "my.csv"}, "x") == Settings(path="my.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "Why?,Yes.,Yes.", "row 1: 'Yes.' is under 'true' and under 'false'", id="both"
        ),
        pytest.param("Why?,Yes.,yes .", "row 1: 'yes .' is under", id="written differently"),
        pytest.param("Why?,Yes.,yes", "row 1: 'yes' is under", id="without its full stop"),
        pytest.param("Why?,A,B\nwhy ?,B,C", "row 2: 'B' is under", id="in another row"),
        pytest.param("Is it, really?,A,B", r"row 1 \(line 2\) has 4 fields", id="a comma too many"),
        pytest.param("Why?,A", r"row 1 \(line 2\) has 2 fields", id="a field too few"),
        pytest.param(
            'Why?,"Yes; it is.",No.',
            "row 1, 'true': 'Yes; it is.' may be one answer or several; set separator",
            id="a sentence",
        ),
    ],
)
def test_a_contradictory_or_ambiguous_row_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, f"question,true,false\n{text}\n"))


def test_the_separator_can_be_set_or_taken_away(tmp_path):
    whole = write(tmp_path, "question,true,false\nWhy?,Yes; it is.|So.,No.\n")
    (one,) = load(whole.model_copy(update={"separator": "|"}))
    assert one.true == ("Yes; it is.", "So.")
    (one,) = load(whole.model_copy(update={"separator": None}))
    assert one.true == ("Yes; it is.|So.",)
    (one,) = load(whole.model_copy(update={"separator": ";"}))
    assert one.true == ("Yes", "it is.|So.")


def test_fields_that_are_split_without_having_been_told_are_said(tmp_path, caplog):
    load(write(tmp_path, CSV))
    (record,) = caplog.records
    assert "my.csv: 3 fields were split at ';' into answers" in record.getMessage()
    caplog.clear()
    load(write(tmp_path, CSV).model_copy(update={"separator": ";"}))
    assert not caplog.records


def test_wanted_and_unwanted_are_true_and_false(tmp_path):
    (one,) = load(write(tmp_path, "question,wanted,unwanted\nHi?,Good day.,What.\n"))
    assert (one.true, one.false) == (("Good day.",), ("What.",))
    with pytest.raises(DataError, match="columns 'true' and 'wanted', of which one is to be read"):
        load(write(tmp_path, "question,true,wanted,false\nHi?,a,b,c\n"))


@pytest.mark.parametrize("value", [True, {"a": 1}, [["a"]]])
def test_answers_are_texts(tmp_path, value):
    row = {"question": "Why?", "true": value, "false": "b"}
    with pytest.raises(DataError, match="row 1, 'true': .* is no text; give texts"):
        load(write(tmp_path, json.dumps(row), "my.jsonl"))


@pytest.mark.parametrize("number", ["1990.0", "Infinity", "1e400", "-0.0", "[1990.0]"])
@pytest.mark.parametrize("column", ["question", "true", "best"])
def test_a_number_that_was_written_otherwise_is_no_answer(tmp_path, column, number):
    row = {"question": '"Why?"', "true": '"a"', "false": '"b"', column: number}
    text = ", ".join(f'"{name}": {value}' for name, value in row.items())
    with pytest.raises(DataError, match=f"row 1, '{column}': .*(write it as text|give one text)"):
        load(write(tmp_path, f"{{{text}}}", "my.jsonl"))


def test_whole_numbers_and_fractions_are_answers_and_ids_may_be_any_number(tmp_path):
    row = {"id": 7.0, "group": 1.0, "question": "When?", "true": 1990, "false": [0.5, 1991]}
    (one,) = load(write(tmp_path, json.dumps(row), "my.jsonl"))
    assert (one.true, one.false) == (("1990",), ("0.5", "1991"))


def test_years_of_a_column_with_an_empty_field_are_not_read_as_fractions(tmp_path):
    rows = [{"question": "When?", "true": 1990, "false": 1991}, {"question": "Why?", "true": 5}]
    pd.DataFrame(rows).to_parquet(tmp_path / "my.parquet")
    with pytest.raises(DataError, match=r"row 1, 'false': 1991.0 is a number that may have been"):
        load(Settings(path=str(tmp_path / "my.parquet")))


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "my.parquet")
    opened = []
    monkeypatch.setattr(pq, "read_schema", opened.append)
    with pytest.raises(DataError, match=r"my.parquet: no ordinary file; give a file"):
        questions_of(tmp_path / "my.parquet")
    assert opened == []
    (tmp_path / "folder.parquet").mkdir()
    for path, message in (
        (tmp_path / "folder.parquet", "a folder; give a file"),
        (tmp_path / ("n" * 300 + ".parquet"), r"cannot be read \(File name too long\)"),
    ):
        with pytest.raises(DataError, match=message):
            questions_of(path)


@pytest.mark.parametrize("name", ["id", "group", "best"])
@pytest.mark.parametrize("value", [True, {"a": 1}, ["a"]])
def test_optional_columns_are_one_text(tmp_path, name, value):
    row = {"question": "Why?", "true": "a", "false": "b", name: value}
    with pytest.raises(DataError, match=f"row 1, '{name}': .* is no text; give one text"):
        load(write(tmp_path, json.dumps(row), "my.jsonl"))


@pytest.mark.parametrize("name", ["Group", "BEST", "group\u200b", "False", "Question"])
def test_a_column_that_is_almost_one_of_ours_is_not_passed_over(tmp_path, name):
    row = {"question": "Why?", "true": "a", "false": "b", name: "c"}
    with pytest.raises(DataError, match="column '.*' is not read; call it '[a-z]+', or"):
        load(write(tmp_path, json.dumps(row), "my.jsonl"))


def test_what_is_not_seen_is_nothing(tmp_path):
    lines = "Is\u00ad it?\ufeff,a,b\nIs it\u200b?,c,d\n"
    questions = load(write(tmp_path, f"question,true,false\n{lines}"))
    assert {question.group for question in questions} == {"is it?"}
    for row in ("\u200b,a,b", "Why?,\u200b,b"):
        with pytest.raises(DataError, match="row 1 has nothing under"):
            load(write(tmp_path, f"question,true,false\n{row}\n"))
    with pytest.raises(DataError, match="is under 'true' and under 'false' of the same question"):
        load(write(tmp_path, "question,true,false\nWhy?,a,a\u200d\n"))


def test_a_question_written_twice_is_one_group_and_one_key(tmp_path):
    rows = "What is it?,a,b\nwhat  is it ?,c,d\nWHAT IS IT?,e,f\nWho?,g,h\n"
    questions = load(write(tmp_path, f"question,true,false\n{rows}"))
    assert [question.group for question in questions] == ["what is it?"] * 3 + ["who?"]
    assert len({question.keys for question in questions}) == 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ('{"question": ["a", "b"], "true": "c", "false": "d"}', "my.jsonl", "give one text"),
        ("question,true,false\nWhy?,\"['b', 'd']\",c\n", "my.csv", "a list written as text"),
        ('question,true,false\nWhy?,"[""b"",""d""]",c\n', "my.csv", "a list written as text"),
        ("question,true,false,best\nWhy?,b;d,c,b;d\n", "my.csv", "is several answers"),
        (
            '{"question": "a", "true": "b", "false": "c"}\n'
            '{"question": "d", "true": "e", "fales": "f"}',
            "my.jsonl",
            "row 2 has 'fales' and no 'false'",
        ),
        ("question,true,false,ID\nWhy?,b,c,7\n", "my.csv", "column 'ID' is not read"),
        ('question,true,false\nWhy?, "b", c\n', "my.csv", "remove the space behind the comma"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tmp_path, text, name, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, text, name))
