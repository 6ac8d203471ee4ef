"""Settings of `fasb fit`, and what is wrong with them before a model is loaded.

In: what a person asks for. Out: checked settings, the method that they name, and the points that
are tried. Knows no model.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveInt, field_validator

from fasb.errors import ConfigError, did_you_mean
from fasb.extensions import validated
from fasb.fitting.reads import AnswerRead, Read
from fasb.fitting.recipe import known_keys
from fasb.metrics.calibration import fewest_for
from fasb.search import Method, grid_points, repeated
from fasb.settings import (
    JudgeSettings,
    PromptSettings,
    Section,
    Seed,
    SplitSettings,
    StageSettings,
)
from fasb.user.controls import controls_of
from fasb.user.evaluation import judge_of


class Grid(Section):
    """Settings that are tried, all with all."""

    k: tuple[PositiveInt, ...] = Field(
        (4, 12, 24), min_length=1, description="Anchors; more than the model has heads: left out"
    )
    alpha: tuple[FiniteFloat, ...] = Field((1, 2, 5, 10, 20), min_length=1)
    beta: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (), description="Empty: the lowest that `touch` allows; else lower ones are left out"
    )
    s: tuple[PositiveInt, ...] = Field((5, 10), min_length=1)

    @field_validator("k", "alpha", "beta", "s")
    @classmethod
    def _each_once(cls, given: tuple[int | float, ...]) -> tuple[int | float, ...]:
        if (twice := repeated(given)) is not None:
            raise ValueError(f"{twice!r} appears twice; remove one")
        return given

    def points(self, n_heads: int) -> list[dict[str, Any]]:
        """Every setting that a model with so many heads allows.

        Raises:
            ConfigError: no k is small enough.
        """
        # the default grid is for any model, small ones too: what is too large is no error
        fitting = [k for k in self.k if k <= n_heads]
        if not fitting:
            raise ConfigError(
                f"grid.k: {min(self.k)}, but this model has {n_heads} heads; add {n_heads} or less"
            )
        given = {**self.model_dump(), "k": fitting}
        return grid_points({key: values for key, values in given.items() if values})


FASB = "head_vectors"
"""The method whose vectors are FASB's own."""


class FitSettings(StageSettings):
    """How a bundle is fitted; sections as in a study, each with its own default."""

    model: dict[str, Any] = Field(
        {}, description="ModelSettings other than the path, of a model that is given by name"
    )
    prompt: PromptSettings = PromptSettings(chat="auto")
    use: str = Field(
        FASB,
        description="Whose edit is fitted: a file of fasb/methods/, or your own by its dotted "
        "name; FASB's probes say when and how strongly",
    )
    method: dict[str, tuple[int | float | str | bool, ...]] = Field(
        {}, description="The method's own settings: of each the values to try, crossed with `grid`"
    )
    vector: Literal["probe", "prototype"] = Field("probe", description="Of head_vectors alone")
    read: AnswerRead = Field(
        "prompted_tokens",
        description="Where probes and vectors are fitted: four tokens of each answer behind the "
        "evaluation prompt, its last one there (prompted_end), or bare pairs' ends (answer_end)",
    )
    grid: Grid = Grid()
    touch: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of answers that should stay as they are and may be steered",
    )
    perplexity: float = Field(
        1.25,
        ge=1,
        description="Most that the perplexity of steered answers may grow by, as a factor",
    )
    controls: Path | None = Field(
        None, description="Text file of control questions, one a line; null: the library's own"
    )
    judge: JudgeSettings | None = Field(
        None, description="Judge of free answers; without one MC2 as generated is tuned on"
    )
    split: SplitSettings = Field(
        SplitSettings(folds=5, validation=0.25),
        description="One of `folds` parts is held out; `validation` is the share of the rest that "
        "tunes",
    )
    seed: Seed = Field(0, description="Of the split")
    separator: str | None = Field(
        "", description="Between the answers of a table's field; null: a field is one answer"
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _chat_by_default(cls, given: Any) -> Any:
        # a section that is given replaces the field's default as a whole, its `auto` too
        return {"chat": "auto", **given} if isinstance(given, dict) else given


def points_of(settings: FitSettings, n_heads: int) -> list[dict[str, Any]]:
    """Return every setting that is tried: those of the grid, each with all of the method's own.

    Raises:
        ConfigError: no k is small enough, or they are too many.
    """
    both = {"own": grid_points(settings.method), "grid": settings.grid.points(n_heads)}
    return [{**one["grid"], **one["own"]} for one in grid_points(both)]


def method_of(settings: FitSettings) -> Method:
    """Return the method's edit under FASB's gate.

    FASB's own vectors are tracked as the paper's variant of them is (P7).
    """
    classifier = "logistic" if settings.vector == "probe" else "prototype"
    own = {"classifier": classifier, "read": settings.read}
    if settings.use == FASB:
        own["vector"] = settings.vector
    return Method(use=settings.use, gate="probe", settings=own, grid=settings.method)


def check_method(settings: FitSettings) -> None:
    """Refuse a method that is not there, or settings that it does not take.

    Raises:
        ConfigError: naming the key.
    """
    if settings.use != FASB and "vector" in settings.model_fields_set:
        raise ConfigError(
            f"settings.vector: is of {FASB}, which is not used here; leave it out, or set "
            f"settings.use to {FASB}"
        )
    known = known_keys(settings.use, None)["methods"] - {*Grid.model_fields, *ITS_OWN}
    for key in settings.method:
        if key not in known:
            remedy = did_you_mean(key, known) if known else f"{settings.use} has none"
            raise ConfigError(f"settings.method.{key}: unknown key; {remedy}")
    try:
        method_of(settings).check(settings, "settings")
    except ConfigError as error:
        raise ConfigError(str(error).replace("settings.grid", "settings.method")) from None


ITS_OWN = ("read", "vector", "classifier")
"""Settings of methods that `FitSettings` gives in another place."""


def checked_settings(settings: FitSettings | dict[str, Any] | None) -> FitSettings:
    """Return the settings, their judge and control questions found and checked.

    Raises:
        ConfigError: a key is unknown, a value is wrong, there is no such judge, or there are too
            few control questions for `touch`.
        DataError: there is no such file of control questions.
    """
    settings = (
        settings
        if isinstance(settings, FitSettings)
        else validated(FitSettings, settings or {}, "settings")
    )
    check_method(settings)
    if all(read.prompted for read in _reads(settings)):
        for key in ("probe", "next_question"):
            if key in settings.prompt.model_fields_set:
                raise ConfigError(
                    f"settings.prompt.{key}: not looked at by read {settings.read}; leave it out, "
                    "or set read to answer_end"
                )
    judge_of(settings.judge)
    n, need = len(controls_of(settings.controls).calibration), fewest_for(settings.touch)
    if n < need:
        # of the file's prompts half are held out
        raise ConfigError(
            f"settings.controls: {n} prompts to tune on cannot bound a share of "
            f"{settings.touch:.3g}; give {2 * need} or more in all, or raise settings.touch"
        )
    return settings


def _reads(settings: FitSettings) -> tuple[Read, ...]:
    """Return what the method and its gate read, whatever the grid's values are."""
    method = method_of(settings)
    return method.recipe(grid_points(method.grid)[0], settings, settings.use).reads()
