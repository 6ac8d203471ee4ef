"""Numbers out of their range, and what is no number."""

from registry import fault, said

from fasb.errors import ConfigError
from fasb.extensions import validated
from fasb.search import Method, grid_points
from fasb.settings import DecodingSettings, ProbeSettings, StageSettings
from fasb.study.config import RunSettings

for section, key, value in (
    (RunSettings, "seeds", [-1]),
    (DecodingSettings, "seed", 2**40),
    (DecodingSettings, "tokens", 10**9),
    (DecodingSettings, "batch", True),
    (DecodingSettings, "temperature", 1e-300),
    (DecodingSettings, "top_p", float("nan")),
    (ProbeSettings, "C", 1e-300),
):

    def call(section=section, key=key, value=value):
        given = {"cells": [{"model": "m", "dataset": "d"}], "methods": ["m"]}
        more = given if section is RunSettings else {}
        validated(section, {**more, key: value}, "settings")

    fault(f"`{key}: {str(value).lower()}`")(lambda folder, call=call: said(call))


@fault("a grid of a thousand million settings")
def grid(folder):
    values = range(1000)
    return said(lambda: grid_points({"a": values, "b": values, "c": values}))


for key, value in (("s", 2**70), ("alpha", 1e300), ("backtracks", 10**9), ("beta", 1.5)):

    def check(key=key, value=value):
        method = Method(use="head_vectors", gate="probe", settings={key: value})
        method.check(StageSettings(), "methods.m")

    fault(f"a policy with `{key}: {value}`")(lambda folder, check=check: said(check))


@fault("`tokens: lots`")
def words(folder):
    def call():
        try:
            validated(DecodingSettings, {"tokens": "lots"}, "decoding")
        except ConfigError as error:
            # the words are pydantic's
            raise ConfigError(f"decoding.tokens: …, {str(error).rpartition(', ')[2]}") from None

    return said(call)
