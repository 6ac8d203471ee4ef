"""Grids: what is listed, and what is refused before it is."""

import pytest
from pydantic import ValidationError

from fasb.errors import ConfigError
from fasb.search import (
    MOST_POINTS,
    Method,
    at_edge,
    check_printed,
    grid_points,
    repeated,
    values_of,
)
from fasb.settings import StageSettings
from fasb.user.fitsettings import Grid


def test_a_grid_of_too_many_settings_is_refused_before_it_is_listed():
    values = tuple(range(1, 1001))
    with pytest.raises(ConfigError, match=r"grid: 1,000,000,000 settings, more than 100,000"):
        grid_points({"a": values, "b": values, "c": values})
    method = Method(use="head_vectors", grid={"k": values, "alpha": values})
    with pytest.raises(ConfigError, match=r"^methods\.m\.grid: 1,000,000 settings"):
        method.check(StageSettings(), "methods.m")
    assert len(grid_points({"a": range(MOST_POINTS)})) == MOST_POINTS


@pytest.mark.parametrize("values", [("1e1", "2e1"), (10, "10"), (0.5, "1e-3")])
def test_a_number_that_yaml_takes_for_a_text_is_refused(values):
    method = Method(use="head_vectors", grid={"alpha": values})
    with pytest.raises(ConfigError, match=r"^methods\.m\.grid\.alpha: '1\S+' is a text; write the"):
        method.check(StageSettings(), "methods.m")


@pytest.mark.parametrize("values", [(5, 5.0), (4.0, 2, 4)])
def test_a_value_that_is_there_twice_is_no_second_setting(values):
    method = Method(use="head_vectors", grid={"alpha": values})
    with pytest.raises(ConfigError, match=r"methods\.m\.grid\.alpha: .* appears twice; remove one"):
        method.check(StageSettings(), "methods.m")
    with pytest.raises(ValidationError, match="appears twice; remove one"):
        Grid(alpha=values)
    assert repeated((True, 1, 0, False, "1")) is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"label": "ITI"}, {"label": " ITI"}, r"methods\.b\.label: 'ITI' is that of a too; give "),
        ({"label": "a"}, {"label": " "}, r"methods\.b\.label: empty; give its name in print"),
        (
            {"label": "a", "crossed": ("Vector", "Gate")},
            {"label": "b", "crossed": ("Vector", "Gate")},
            r"methods\.b\.crossed: .* is that of a too; give another",
        ),
    ],
)
def test_methods_that_would_be_printed_alike_are_refused(first, second, message):
    with pytest.raises(ConfigError, match=message):
        check_printed({"a": Method(**first), "b": Method(**second)})
    check_printed({"a": Method(**first), "b": Method(label="other")})


def test_a_switch_in_a_grid_of_numbers_is_refused():
    method = Method(use="head_vectors", gate="probe", grid={"s": (True,)})
    with pytest.raises(ConfigError, match=r"methods\.m\.grid\.s: a switch is no number"):
        method.check(StageSettings(), "methods.m")


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 1e39), ("alpha", float("nan")), ("s", 2**70), ("backtracks", 10**9)],
)
def test_a_policy_has_ranges(key, value):
    method = Method(use="head_vectors", gate="probe", settings={key: value})
    with pytest.raises(ConfigError, match=rf"methods\.m\.settings\.{key}: "):
        method.check(StageSettings(), "methods.m")


def test_what_was_left_out_of_a_grid_is_no_edge_of_what_was_tried():
    points = Grid(k=(4, 12, 24), alpha=(1, 2, 5), s=(5,)).points(n_heads=16)
    values = values_of(points)
    assert set(values["k"]) == {4, 12}
    assert at_edge({"k": 4, "alpha": 2, "s": 5}, values) == []
    assert at_edge({"k": 12, "alpha": 5, "s": 5}, values) == ["alpha"]


def test_a_setting_that_its_grid_would_override_is_refused():
    method = Method(use="head_vectors", settings={"alpha": 3}, grid={"alpha": [1, 2]})
    with pytest.raises(ConfigError, match=r"methods.m.settings.alpha: 3, but its grid has alpha"):
        method.check(StageSettings(), "methods.m")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"settings": {"when": "always"}}, r"when: 'always' may steer, but there is no "),
        ({"gate": "probe", "settings": {"when": "token"}}, r"when: 'token' may steer"),
        ({"settings": {"when": "oracle"}}, r"when: 'oracle' may steer"),
        (
            {"use": "head_vectors", "gate": "probe", "settings": {"when": "always", "guide": 2.0}},
            r"use: guide and resample choose among unsteered texts",
        ),
    ],
)
def test_an_entry_that_no_bundle_could_hold_is_refused_before_anything_is_fitted(entry, message):
    with pytest.raises(ConfigError, match=rf"methods\.m\..*{message}"):
        Method(**entry).check(StageSettings(), "methods.m")


def test_a_method_whose_grid_says_when_steers():
    method = Method(gate="probe", settings={"best_of": 4}, grid={"when": ("token", "always")})
    assert method.steers
    assert method.points()[-1] == {"when": "never"}
    assert not Method(grid={"instruction": ("a", "b")}).steers
