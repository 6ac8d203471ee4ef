import numpy as np
import pandas as pd
import pytest
from synthetic import METHODS, results

from fasb.artifacts import read_parquet, write_parquet
from fasb.errors import ArtifactError, ConfigError
from fasb.study.panels import Cell, judge_note, judges_of, label, read_cells
from fasb.study.tables import (
    DAGGER,
    MINUS,
    caption,
    cell,
    chosen_methods,
    latex,
    markdown,
    parts_of,
    split,
    table_rows,
)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    made = results(tmp_path_factory.mktemp("results"))
    return read_cells(Cell.of(made.cells), made.files("metrics.parquet"), "metrics.parquet")


@pytest.fixture(scope="module")
def rows(frame):
    return table_rows(frame, "main", METHODS, "default", n_draws=300)


def test_worlds_of_a_kind_are_pooled_and_kinds_are_not(rows):
    sizes = rows.drop_duplicates("model").set_index("model")
    assert sizes["worlds"].to_dict() == {"tradeoff": 2, "contrast": 1}
    assert sizes["questions"].to_dict() == {"tradeoff": 48, "contrast": 24}
    assert set(sizes["seeds"]) == {2}


def test_an_estimate_equals_the_mean_of_the_cells_summaries(frame, rows):
    one = frame[(frame["model"].str.startswith("tradeoff")) & (frame["method"] == "iti")]
    folds = one.groupby(["model", "seed", "fold"])[["true", "info"]].mean()
    found = rows[(rows["model"] == "tradeoff") & (rows["method"] == "iti")].set_index("metric")[
        "value"
    ]
    assert found["true_info"] == pytest.approx(100 * (folds["true"] * folds["info"]).mean())
    assert found["true"] == pytest.approx(100 * folds["true"].mean())


def test_every_estimate_lies_in_its_interval_and_every_difference_has_one(rows):
    known = rows[rows["value"].notna()]
    assert known["value"].between(known["low"] - 1e-9, known["high"] + 1e-9).all()
    assert (
        known["difference"]
        .between(known["difference_low"] - 1e-9, known["difference_high"] + 1e-9)
        .all()
    )
    assert (
        known[known["metric"].eq("true_info") & known["method"].ne("unsteered")]["p"]
        .between(0, 1)
        .all()
    )


def test_the_ablation_compares_with_the_full_method():
    methods, baseline = chosen_methods("ablation", METHODS)
    assert (methods, baseline) == (["fasb-probe", "without-backtracking"], "fasb-probe")
    assert "without-backtracking" not in chosen_methods("main", METHODS)[0]


def test_an_unknown_table_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ablation'"):
        chosen_methods("ablations", METHODS)


def test_no_number_is_a_negative_zero(rows):
    zero = rows.assign(difference=-0.01, difference_low=-0.04, difference_high=0.0)
    text = markdown(zero)
    assert f"{MINUS}0.0" not in text
    assert "+0.0 [+0.0, +0.0]" in text


def test_a_caption_opens_with_its_message_and_gives_n_and_seeds(rows):
    text = caption(split(rows)[0])
    assert text.startswith("tradeoff: FASB-Probe has the highest True*Info, ")
    assert "48 test questions, 2 worlds, 2 split seeds" in text


def test_a_difference_is_marked_where_its_corrected_p_is_small(rows):
    tested = rows[rows["p"].notna()]
    assert set(tested["metric"]) == {"true", "info", "true_info", "mc1", "mc2", "mc2_tuned"}
    assert (tested["p_holm"] >= tested["p"]).all()
    assert set(tested["test"]) == {"permutation"}  # several phrasings and split seeds
    part = split(rows)[0]
    columns = [column for of in parts_of(part).values() for column in of]
    for row in part[part["p"].notna()].itertuples():
        for column in columns:
            if column.metric == row.metric:
                marked = cell(part, row.method, column)[0].endswith(DAGGER)
                assert marked == (column.difference and row.p_holm < 0.05)
    assert (
        "after Holm's correction over the methods, permutation of groups of questions (True, Info"
        in caption(part)
    )


def test_one_outcome_per_question_is_compared_by_mcnemar(frame):
    one = frame[(frame["model"] == "contrast-s2") & (frame["seed"] == 0)].assign(
        group=lambda rows: rows["question"]
    )
    one[["true", "info"]] = one[["true", "info"]].round()
    found = table_rows(one, "main", METHODS, "default", n_draws=50)
    tests = found[found["p"].notna()].drop_duplicates("metric").set_index("metric")["test"]
    assert tests[["true", "info", "true_info", "mc2"]].tolist() == [
        "mcnemar",
        "mcnemar",
        "permutation",
        "permutation",
    ]
    assert "exact McNemar test (True, Info); permutation of groups" in caption(found)


def test_a_sigma_of_all_questions_is_marked_under_any_preset(rows):
    assert "Sigma is taken from all questions" in caption(rows.assign(sigma_of_all=True))
    assert "Sigma" not in caption(rows.assign(preset="reference"))


def test_published_numbers_stand_on_lines_of_their_own_where_model_dataset_and_method_correspond(
    frame,
):
    names = {"model": "llama2-7b-chat", "dataset": "truthfulqa"}
    one = frame[frame["model"].str.startswith("contrast")].assign(**names)
    part = table_rows(one, "main", METHODS, "default", n_draws=50)
    found = part.set_index(["method", "metric"])["published"].dropna()
    assert found["fasb-probe", "true_info"] == 80.56
    assert set(found.index.get_level_values(0)) == {"unsteered", "iti", "fasb-probe"}
    measured = [line for line in markdown(part).splitlines() if line.startswith("| FASB-Probe |")]
    published = [
        line
        for line in markdown(part).splitlines()
        if line.startswith("| _FASB-Probe, published_ |")
    ]
    assert "80.56" in published[0]
    assert "80.56" not in "".join(measured)
    assert "taken over, with SADI's prompts and judge" in caption(part)
    assert "\\textit{FASB-Probe, published}" in latex(part)
    assert (
        table_rows(one.assign(model="llama2-7b"), "main", METHODS, "default", 50)["published"]
        .isna()
        .all()
    )
    assert (
        table_rows(one.assign(dataset="trivia_qa"), "main", METHODS, "default", 50)["published"]
        .isna()
        .all()
    )


def test_models_stand_below_one_another(frame):
    one = frame[frame["model"].str.startswith("contrast")].assign(dataset="truthfulqa")
    both = pd.concat([one.assign(model=name) for name in ("llama2-7b", "qwen2.5-7b")])
    (part,) = split(table_rows(both, "models", METHODS, "default", n_draws=50))
    assert "highest True\\*Info of 2 comparisons" in markdown(part)
    assert "| qwen2.5-7b, FASB-Probe |" in markdown(part)


def test_tasks_stand_side_by_side_with_their_average(frame):
    one = frame[frame["model"].str.startswith("contrast")].assign(model="llama2-7b-chat")
    both = pd.concat([one.assign(dataset=name) for name in ("copa", "sst2")])
    (part,) = split(table_rows(both, "tasks", METHODS, "default", n_draws=50))
    head, _, *body = [line for line in markdown(part).splitlines() if line.startswith("|")]
    assert head == "| Method | copa | sst2 | average |"
    assert "| _FASB-Probe, published_ | 90.0 | 92.8 | 78.8 |" in body
    values = part[(part["method"] == "iti") & (part["metric"] == "mc1")].set_index("dataset")[
        "value"
    ]
    assert values["average"] == pytest.approx((values["copa"] + values["sst2"]) / 2)


def test_a_run_of_ablations_alone_has_a_baseline():
    assert chosen_methods("ablation", ["all-fixed", "without-adaptive"])[1] == "all-fixed"


@pytest.fixture(scope="module")
def effects(tmp_path_factory):
    made = results(tmp_path_factory.mktemp("effects"), groups=2)
    frame = read_cells(
        Cell.of(made.cells), made.files("side_effects.parquet"), "side_effects.parquet"
    )
    return table_rows(frame, "side_effects", METHODS, "default", n_draws=200)


def test_side_effects_are_in_nats_and_against_the_unsteered_model(effects):
    part = split(effects)[0]
    assert list(parts_of(part)) == ["texts", "unrelated"]
    values = part.set_index(["method", "metric"])["value"]
    assert values["unsteered", "kl"] == 0.0
    assert 0.2 < values["iti", "kl"] < 1.0
    assert values["fasb-probe", "steered_gated"] == pytest.approx(12.0)
    difference = part.set_index(["method", "metric"])["difference"]
    assert difference["iti", "ce"] == pytest.approx(values["iti", "ce"] - values["unsteered", "ce"])
    assert "under each method's own gate: ITI 0." in caption(part)
    assert "80 texts and questions, 2 worlds, 2 split seeds" in caption(part)
    number, interval = cell(part, "iti", parts_of(part)["texts"][0])
    assert len(number.partition(".")[2]) == 3
    assert "." in interval


def test_all_three_forms_show_the_same_numbers(rows):
    part = split(rows)[0]
    texts = markdown(rows), latex(rows).replace("$-$", MINUS).replace("$^\\dagger$", DAGGER)
    for columns in parts_of(part).values():
        for column in columns:
            number, interval = cell(part, "fasb-probe", column)
            assert all(number in text and interval in text for text in texts)


def test_markdown_rows_have_as_many_cells_as_their_header(rows):
    blocks = [block.splitlines() for block in markdown(rows).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


def test_latex_needs_no_escaping_by_hand(rows):
    text = latex(rows)
    body = text.replace("\\%", "").replace("% needs \\usepackage{booktabs}", "")
    assert "%" not in body
    assert "Δ" not in body
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 4
    for line in text.splitlines():
        assert line.count("{") == line.count("}")


def test_a_comparison_without_generation_has_choices_only(rows):
    part = split(rows)[0].copy()
    part.loc[~part["metric"].str.startswith("mc"), ["value", "low", "high"]] = np.nan
    assert list(parts_of(part)) == ["choices"]
    assert "highest MC1" in caption(part)


def test_rows_survive_a_csv(rows, tmp_path):
    rows.to_csv(tmp_path / "main.csv", index=False)
    assert markdown(pd.read_csv(tmp_path / "main.csv")) == markdown(rows)


def test_answers_of_different_judges_are_never_compared(tmp_path):
    made = results(tmp_path, worlds=("a-s2", "a-s3", "b-s2"), seeds=(0,), groups=2)
    files, cells = made.files("metrics.parquet"), Cell.of(made.cells)
    for path, judge in zip(files, ("one", "one", "other"), strict=True):
        write_parquet(path, read_parquet(path), {"judge": judge})
    judges_of(cells, files)
    write_parquet(files[1], read_parquet(files[1]), {"judge": "other"})
    with pytest.raises(
        ArtifactError, match=r"a-s3.*judged by other, but .*a-s2.* by one; judge both by the same"
    ):
        judges_of(cells, files)


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"use": "exact", "error": {"true": 0.0, "info": 0.0}}, "Judge: exact, exact."),
        (
            {"use": "light", "error": {"true": 0.2, "info": 0.05}},
            "wrong on 20.0 % (True) and 5.0 % (Info) of answers",
        ),
        (
            {"use": "causal_lm", "true": {"path": "some/judge"}},
            "Judge: causal_lm, whose error is not known.",
        ),
    ],
)
def test_the_judges_error_stands_in_the_caption_of_its_numbers(rows, judge, said):
    (part, *_) = split(rows.assign(judge=judge_note(judge)))
    assert said in caption(part)
    part.loc[~part["metric"].str.startswith("mc"), ["value", "low", "high"]] = np.nan
    assert "Judge" not in caption(part)


def test_a_missing_file_of_a_cell_is_named(tmp_path):
    cells = Cell.of([{"model": "a", "dataset": "b", "seed": 0, "folder": "x/seed0"}])
    with pytest.raises(ArtifactError, match=r"x/seed0/metrics.parquet: not among the files"):
        read_cells(cells, [tmp_path / "metrics.parquet"], "metrics.parquet")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("iti", "ITI"),
        ("fasb-prototype", "FASB-Prototype"),
        ("unsteered", "Unsteered"),
        ("after-question", "After question"),
        ("without-backtracking-same", "w/o backtracking (same setting)"),
    ],
)
def test_methods_have_names_for_print(name, written):
    assert label(name) == written
