"""Numbers of the settings have ranges, and a switch is no number."""

import pytest
from pydantic import Field

from fasb.data import sources
from fasb.errors import ConfigError, DataError
from fasb.extensions import validated
from fasb.settings import (
    ActivationSettings,
    DecodingSettings,
    ModelSettings,
    ProbeSettings,
    ScoringSettings,
    Section,
    SplitSettings,
)
from fasb.study.config import JobSettings, RunSettings
from fasb.user.fitsettings import FitSettings

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (DecodingSettings, "tokens", True),
        (DecodingSettings, "tokens", 10**9),
        (DecodingSettings, "batch", 10**9),
        (DecodingSettings, "seed", -1),
        (DecodingSettings, "seed", 2**40),
        (DecodingSettings, "temperature", 1e-300),
        (DecodingSettings, "temperature", INF),
        (DecodingSettings, "top_p", NAN),
        (ScoringSettings, "batch", False),
        (ActivationSettings, "seed", -1),
        (ActivationSettings, "batch", 2**70),
        (ProbeSettings, "C", 1e-300),
        (ProbeSettings, "C", NAN),
        (SplitSettings, "folds", 10**9),
        (SplitSettings, "validation", NAN),
        (JobSettings, "mem_mb", 10**30),
        (JobSettings, "gpu", True),
        (RunSettings, "seeds", [-1]),
        (RunSettings, "seeds", [0, True]),
        (FitSettings, "seed", 2**40),
    ],
)
def test_a_number_out_of_range_is_one_line_that_names_its_key(section, key, value):
    with pytest.raises(ConfigError, match=rf"where\.{key}\b.*got ") as caught:
        validated(section, {key: value}, "where")
    assert "\n" not in str(caught.value)


class Own(Section):
    """An extension's settings."""

    switch: bool = False
    either: int | bool = 0
    rate: float = 1.0
    names: tuple[str, ...] = Field(())


def test_settings_of_extensions_are_held_to_the_same():
    assert validated(Own, {"switch": True, "either": True}, "x").either is True
    for wrong in ({"rate": True}, {"rate": INF}, {"names": [True]}):
        with pytest.raises(ConfigError, match=rf"x\.{next(iter(wrong))}"):
            validated(Own, wrong, "x")


def test_temperature_may_be_zero_or_divide():
    for temperature in (0, 0.01, 0.7, 100):
        assert DecodingSettings(temperature=temperature).temperature == temperature


@pytest.mark.parametrize("value", ["", " "])
def test_a_variable_that_is_empty_is_not_the_working_directory(monkeypatch, value):
    monkeypatch.setenv("MODELS", value)
    with pytest.raises(ConfigError, match="model.path: nothing is left where its variables are"):
        validated(ModelSettings, {"path": "$MODELS"}, "model")
    with pytest.raises(DataError, match="path: '\\$MODELS' is empty once its variables are filled"):
        sources.files(sources.Source(path="$MODELS", hub="x"), {"a": ("*",)})
