"""The schemas of a study's tables are those that its stages write."""

import pandas as pd
import pytest

from fasb.errors import ArtifactError
from fasb.schemas import Column, Table, check_table
from fasb.study.evaluate import GENERATIONS, SCORED, SIDE_EFFECTS
from fasb.study.frames import TABLES, Chosen
from fasb.study.measures import columns_of
from fasb.study.sweep import SETTING, SWEPT
from fasb.study.tune import ENTRIES, METRICS


def test_a_schema_has_the_columns_that_its_stage_writes():
    assert set(TABLES["generations.parquet"].columns) == set(GENERATIONS)
    assert set(TABLES["scores.parquet"].columns) == set(SCORED)
    assert set(TABLES["side_effects.parquet"].columns) == set(SIDE_EFFECTS)
    assert set(TABLES["sweep.parquet"].columns) == {*SETTING, *SWEPT}
    assert set(TABLES["grid.parquet"].columns) == {*SETTING, *METRICS, "chosen", "chosen_mc2"}
    metrics = {"fold", "method", "question", "group", *columns_of("metrics.parquet")}
    assert set(TABLES["metrics.parquet"].columns) == metrics


def test_what_tuning_says_of_a_method_is_what_is_read():
    keys = {key for pair in ENTRIES.values() for key in pair}
    assert set(Chosen.model_fields) == keys | {"validation", "like", "steers", "tried", "different"}


@pytest.mark.parametrize(
    ("column", "right", "wrong"),
    [
        (Column("text"), ["a", ""], ["a", None]),
        (Column("text"), ["a"], [1]),
        (Column("whole", 0, 5), [0, 5], [0, 6]),
        (Column("whole", 0, 5), [0], [0.5]),
        (Column("number", 0, 1), [0, 0.5], [float("nan")]),
        (Column("number"), [-3.0], [float("inf")]),
        (Column("number", 0, 1, missing=True), [None, 0.5], [None, 2.0]),
        (Column("switch"), [True, False], [1, 0]),
        (Column("whole", 0, lists=True), [[], [1]], [[], [-1]]),
        (Column("text", lists=True), [["a"], []], [["a"], "b"]),
    ],
)
def test_a_column_holds_what_its_kind_says(tmp_path, column, right, wrong):
    table = Table({"x": column, "row": Column("whole")}, ("row",))
    check_table(pd.DataFrame({"x": right, "row": range(len(right))}), table, tmp_path)
    with pytest.raises(ArtifactError, match="column x, .*row [12]: .*; make it again"):
        check_table(pd.DataFrame({"x": wrong, "row": range(len(wrong))}), table, tmp_path)


def test_an_empty_table_of_the_right_columns_is_one(tmp_path):
    for name, table in TABLES.items():
        check_table(pd.DataFrame(columns=list(table.columns)), table, tmp_path / name)
