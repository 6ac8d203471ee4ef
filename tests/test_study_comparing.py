import pandas as pd
import pytest

from fasb.artifacts import write_parquet
from fasb.study.cells import Cell
from fasb.study.comparing import best_settings, grids, importance, tuned_by


def grid(**changes):
    """Two folds of k x alpha; alpha is worth 0.4, k 0.1, and not to steer 0.3."""
    rows = []
    for fold in (0, 1):
        points = [(None, None, 0.3)]
        points += [(k, a, 0.1 * (k == 4) + 0.2 * a) for k in (2, 4) for a in (1.0, 3.0)]
        for setting, (k, alpha, value) in enumerate(points):
            row = {"fold": fold, "method": "m", "setting": setting, "k": k, "alpha": alpha}
            rows.append(row | {"true_info": value, "mc1": 1 - value} | changes)
    frame = pd.DataFrame(rows).astype({"k": float, "alpha": float})
    missing = ["true", "info", "mc2", "mc3", "steered", "steered_mc", "tokens"]
    return frame.assign(**dict.fromkeys(missing, float("nan")), n=5, chosen=False, chosen_mc2=False)


@pytest.fixture
def compared(tmp_path):
    """Seeds 0 and 1 of one model."""
    cells = [Cell("a-s1", "d", seed, results=tmp_path) for seed in (0, 1)]
    files = [cell.folder / "grid.parquet" for cell in cells]
    for file in files:
        write_parquet(file, grid())
    ((group, found),) = grids(cells, files)
    assert group == ("a", "d")
    return found


def test_the_best_settings_come_first_and_say_what_they_are(compared):
    found = best_settings(compared, "m", 3)
    assert [one["setting"] for one in found] == ["k 4, alpha 3", "k 2, alpha 3", "k 4, alpha 1"]
    assert [one["value"] for one in found] == pytest.approx([0.7, 0.6, 0.3])
    assert best_settings(compared, "m", 9)[3]["setting"] == "not steered"


def test_importance_is_the_variance_between_a_keys_values(compared):
    alpha, k = importance(compared, "m")
    # without interaction, effects of 0.4 and 0.1 share the variance as their squares do
    assert (alpha["key"], alpha["best"], k["key"], k["best"]) == ("alpha", "3", "k", "4")
    assert [alpha["share"], k["share"]] == pytest.approx([0.16 / 0.17, 0.01 / 0.17])


def test_without_answers_settings_are_compared_by_mc1():
    frame = grid(true_info=float("nan"))
    columns = {"layer": float("nan"), "beta": float("nan"), "s": float("nan")}
    frame = frame.assign(cell=0, **columns, after=float("nan"), vector=None, other=None)
    assert tuned_by(frame).name == "mc1"
    assert best_settings(frame, "m", 1)[0]["setting"] == "k 2, alpha 1"
    same = importance(frame.assign(mc1=0.5), "m")
    assert [one["share"] for one in same] == [0.0, 0.0]


def test_rounding_is_no_variance(compared):
    rounded = compared.assign(true_info=compared["alpha"].eq(3).map({True: 0.1 * 3, False: 0.3}))
    assert [one["share"] for one in importance(rounded, "m")] == [0.0, 0.0]
