"""Two judges on the same answers: table `judges`."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score
from synthetic import MADE_BY, METHODS, STYLES, results

from fasb.artifacts import read_parquet, write_parquet
from fasb.errors import DataError
from fasb.study.agreement import agreement_rows, agreement_tables
from fasb.study.texttables import texts_as_latex, texts_as_markdown

NAMES = ("generations.parquet", "judged.parquet", "judged_second.parquet")


def made_by(use, **error):
    return {
        **MADE_BY,
        "settings": {"judge": {"use": use, "code": ""}},
        "judged_by": {"error": error} if error else {},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two pooled worlds and one by itself; the second judge turns some verdicts, gives no info."""
    made = results(
        tmp_path_factory.mktemp("judges"), worlds=("a-s2", "a-s3", "b-s2"), seeds=(0, 1), groups=4
    )
    for i, file in enumerate(made.files("judged.parquet")):
        judged = read_parquet(file)
        write_parquet(file, judged, made_by("exact", true=0.0, info=0.0))
        turned = np.random.default_rng(i).random(len(judged)) < 0.2
        second = judged.drop(columns="info").assign(
            true=np.where(turned, 1 - judged["true"], judged["true"])
        )
        write_parquet(file.with_name("judged_second.parquet"), second, made_by("light", true=0.17))
    return made


@pytest.fixture(scope="module")
def rows(made):
    return agreement_rows(made.cells, made.files(*NAMES), STYLES)


def test_numbers_are_those_of_a_plain_count(made, rows):
    assert rows["score"].unique().tolist() == ["truth"]
    pairs = []
    for cell in made.cells[:4]:
        generations, first, second = (read_parquet(cell.folder / name) for name in NAMES)
        first, second = (
            found.set_index(["question", "answer"])["true"] for found in (first, second)
        )
        of = generations[generations["method"] == "iti"]
        pairs += [
            (bool(first[key]), bool(second[key])) for key in zip(of["question"], of["answer"])
        ]
    row = rows[(rows["model"] == "a") & (rows["method"] == "iti")].iloc[0]
    assert row["answers"] == len(pairs)
    assert row["first"] == pytest.approx(100 * np.mean([a for a, _ in pairs]))
    assert (row["only_first"], row["only_second"]) == (
        sum(a > b for a, b in pairs),
        sum(b > a for a, b in pairs),
    )
    assert row["agreement"] == pytest.approx(100 * np.mean([a == b for a, b in pairs]))
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*zip(*pairs)))
    assert row["low"] < row["agreement"] < row["high"]


def test_every_method_and_all_answers_are_rows_and_both_judges_are_named(rows, tmp_path):
    assert rows[rows["model"] == "b"]["method"].tolist() == ["all", *METHODS]
    rows.to_csv(tmp_path / "judges.csv", index=False)
    tables = agreement_tables(rows)
    text = texts_as_markdown(tables)
    assert agreement_tables(pd.read_csv(tmp_path / "judges.csv")) == tables
    assert (
        "First: exact, exact. Second: light, wrong on 17.0 % (True) of answers it had not seen."
        in text
    )
    assert texts_as_latex(tables).count("\\begin{tabular}") == 2
    assert "| Truth   | FASB-Probe " in text


def test_cells_with_one_judge_are_left_out(made):
    files = [
        file for file in made.files(*NAMES) if not file.match("b-s2/*/*/judged_second.parquet")
    ]
    assert agreement_rows(made.cells, files)["model"].unique().tolist() == ["a"]


def test_an_answer_without_both_verdicts_is_refused(made, tmp_path):
    cell = replace(made.cells[0], results=tmp_path)
    for name in NAMES:
        frame = read_parquet(made.cells[0].folder / name)
        write_parquet(
            cell.folder / name,
            frame.iloc[1:] if name == "judged_second.parquet" else frame,
            made_by("exact"),
        )
    with pytest.raises(
        DataError, match="not every answer has both verdicts; run the stage 'judge'"
    ):
        agreement_rows([cell], [cell.folder / name for name in NAMES])
