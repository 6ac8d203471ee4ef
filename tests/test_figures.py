import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic import METHODS, results

from fasb.errors import ConfigError
from fasb.study.captions import CAPTION
from fasb.study.figure_rows import FIGURES, area, figure_4_rows, mean_interval, rows_of
from fasb.study.figures import COLOURS, DRAW, INKS, colour, ink, save
from fasb.study.panels import Cell

FILES = ("generations.parquet", "judged.parquet", "anchors.h5", "grid.parquet", "metrics.parquet")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    made = results(tmp_path_factory.mktemp("results"), groups=5)
    cells, files = Cell.of(made.cells), made.files(*FILES)
    return {name: rows_of(name, cells, files, METHODS) for name in FIGURES}


@pytest.fixture(scope="module")
def drawn(rows):
    return {name: DRAW[name](rows[name]) for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_rows_give_the_same_bytes(rows, name, tmp_path):
    for folder in ("first", "second"):
        save(DRAW[name](rows[name]), tmp_path / folder / name)
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
    assert CAPTION[name](pd.read_csv(tmp_path / "rows.csv")) == CAPTION[name](rows[name])


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_without_such_data_gets_a_figure_that_says_so(rows, name, tmp_path):
    for empty in (rows[name].iloc[:0], pd.DataFrame()):
        assert "in this study" in CAPTION[name](empty)
        figure = DRAW[name](empty)
    save(figure, tmp_path / name)
    assert (tmp_path / f"{name}.pdf").stat().st_size


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


def test_method_names_are_readable_on_white():
    def luminance(hexa):
        channels = np.array([int(hexa[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    for method in [*COLOURS, *INKS, "any other"]:
        assert 1.05 / (luminance(ink(method)) + 0.05) >= 4.5, method


def test_every_method_beyond_the_story_is_grey():
    assert colour("my-own") == "#999999"
    assert colour("fasb-probe") == "#D55E00"


def test_heads_are_sorted_within_their_layer_before_averaging():
    first, second = np.array([[0.5, 0.9], [0.6, 0.7]]), np.array([[0.8, 0.6], [0.5, 0.4]])
    rows = figure_4_rows(
        [("a-s2", "a-s2", "logistic", first), ("a-s3", "a-s3", "logistic", second)]
    )
    table = rows.pivot_table(index="layer", columns="rank", values="value").to_numpy()
    np.testing.assert_allclose(table, [[0.85, 0.55], [0.6, 0.5]])


def test_area_is_the_chance_that_a_false_answer_has_the_higher_p():
    rng = np.random.default_rng(0)
    p, true = pd.Series(rng.integers(0, 6, 40) / 5), pd.Series(rng.random(40) < 0.5)
    pairs = [(f > t) + 0.5 * (f == t) for f in p[~true] for t in p[true]]
    assert area(p, true) == pytest.approx(np.mean(pairs))
    assert np.isnan(area(p, pd.Series([True] * 40)))


def test_sensitivity_holds_the_other_settings_at_their_tuned_value(rows):
    part = rows["sensitivity"]
    tuned = part[(part["knob"] == "beta") & (part["method"] == "fasb-probe")]
    assert set(tuned["x"]) == {0.4, 0.5, 0.6}
    assert tuned.groupby("model")["chosen"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_interval_needs_a_second_unit():
    one = pd.Series([1.0, 3.0], index=pd.MultiIndex.from_tuples([("a", 0), ("a", 1)]))
    assert mean_interval(one)["value"] == 2.0
    assert np.isnan(mean_interval(one)["low"])
    two = pd.Series([1.0, 3.0], index=pd.MultiIndex.from_tuples([("a", 0), ("b", 0)]))
    assert mean_interval(two) == {"value": 2.0, "low": 1.0, "high": 3.0}


def test_an_unknown_figure_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'figure_4'"):
        rows_of("figure4", [], [], [])


def test_a_setting_that_was_not_varied_has_no_panel(rows):
    part = rows["sensitivity"]
    fixed = part[(part["knob"] != "beta") | (part["x"] == 0.5)]
    assert len(DRAW["sensitivity"](part).axes) == 2 * 4
    assert len(DRAW["sensitivity"](fixed).axes) == 2 * 3
