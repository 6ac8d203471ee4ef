"""A person's own questions, read from a table."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fasb.data.protocol import Question
from fasb.data.table import Settings, load
from fasb.errors import DataError
from fasb.extensions import find, settings_of

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
        group="Who built the tower?",
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
        pytest.param("", "my.csv", r"my.csv: cannot be read .*; correct the file", id="empty file"),
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
            r"line 2 is not JSON .*; correct that line",
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
