from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import roc_auc_score
from synthetic import STYLES, results, styled

from fasb.errors import ConfigError
from fasb.metrics.statistics import t_interval
from fasb.study.figures import (
    FIGURES,
    calibration,
    caption,
    costs,
    draw,
    figure,
    figure_1,
    lookahead,
    rows_of,
    save,
    tradeoff,
)
from fasb.study.figures.drawing import contrast_on_white, looks, readable
from fasb.study.figures.figure_4 import head_rows
from fasb.study.figures.numbers import along, area_of, mean_over_worlds, with_verdicts
from fasb.study.panels import read_cells
from fasb.study.styles import MethodStyle

CROSSED = (
    STYLES[0],
    replace(STYLES[1], crossed=("Heads", "Always")),
    replace(STYLES[2], crossed=("Heads", "Probe, back")),
    replace(STYLES[3], crossed=("Random", "Always")),
)
FILES = (
    "generations.parquet",
    "judged.parquet",
    "anchors.h5",
    "grid.parquet",
    "metrics.parquet",
    "side_effects.parquet",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return results(tmp_path_factory.mktemp("results"), groups=5)


@pytest.fixture(scope="module")
def rows(made):
    cells, files = made.cells, made.files(*FILES)
    styles = {"crossing": CROSSED}
    return {name: rows_of(name, cells, files, styles.get(name, STYLES)) for name in FIGURES}


@pytest.fixture(scope="module")
def drawn(rows):
    return {name: draw(name, rows[name]) for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_rows_give_the_same_bytes(rows, name, tmp_path):
    for folder in ("first", "second"):
        save(draw(name, rows[name]), tmp_path / folder / name)
    for kind in ("pdf", "png"):
        first, second = (
            (tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("first", "second")
        )
        assert first == second


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_the_page_and_has_no_title(drawn, name):
    figure = drawn[name]
    assert figure.get_figwidth() in (5.5, 3.6, 2.65)
    assert figure.get_figheight() < 7
    assert not figure.get_suptitle()
    assert not any(axis.get_title() for axis in figure.axes)


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_too_small_for_print(drawn, name):
    figure = drawn[name]
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
    assert min(sizes) >= 6.5


@pytest.mark.parametrize("name", FIGURES)
def test_rows_read_back_from_their_csv_give_the_same_caption(rows, name, tmp_path):
    rows[name].to_csv(tmp_path / "rows.csv", index=False)
    assert caption(name, pd.read_csv(tmp_path / "rows.csv")) == caption(name, rows[name])


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_without_such_data_gets_a_figure_that_says_so(rows, name, tmp_path):
    for empty in (rows[name].iloc[:0], pd.DataFrame()):
        assert "in this study" in caption(name, empty)
        nothing = draw(name, empty)
    save(nothing, tmp_path / name)
    assert (tmp_path / f"{name}.pdf").stat().st_size


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "figure_4"])
def test_two_datasets_of_one_model_are_told_apart(rows, name):
    first = rows[name][rows[name]["model"] == rows[name]["model"].iloc[0]]
    two = pd.concat([first.assign(model="m", dataset=dataset) for dataset in ("a", "b")])
    told = caption(name, two.reset_index(drop=True))
    assert "m, a: " in told
    assert "m, b: " in told


def test_layers_and_heads_have_whole_ticks(drawn):
    for axis in drawn["figure_4"].axes[:-1]:
        assert all(float(tick).is_integer() for tick in [*axis.get_xticks(), *axis.get_yticks()])


def test_labels_at_line_ends_do_not_overlap(drawn):
    figure = drawn["sensitivity"]
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_numbers_of_methods_that_cost_and_gain_alike_lie_on_no_other():
    about = {"model": "m", "dataset": "m", "over": "worlds", "metric": "true_info", "worlds": 3}
    rows = [
        about
        | {"method": f"m{i}", "label": f"Method {i}", "colour": "#0072B2", "place": i}
        | {"cost": "harmed", "x": x, "value": value, "low": value - 1, "high": value + 1}
        for i, (x, value) in enumerate([(5, 9.9), (5, 10), (5.1, 10), (5.1, 10.1), (0, 0), (9, 20)])
    ]
    figure = draw("costs", pd.DataFrame(rows))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(rows)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


ABOUT = {"model": "m", "dataset": "m", "over": "worlds", "questions": 9, "worlds": 3, "seeds": 1}


def many(n):
    """What `looks` asks of n methods."""
    return [
        ABOUT | {"method": f"m{i}", "label": f"Method {i}", "colour": "#0072B2", "place": i}
        for i in range(n)
    ]


def lies_inside(figure):
    figure.draw_without_rendering()
    held, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return (
        held.x0 > -0.01 and held.y0 > -0.01 and held.x1 < width + 0.01 and held.y1 < height + 0.01
    )


def test_more_methods_than_numbers_find_place_for_have_a_line_each_the_best_on_top():
    gains = {"metric": "true_info", "low": -5.0, "high": 5.0}
    found = pd.DataFrame(
        one | gains | {"model": model, "cost": cost, "x": least + i, "value": float(-i)}
        for i, one in enumerate(many(costs.MOST + 1))
        for model in ("m", "n")
        for cost, least in (("decoded", 16.0), ("harmed", 0.0), ("kl_policy", 0.0))
        if (model, cost) != ("n", "kl_policy")
    )
    assert "numbers" not in caption("costs", found)
    figure = draw("costs", found)
    grid = np.reshape(figure.axes, (2, 4))
    figure.draw_without_rendering()
    labels = [axis.xaxis.label for axis in grid[1]]
    assert [label.get_text().split()[0] for label in labels[1:]] == ["tokens", "answers", "KL"]
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    names = [text.get_text() for text in grid[0][0].get_yticklabels()]
    assert names == [f"Method {i}" for i in reversed(range(costs.MOST + 1))]
    # every point lies in its panel, and 0, which has no logarithm, is not asked for
    for axis, least in zip(grid[0][1:], (16, 0, 0), strict=True):
        low, high = axis.get_xlim()
        assert low < least
        assert least + costs.MOST < high
    assert grid[1][1].get_xlim()[0] > 8
    assert [text.get_text() for text in grid[1][3].texts] == ["not measured"]
    assert lies_inside(figure)


def test_more_methods_than_a_plane_holds_have_a_plane_each():
    point = {"true": 40.0, "info": 90.0, "alpha": np.nan} | {
        f"{axis}_{end}": value
        for axis, value in (("true", 40.0), ("info", 90.0))
        for end in ("low", "high")
    }
    found = pd.DataFrame(
        one | point | {"part": part, "alpha": 2.0 if part == "validation" else np.nan}
        for one in many(tradeoff.MOST + 1)
        for part in ("validation", "test")
    )
    assert "Grey points: the other methods." in caption("tradeoff", found)
    figure = draw("tradeoff", found)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [f"Method {i}" for i in range(tradeoff.MOST + 1)]
    assert lies_inside(figure)
    few = found[found["place"] < tradeoff.MOST]
    assert "Grey points" not in caption("tradeoff", few)
    assert len(draw("tradeoff", few).axes) == 1


def test_a_method_without_the_last_setting_is_named_where_its_line_ends():
    two, gains = many(2), {"metric": "true_info", "low": np.nan, "high": np.nan}
    places = [(two[0], "alpha"), (two[0], "s"), (two[1], "alpha")]
    found = pd.DataFrame(
        one | gains | {"knob": knob, "x": x, "value": x, "chosen": 0.0}
        for one, knob in places
        for x in (1.0, 2.0)
    )
    alpha, s = draw("sensitivity", found).axes
    assert [text.get_text() for text in s.texts] == ["Method 0"]
    assert [text.get_text() for text in alpha.texts] == ["Method 1"]


@pytest.mark.parametrize(
    "colour", ["#000000", "#D55E00", "#E69F00", "#56B4E9", "#999999", "#FFFF00"]
)
def test_method_names_are_readable_on_white(colour):
    assert contrast_on_white(readable(colour)) >= 4.5


def test_a_methods_look_and_name_are_its_config_entrys_in_every_figure(made):
    styles = [
        MethodStyle("unsteered", "A", colour="#111111", steers=False),
        MethodStyle("iti", "B", colour="#222222", gated=True),
        MethodStyle("fasb-probe", "C"),
    ]
    seen = {}
    for name in ("sensitivity", "tradeoff", "data_efficiency"):
        rows = rows_of(name, made.cells, made.files(*FILES), styles)
        for method, look in looks(rows).items():
            assert seen.setdefault(method, look) == look
    assert {look.label: look.colour for look in seen.values()} == {
        "A": "#111111", "B": "#222222", "C": "#999999",
    }  # fmt: skip


def test_the_tracker_shown_is_that_of_the_first_gated_main_method(made):
    from fasb.study.panels import read_cells

    cells, files = made.cells, made.files(*FILES)
    frames = [read_cells(cells, files, name) for name in FIGURES["figure_1"]]
    for order in (("fasb-probe", "fasb-prototype"), ("fasb-prototype", "fasb-probe")):
        found = with_verdicts(*frames, styled("unsteered", "iti", *order))
        assert set(found["method"]) == {order[0]}
    assert with_verdicts(*frames, styled("unsteered", "iti")).empty


def test_heads_are_sorted_within_their_layer_before_averaging():
    first, second = np.array([[0.5, 0.9], [0.6, 0.7]]), np.array([[0.8, 0.6], [0.5, 0.4]])
    rows = head_rows([("a-s2", "a-s2", "logistic", first), ("a-s3", "a-s3", "logistic", second)])
    table = rows.pivot_table(index="layer", columns="rank", values="value").to_numpy()
    np.testing.assert_allclose(table, [[0.85, 0.55], [0.6, 0.5]])


def test_area_is_the_chance_that_a_false_answer_has_the_higher_p():
    rng = np.random.default_rng(0)
    p, true = pd.Series(rng.integers(0, 6, 40) / 5), pd.Series(rng.random(40) < 0.5)
    pairs = [(f > t) + 0.5 * (f == t) for f in p[~true] for t in p[true]]
    states, weight = np.arange(40), np.ones((1, 40))
    assert area_of(p.to_numpy(), ~true.to_numpy())(states, weight).item() == np.mean(pairs)
    assert np.isnan(area_of(p.to_numpy(), np.zeros(40, dtype=bool))(states, weight)).all()


def tracked_rows(n_worlds, n=40):
    """Unsteered answers of worlds with two folds each, whose probes are on scales of their own."""
    rng, rows = np.random.default_rng(1), []
    for world in range(n_worlds):
        for fold in (0, 1):
            for i in range(n):
                true = bool(rng.random() < 0.5)
                at_end = 0.1 + 0.3 * fold + 0.02 * world + (0 if true else 0.2)
                p = [0.5, 0.4, at_end + 0.05 * rng.random()]
                about = {"model": f"a-s{world}", "dataset": f"a-s{world}", "seed": 0, "fold": fold}
                name = f"f{fold}q{i}"
                about |= {"question": name, "group": name, "method": "fasb-probe"}
                rows.append(about | {"p": p, "true": true})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("n_worlds", [1, 3])
def test_p_of_probes_fitted_apart_is_never_ranked_or_binned_together(n_worlds):
    frame = tracked_rows(n_worlds)
    wrong, end = ~frame["true"].to_numpy(), np.array([p[-1] for p in frame["p"]])
    assert roc_auc_score(wrong, end) < 0.95
    lines = lookahead.answer_rows(frame, 50).set_index("written")
    assert lines.loc["end", "value"] == 1.0
    table = calibration.answer_rows(frame, 50)
    found = table[table["position"] == "answer"].set_index("part")
    assert found.loc["auc", "value"] == 1.0
    errors = []
    for _, part in frame.groupby(["model", "fold"]):
        p, false = np.array([p[-1] for p in part["p"]]), ~part["true"].to_numpy()
        parts = np.array_split(np.argsort(p, kind="stable"), 4)
        errors.append(sum(len(i) * abs(p[i].mean() - false[i].mean()) for i in parts) / len(p))
    assert found.loc["ece", "value"] == pytest.approx(np.mean(errors))
    assert found.loc["ece", "over"] == ("worlds" if n_worlds == 3 else "questions")
    if n_worlds == 3:
        low, high = t_interval(np.reshape(errors, (3, 2)).mean(1)[:, None])
        assert found.loc["ece", ["low", "high"]].tolist() == pytest.approx([*low, *high])


@pytest.mark.parametrize("n_worlds", [1, 3])
def test_a_fold_of_one_verdict_is_out_of_the_mean_and_counted_in_the_caption(n_worlds):
    frame = tracked_rows(n_worlds)
    one_kind = (frame["model"] == "a-s0") & (frame["fold"] == 0)
    frame = frame.assign(true=frame["true"] | one_kind, label="FASB")
    for module in (figure_1, calibration, lookahead):
        before = module.answer_rows(tracked_rows(n_worlds), 50).assign(label="FASB")
        assert "has no AUC" not in module.caption(before)
        found = module.answer_rows(frame, 50).assign(label="FASB")
        areas = found[found["part"] == "auc"] if "part" in found else found
        assert set(areas["left_out"]) == {1}
        assert set(areas["folds"]) == {2 * n_worlds - 1}
        assert f"(at most, a: 1 of {2 * n_worlds})" in module.caption(found)


def test_sensitivity_holds_the_other_settings_at_their_tuned_value(rows):
    part = rows["sensitivity"]
    tuned = part[(part["knob"] == "beta") & (part["method"] == "fasb-probe")]
    assert set(tuned["x"]) == {0.4, 0.5, 0.6}
    assert tuned.groupby("model")["chosen"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_a_strength_that_steers_the_other_way_is_drawn_too(rows):
    part = rows["sensitivity"]
    turned = part.assign(x=part["x"].where(part["knob"] != "alpha", 6 - part["x"]))
    assert turned.loc[turned["knob"] == "alpha", "x"].min() <= 0
    drawn = draw("sensitivity", turned)
    for axis in drawn.axes:
        if axis.get_xlabel() == r"strength $\alpha$":
            assert axis.get_xscale() == "linear"
            low, high = axis.get_xlim()
            for line in axis.lines:
                assert low <= min(line.get_xdata()) <= max(line.get_xdata()) <= high
    assert "log" in [axis.get_xscale() for axis in draw("sensitivity", part).axes]


@pytest.mark.parametrize("name", FIGURES)
def test_dollars_in_a_name_are_no_formula(rows, name, tmp_path):
    named = {"label": r"5$ and \frac{ 6$", "row": r"5$ \x_{ $", "column": r"5$ \x_{ $"}
    changed = {key: text for key, text in named.items() if key in rows[name]}
    drawn = draw(name, rows[name].assign(**changed))
    save(drawn, tmp_path / name)
    texts = [text.get_text() for text in drawn.findobj(Text)]
    assert not [text for text in texts if "frac" in text and text.count("$") > text.count(r"\$")]


def test_spans_of_a_setting_are_those_of_each_comparison(rows):
    part = rows["sensitivity"]
    told = caption("sensitivity", part)
    lower = part.assign(dataset="another", value=part["value"] - 40)
    both = caption("sensitivity", pd.concat([part, lower]))
    assert both.split("Validation")[0] == told.split("Validation")[0]


def test_few_and_all_pairs_are_of_one_comparison():
    keys = {"metric": "mc1", "method": "iti", "label": "ITI", "published": np.nan, "over": ""}
    rows = pd.DataFrame({"pairs": [10.0, 50.0, 10.0, 50.0], "value": [30.0, 40.0, 70.0, 80.0]})
    rows = rows.assign(model="m", dataset=["a", "a", "b", "b"], worlds=1, seeds=1, **keys)
    told = caption("data_efficiency", rows)
    assert told.startswith("ITI on 10 training pairs: MC1 70.0, on 50: 80.0")


def test_gains_by_two_measures_are_called_by_both(rows):
    part = rows["costs"]
    other = part.assign(dataset="another", metric="mc1")
    assert "Gain in True*Info or MC1 over" in caption("costs", pd.concat([part, other]))


def test_what_has_no_info_lies_in_no_plane(made):
    cells, files = made.cells, made.files("grid.parquet", "metrics.parquet")
    grid, metrics = (
        read_cells(cells, files, f"{name}.parquet").assign(info=np.nan)
        for name in ("grid", "metrics")
    )
    found = tradeoff.plane_rows(grid, metrics, ["iti"], 10)
    assert found.empty
    assert caption("tradeoff", found) == "No generated answers in this study."
    draw("tradeoff", found)


def test_an_interval_over_worlds_needs_three():
    def found(*values):
        rows = pd.DataFrame({"model": [f"a-s{i}" for i in range(len(values))], "x": values})
        return mean_over_worlds(rows.assign(dataset="d", seed=0, fold=0), "x")

    assert found(0.4, 0.5)["value"] == pytest.approx(0.45)
    assert np.isnan(found(0.4, 0.5)["low"])
    assert found(0.4, 0.5)["over"] == ""
    three = found(0.45, 0.5, 0.7)
    half = 4.3027 * np.std([0.45, 0.5, 0.7], ddof=1) / 3**0.5
    assert three["over"] == "worlds"
    assert (three["low"], three["high"]) == pytest.approx((0.55 - half, 0.55 + half), abs=1e-4)
    assert found(0.9, 0.9, 1.0)["high"] == 1.0


def test_captions_say_what_intervals_are_over(made, tmp_path):
    cells, files = made.cells, made.files(*FILES)
    captions = {name: caption(name, rows_of(name, cells, files, STYLES)) for name in FIGURES}
    assert "No intervals: there are fewer than 3 worlds" in captions["sensitivity"]
    assert (
        "over questions (bootstrap), these worlds and what was fitted held" in captions["tradeoff"]
    )
    assert "over questions (bootstrap)" in captions["figure_1"]
    many = results(tmp_path, worlds=("a-s2", "a-s3", "a-s4"), groups=5)
    cells, files = many.cells, many.files(*FILES)
    for name in ("sensitivity", "tradeoff", "figure_1"):
        told = caption(name, rows_of(name, cells, files, STYLES))
        assert "95 % intervals over worlds (t)." in told


def test_an_unknown_figure_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'figure_4'"):
        rows_of("figure4", [], [], [])


def test_a_crossing_shows_each_place_with_its_gain_over_the_unsteered_model(rows, drawn):
    found = rows["crossing"]
    assert set(zip(found["row"], found["column"])) == {one.crossed for one in CROSSED[1:]}
    np.testing.assert_allclose(found["value"] - found["baseline_value"], found["difference"])
    for axis, (_, part) in zip(drawn["crossing"].axes, found.groupby("model", sort=False)):
        texts = [text.get_text().strip("\N{DAGGER}") for text in axis.texts]
        assert {f"{value:.0f}" for value in part["value"]} <= set(texts)
        # what was not run is left empty
        assert len([text for text in texts if " to " not in text]) == len(part)
    assert "Unsteered" not in found["label"].tolist()
    assert figure("crossing").rows([], [], CROSSED).empty


def test_a_comparison_without_judge_is_crossed_by_accuracy_beside_one_with(made, monkeypatch):
    """Each has the first measure that it has, and says which."""
    crossing = figure("crossing")
    cells, files = made.cells, made.files("metrics.parquet")
    metrics = read_cells(cells, files, "metrics.parquet")
    metrics.loc[metrics["model"].str.startswith("tradeoff"), ["true", "info"]] = np.nan
    monkeypatch.setattr("fasb.study.figures.crossing.read_cells", lambda *_: metrics)
    found = crossing.rows(cells, files, CROSSED)
    by_comparison = found.groupby("model", sort=False)["metric"].unique().map(list).tolist()
    assert by_comparison == [["mc1"], ["true_info"]]
    assert "MC1 or True*Info of every vector" in caption("crossing", found)
    labels = [axis.get_ylabel() for axis in draw("crossing", found).axes]
    assert [label.endswith(end) for label, end in zip(labels, ("(MC1)", "(True*Info)"))] == [1, 1]


def test_a_fold_that_chose_not_to_steer_counts_at_its_best_setting_that_steers():
    """Else the line would be of the folds in which steering helps."""
    cells = [{"fold": fold, "k": k, "alpha": a} for fold in (0, 1) for k in (2, 4) for a in (1, 2)]
    keys = {"model": "m", "dataset": "d", "seed": 0, "method": "fasb", "mc1": 0.0, "steered": 0.5}
    grid = pd.DataFrame([{**keys, **cell, "setting": i % 4} for i, cell in enumerate(cells)])
    never = pd.DataFrame([{**keys, "fold": fold, "setting": 4} for fold in (0, 1)])
    grid = pd.concat([grid, never], ignore_index=True).assign(chosen=False)
    grid["true_info"] = [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.6, 0.8]
    grid.loc[[0, 9], "chosen"] = True
    found = along(grid, "alpha")
    assert found["k"].tolist() == [2, 2, 4, 4]
    assert found["true_info"].tolist() == [0.9, 0.5, 0.3, 0.2]
    assert found["chosen"].tolist() == [True, False, False, False]


def test_a_setting_that_was_not_varied_has_no_panel(rows):
    part = rows["sensitivity"]
    fixed = part[(part["knob"] != "beta") | (part["x"] == 0.5)]
    assert len(draw("sensitivity", part).axes) == 2 * 4
    assert len(draw("sensitivity", fixed).axes) == 2 * 3
