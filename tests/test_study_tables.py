from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import METHODS, STYLES, results, styled

from fasb.artifacts import read_parquet, write_parquet
from fasb.errors import ArtifactError, ConfigError
from fasb.search import Method
from fasb.study.cells import Cell
from fasb.study.escaping import DAGGER, DASH, DELTA, MINUS
from fasb.study.measures import MEASURES, TABLES, shown_in
from fasb.study.panels import judge_note, judges_of, read_cells
from fasb.study.printing import caption, latex, lines, markdown, number, parts_of, split
from fasb.study.styles import MethodStyle, styles_of
from fasb.study.tables import AVERAGE, chosen_methods, table_rows


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    made = results(tmp_path_factory.mktemp("results"))
    return read_cells(made.cells, made.files("metrics.parquet"), "metrics.parquet")


@pytest.fixture(scope="module")
def rows(frame):
    return table_rows(frame, "main", STYLES, "default", n_draws=300)


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
    known = rows[rows["low"].notna() & rows["difference_low"].notna()]
    change = known["difference"]
    assert set(known["metric"]) >= {"true", "info", "true_info", "mc1", "mc2"}
    assert known["value"].between(known["low"] - 1e-9, known["high"] + 1e-9).all()
    assert change.between(known["difference_low"] - 1e-9, known["difference_high"] + 1e-9).all()
    shares = known[[MEASURES[name].unit == "share" for name in known["metric"]]]
    assert shares[["low", "high"]].stack().between(0, 100).all()


def test_the_ablation_compares_with_the_full_method():
    pairs = [("fasb-probe", "fasb-probe"), ("without-backtracking", "fasb-probe")]
    assert chosen_methods("ablation", STYLES) == pairs
    assert "without-backtracking" not in [one for one, _ in chosen_methods("main", STYLES)]


def test_roles_and_not_names_decide_what_is_compared_with_what():
    styles = [
        MethodStyle("plain", "Plain", steers=False),
        MethodStyle("fasb-probe", "A baseline"),
        MethodStyle("iti", "A gated one", gated=True),
        MethodStyle("unsteered", "Another gated one", gated=True),
        MethodStyle("caa", "A control", "control"),
    ]
    assert chosen_methods("main", styles)[-1] == ("unsteered", "plain")
    assert chosen_methods("ablation", styles) == [("iti", "iti"), ("caa", "iti")]
    assert chosen_methods("differences", styles) == [
        ("iti", "fasb-probe"), ("iti", "unsteered"), ("unsteered", "fasb-probe"),
    ]  # fmt: skip


def test_a_crossing_is_compared_with_the_unsteered_model_and_is_no_ablation():
    styles = [
        MethodStyle("plain", "Plain", steers=False),
        MethodStyle("a", "A", "control", crossed=("Heads", "Always")),
        MethodStyle("b", "B", "control", gated=True, crossed=("Heads", "Probe")),
        MethodStyle("c", "C", "control"),
    ]
    pairs = [("plain", "plain"), ("a", "plain"), ("b", "plain")]
    assert chosen_methods("crossing", styles) == pairs
    assert [one for one, _ in chosen_methods("ablation", styles)] == ["b", "c"]


def test_a_lone_method_differs_from_the_unsteered_model():
    assert ("iti", "unsteered") in chosen_methods("differences", styled("unsteered", "iti"))


def test_gated_methods_minus_every_baseline_have_a_table(frame, rows):
    found = table_rows(frame, "differences", STYLES, "default", n_draws=300)
    pairs = found[["method", "baseline"]].drop_duplicates().itertuples(index=False, name=None)
    assert ("fasb-probe", "iti") in set(pairs)
    key = ["model", "metric"]
    two = [rows[rows["method"] == name].set_index(key)["value"] for name in ("fasb-probe", "iti")]
    pair = found[(found["method"] == "fasb-probe") & (found["baseline"] == "iti")]
    pd.testing.assert_series_equal(
        pair.set_index(key)["difference"], two[0] - two[1], check_names=False
    )
    text = markdown(found)
    assert f"| FASB-Probe {MINUS} ITI " in text
    assert "of 9 differences are marked" in text


def test_a_caption_names_of_many_differences_those_that_are_marked(frame, monkeypatch):
    found = table_rows(frame, "differences", STYLES, "default", n_draws=300)
    (part, *_) = split(found)
    measure = part[part["metric"] == "true_info"]
    pairs = [
        f"{one} {MINUS} {other} "
        for one, other in zip(measure["label"], measure["baseline_label"], strict=True)
    ]
    assert all(pair in caption(part) for pair in pairs)
    monkeypatch.setattr("fasb.study.printing.NAMED", 1)
    first = measure.index[0]
    for p in (1.0, 0.001):
        part.loc[measure.index, "p_holm"] = 1.0
        part.loc[first, "p_holm"] = p
        told = caption(part)
        assert [pair in told for pair in pairs] == [p < 0.05, *[False] * (len(pairs) - 1)]
        assert ("True*Info, 0 of 3: none." in told) == (p == 1)


def test_holm_corrects_over_all_differences_that_the_table_prints(frame):
    """Two comparisons, three pairs, and every measure of the part: one family."""
    found = table_rows(frame, "differences", STYLES, "default", n_draws=50)
    tested = found[found["p"].notna()]
    n = 2 * 3 * len(shown_in("differences"))
    assert set(tested["claims"]) == {n} == {len(tested)}
    smallest = tested.loc[tested["p"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(min(n * smallest["p"], 1))
    first = split(found)[0]
    assert f"over all {n} differences of these tables, one a comparison" in caption(first)
    one = table_rows(frame[frame["model"] == "contrast-s2"], "differences", STYLES, "", n_draws=50)
    assert f"over all {n // 2} differences of this table" in caption(one)


def test_intervals_and_tests_speak_of_worlds_from_three_on_and_of_questions_below(tmp_path):
    made = results(tmp_path, worlds=("a-s2", "a-s3", "a-s4", "b-s2", "b-s3", "c"), seeds=(0,))
    frame = read_cells(made.cells, made.files("metrics.parquet"), "metrics.parquet")
    worlds, two, one = split(table_rows(frame, "main", STYLES, "default", n_draws=50))
    assert "interval over the 3 worlds (t, 2 degrees of freedom)" in caption(worlds)
    assert "would it be there in further worlds of this kind?" in caption(worlds)
    assert "interval over questions" in caption(two)
    assert "these two worlds and what was fitted are held fixed" in caption(two)
    assert "this model and dataset and what was fitted are held fixed" in caption(one)
    assert "do they differ on questions like these here?" in caption(one)
    assert [set(part["test"]) - {""} for part in (worlds, two, one)] == [
        {"t"}, {"permutation"}, {"permutation"},
    ]  # fmt: skip


def test_an_unknown_table_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ablation'"):
        chosen_methods("ablations", STYLES)


def test_no_number_is_a_negative_zero(rows):
    zero = rows.assign(difference=-0.01, difference_low=-0.04, difference_high=0.0)
    text = markdown(zero)
    assert f"{MINUS}0.0" not in text
    assert "+0.0 [+0.0, +0.0]" in text


def test_a_caption_opens_with_its_message_and_gives_n_and_seeds(rows):
    text = caption(split(rows)[0])
    assert text.startswith("tradeoff: FASB-Probe has the highest True*Info, ")
    assert "48 test questions; 2 worlds, 2 split seeds." in text


def test_a_difference_is_marked_where_its_corrected_p_is_small(rows):
    tested = rows[rows["p"].notna()]
    assert (tested["p_holm"] >= tested["p"]).all()
    part = split(rows)[0].assign(
        p_holm=[0.04 if i % 2 else 0.06 for i in range(len(split(rows)[0]))]
    )
    for columns in parts_of(part).values():
        for column in columns:
            for _, of in part.groupby("method"):
                found = number(of, column)
                row = of[of["metric"] == column.measure.name].iloc[0]
                differs = column.difference and row["method"] != row["baseline"]
                assert found.text.endswith(DAGGER) == (differs and row["p_holm"] < 0.05)


def test_a_sigma_of_all_questions_is_marked_under_any_preset(rows):
    assert "Sigma is taken from all questions" in caption(rows.assign(sigma_of_all=True))
    assert "Sigma" not in caption(rows.assign(preset="reference"))


def test_published_numbers_stand_on_lines_of_their_own_where_model_dataset_and_method_correspond(
    frame,
):
    names = {"model": "llama2-7b-chat", "dataset": "truthfulqa"}
    one = frame[frame["model"].str.startswith("contrast")].assign(**names)
    part = table_rows(one, "main", STYLES, "default", n_draws=50)
    found = part.set_index(["method", "metric"])["published"].dropna()
    assert found["fasb-probe", "true_info"] == 80.56
    assert set(found.index.get_level_values(0)) == {"unsteered", "iti", "fasb-probe"}
    written = markdown(part).splitlines()
    measured = [line for line in written if line.startswith("| FASB-Probe ")]
    published = [line for line in written if line.startswith("| _FASB-Probe, published_ ")]
    assert "80.56" in published[0]
    assert "80.56" not in "".join(measured)
    assert "taken over, with SADI's prompts and judge" in caption(part)
    assert "\\textit{FASB-Probe, published}" in latex(part)
    assert (
        table_rows(one.assign(model="llama2-7b"), "main", STYLES, "default", 50)["published"]
        .isna()
        .all()
    )
    assert (
        table_rows(one.assign(dataset="trivia_qa"), "main", STYLES, "default", 50)["published"]
        .isna()
        .all()
    )


def test_models_stand_below_one_another(frame):
    one = frame[frame["model"].str.startswith("contrast")].assign(dataset="truthfulqa")
    both = pd.concat([one.assign(model=name) for name in ("llama2-7b", "qwen2.5-7b")])
    (part,) = split(table_rows(both, "models", STYLES, "default", n_draws=50))
    assert "highest True\\*Info of 2 comparisons" in markdown(part)
    assert "| qwen2.5-7b, FASB-Probe " in markdown(part)


def test_what_differs_between_the_models_of_a_table_is_told_of_each(frame):
    one = frame[frame["model"].str.startswith("contrast")].assign(dataset="truthfulqa")
    worlds = [one.assign(model=f"small-s{i}", mc2=one["mc2"] * (1 - i / 9)) for i in range(3)]
    (part,) = split(
        table_rows(
            pd.concat([*worlds, one.assign(model="large", seed=0)]), "models", STYLES, "default", 50
        )
    )
    named = {"small": "Judge: one.", "large": "Judge: other."}
    told = caption(part.assign(judge=part["model"].map(named)))
    sizes = part.drop_duplicates("model").set_index("model")["questions"]
    assert sizes["small"] > sizes["large"]
    assert f"Test questions: small {sizes['small']}, large {sizes['large']}; " in told
    assert "small, truthfulqa: 3 worlds, 2 split seeds; large, truthfulqa: 1 split seed." in told
    assert "small, truthfulqa: In brackets: 95 % interval over the 3 worlds" in told
    assert "large, truthfulqa: In brackets: 95 % interval over questions" in told
    assert "small, truthfulqa: by a t test over the worlds" in told
    assert "large, truthfulqa: by permuting groups" in told
    assert "small, truthfulqa: Judge: one. large, truthfulqa: Judge: other." in told


def test_measures_that_some_questions_do_not_have_say_how_many_do(frame):
    (part, *_) = split(table_rows(frame, "main", STYLES, "default", n_draws=50))
    assert "(MC" not in caption(part)
    lacking = sorted(set(frame["question"]))[:4]
    without = frame["question"].isin(lacking)
    choices = [name for name in frame if name.startswith("mc")]
    fewer = frame.assign(**{name: frame[name].mask(without) for name in choices})
    found = table_rows(fewer, "main", STYLES, "default", n_draws=50)
    (part, *_) = split(found)
    known = part[part["metric"] == "mc1"].iloc[0]
    assert known["n"] < known["questions"]
    said = f"{known['questions']} test questions (MC1, MC2, MC2 (tuned for it): {known['n']}); "
    assert said in caption(part)
    tradeoff = fewer[fewer["model"].str.startswith("tradeoff") & fewer["mc1"].notna()]
    assert known["n"] == len(tradeoff[["model", "question"]].drop_duplicates())


def test_tasks_stand_side_by_side_with_their_average(frame):
    one = frame[frame["model"].str.startswith("contrast")].assign(model="llama2-7b-chat")
    both = pd.concat([one.assign(dataset=name) for name in ("copa", "sst2")])
    (part,) = split(table_rows(both, "tasks", STYLES, "default", n_draws=50))
    head, _, *body = [line for line in markdown(part).splitlines() if line.startswith("|")]
    up = "\N{NO-BREAK SPACE}\N{UPWARDS ARROW}"
    assert cells(head) == ["Method", f"copa, MC1{up}", f"sst2, MC1{up}", f"average, MC1{up}"]
    assert ["_FASB-Probe, published_", "90.0", "92.8", "78.8"] in map(cells, body)
    values = part[(part["method"] == "iti") & (part["metric"] == "mc1")].set_index("dataset")[
        "value"
    ]
    assert values["average"] == pytest.approx((values["copa"] + values["sst2"]) / 2)


def test_an_average_is_over_the_datasets_of_its_own_model(frame):
    """Another model with more of them is another printed table."""
    one = frame[frame["model"].str.startswith("contrast")]
    asked = [("a", "copa"), ("a", "sst2"), ("b", "copa"), ("b", "sst2"), ("b", "nli")]
    both = pd.concat([one.assign(model=model, dataset=dataset) for model, dataset in asked])
    rows = table_rows(both, "tasks", STYLES, "default", n_draws=50)
    averages = rows[(rows["dataset"] == AVERAGE) & (rows["metric"] == "mc1")]
    n_methods = rows["method"].nunique()
    assert averages.groupby("model")["value"].count().to_dict() == {"a": n_methods, "b": n_methods}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_of_ablations_alone_has_a_baseline():
    pairs = chosen_methods("ablation", styled("without-backtracking"))
    assert pairs[0] == ("without-backtracking", "without-backtracking")


@pytest.fixture(scope="module")
def effects(tmp_path_factory):
    made = results(tmp_path_factory.mktemp("effects"), groups=2)
    frame = read_cells(made.cells, made.files("side_effects.parquet"), "side_effects.parquet")
    return table_rows(frame, "side_effects", STYLES, "default", n_draws=200)


def test_side_effects_are_in_nats_and_against_the_unsteered_model(effects):
    part = split(effects)[0]
    assert list(parts_of(part)) == ["texts", "unrelated"]
    values = part.set_index(["method", "metric"])["value"]
    assert values["unsteered", "kl"] == 0.0
    assert 0.2 < values["iti", "kl"] < 1.0
    assert values["fasb-probe", "steered_policy"] == pytest.approx(12.0)
    difference = part.set_index(["method", "metric"])["difference"]
    assert difference["iti", "ce"] == pytest.approx(values["iti", "ce"] - values["unsteered", "ce"])
    assert "under each method's own policy: ITI 0." in caption(part)
    assert "40 texts and 40 unrelated questions; 2 worlds, 2 split seeds." in caption(part)
    found = number(part[part["method"] == "iti"], parts_of(part)["texts"][0])
    assert len(found.text.partition(".")[2]) == 3
    assert "." in found.interval


def test_both_forms_show_the_same_numbers(rows):
    part = split(rows)[0]
    texts = [markdown(rows), latex(rows).replace("$-$", MINUS).replace("$^\\dagger$", DAGGER)]
    for columns in parts_of(part).values():
        for line in lines(part, columns):
            for one in line.numbers:
                for text in texts:
                    assert one.text.replace(DASH, "") in text
                    assert one.interval in text


def test_markdown_rows_have_as_many_cells_as_their_header(rows):
    blocks = [block.splitlines() for block in markdown(rows).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


def test_latex_needs_no_escaping_by_hand(rows):
    text = latex(rows)
    body = text.replace("\\%", "").replace("% needs \\usepackage{booktabs}", "")
    assert "%" not in body
    assert DELTA not in body
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
    files, cells = made.files("metrics.parquet"), made.cells
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
    cells = [Cell("a", "b", 0, results=Path("x"))]
    with pytest.raises(ArtifactError, match=r"x/a/b/seed0/metrics.parquet: not among the files"):
        read_cells(cells, [tmp_path / "metrics.parquet"], "metrics.parquet")


def test_methods_have_their_names_in_print_from_the_config(frame):
    styles = [MethodStyle(name, f"The {name}", colour="#123456") for name in METHODS]
    found = table_rows(frame, "main", styles, "default", n_draws=20)
    assert "| The iti " in markdown(found)
    assert set(found["colour"]) == {"#123456"}


def test_a_methods_style_is_its_config_entry():
    entries = {
        "plain": Method(label="The model"),
        "mine": Method(use="head_vectors", role="control", colour="#123456"),
        "other": Method(use="head_vectors", gate="probe", label="Gated"),
    }
    assert styles_of(entries) == (
        MethodStyle("plain", "The model", steers=False),
        MethodStyle("mine", "mine", "control", "#123456"),
        MethodStyle("other", "Gated", gated=True),
    )


def test_every_part_of_a_table_shows_some_measure_and_every_measure_has_one_place_in_it():
    for kind in TABLES.values():
        for part in kind.parts:
            assert shown_in(part)
    assert all(measure.title for measure in MEASURES.values())
