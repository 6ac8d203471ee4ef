"""Settings of every stage, with unit, default and source; read without torch.

Defaults here are the preset `default` (docs/method.md 1.8). `fasb/presets/*.yaml` hold the
differences of the presets `paper` and `reference`; a study's YAML holds only its own.
"""

import os
import re
from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fasb.errors import ConfigError

SiteName = Literal["head", "attention", "neuron", "mlp", "residual"]
"""Where activations are read and edited (`fasb/model/layout.py`)."""
Positions = Literal["from_answer", "all", "prompt_end"]
"""At which tokens an edit is active (`fasb/steering/edit.py`)."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator takes."""
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
"""Rows of a forward pass."""
OF_HEADS = "of heads"
HeadCount = Annotated[int, Field(ge=1), OF_HEADS]
"""A number of heads, which the model must have: `fasb plan --check` compares the two."""


def template_places(template: str) -> list[tuple[str, str | None]]:
    """Return a template's texts, each with the name of the place behind it, None at the end.

    Raises:
        ValueError: a brace that stands alone, or a place that is more than a name, such as
            `{question.text}`, `{question[0]}` or `{question:>9}`.
    """
    parts = []
    for text, name, width, conversion in Formatter().parse(template):
        if name is not None and (width or conversion or not name.isidentifier()):
            raise ValueError(f"{{{name}}} is not a plain place")
        parts.append((text, name))
    return parts


def checked_template(template: str, places: tuple[str, ...], needed: str) -> str:
    """Return the template, if its places are among `places`, and `needed` is one of them.

    Raises:
        PydanticCustomError: saying which are.
    """
    known = ", ".join(f"{{{place}}}" for place in places)
    told = "{problem}; places: {known}, and write other braces twice"
    try:
        names = {name for _, name in template_places(template)} - {None}
    except ValueError as error:
        raise PydanticCustomError(
            "template", told, {"problem": str(error), "known": known}
        ) from None
    if others := sorted(str(name) for name in names - set(places)):
        problem = f"it has a place {{{others[0]}}}, which nothing is known of"
        raise PydanticCustomError("template", told, {"problem": problem, "known": known})
    if needed not in names:
        problem = f"it has no place {{{needed}}}"
        raise PydanticCustomError("template", told, {"problem": problem, "known": known})
    return template


PLACES = {
    "question": ("question",),
    "answer": ("answer",),
    "probe": ("answer", "question"),
    "next_question": ("next",),
}
"""Templates of a prompt and their places; the first of them is needed."""


class Section(BaseModel):
    """A group of settings: frozen; unknown keys, NaN, infinity and switches for numbers refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: Any) -> Any:
        """Refuse true and false, which pydantic takes for 1 and 0, where no switch is asked for."""
        values = value if isinstance(value, list | tuple) else (value,)
        switches = any(isinstance(one, bool) for one in values)
        if switches and not _takes_switch(cls.model_fields[info.field_name].annotation):
            raise PydanticCustomError("switch", "a switch is no number and no text; correct it")
        return value


def _takes_switch(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_switch(part) for part in get_args(annotation))


class ModelSettings(Section):
    """Where a model comes from and how it is loaded."""

    path: str = Field(
        min_length=1, description="Hub id or local folder of a causal LM; $VARIABLES are filled in"
    )
    revision: str | None = Field(
        None, description="Commit of the hub repository; recorded in every result"
    )
    tokenizer: str | None = Field(
        None, description="Hub id or folder of the tokenizer, if not the model's"
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    device: str = Field("cpu", description="cpu, cuda, cuda:1, or auto (spread by accelerate)")

    @field_validator("path", "tokenizer")
    @classmethod
    def _filled_in(cls, path: str | None) -> str | None:
        filled = os.path.expandvars(path or "")
        if unset := re.search(r"\$\{?(\w+)", filled):
            told = "the environment variable {name} is not set; set it, or write the folder out"
            raise PydanticCustomError("unset_variable", told, {"name": unset[1]})
        if path and not filled.strip():
            told = "nothing is left where its variables are filled in; set them, or write it out"
            raise PydanticCustomError("unset_variable", told)
        # None stays None
        return path and filled


PRINTED = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Text without line ends and terminal escapes."""
PLAIN = ("prefix", "question", "open", "answer", "probe", "next_question")
"""Prompt settings that a chat does not use: the model's own template stands in their place."""
CHAT = ("system", "turns", "template", "thinks")
"""Prompt settings that only a chat uses."""
IN_A_CHAT = {"stop": (), "question_mark": "", "answer_mark": ""}
"""Defaults of a chat, where others than those of plain text: its answers end with their turn."""


class Turn(Section):
    """Something that was said before the question."""

    role: Literal["user", "assistant"]
    content: str


class PromptSettings(Section):
    """Texts around a question; `{question}`, `{answer}`, `{next}` are filled in (A3, A4, Q4)."""

    chat: Literal["auto", "on", "off"] = Field(
        "off",
        description="Whether the tokenizer's chat template puts the question, in place of the "
        "texts below, a dataset's own included; auto, the default of 'fasb fit': where it has one "
        "(D1)",
    )
    system: str = Field("", description="System message of a chat (D3)")
    turns: tuple[Turn, ...] = Field(
        (), description="What was said before every question of a chat: user, assistant, …"
    )
    template: str = Field(
        "", description="Hash of the chat template, by 'fasb fit'; another one is refused (D1)"
    )
    thinks: bool = Field(
        False,
        description="The chat template begins every answer with a thought, found by 'fasb fit'; "
        "what stands before </think> is no answer (D5)",
    )
    prefix: str = Field("", description="Instruction and few-shot primer, before every question")
    question: str = "Q: {question}"
    open: str = Field(
        "\nA:",
        description="Follows the question when the model is to answer; empty in the paper (Q4)",
    )
    answer: str = Field(
        "\nA: {answer}", description="Follows the question when an answer is given (MC scoring)"
    )
    probe: str = Field(
        "Q: {question} A: {answer}", description="Text whose last token the probes read (A3)"
    )
    next_question: str = Field(
        " Q: {next}", description="Follows `probe` in the bank that sigma is taken from (A4)"
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("\n\n", "\nQ:"), description="An answer ends where one of these appears (G11)"
    )
    abstention: str = Field(
        "I have no comment.", min_length=1, description="What a policy that abstains says (C9)"
    )
    question_mark: str = Field(
        "Q:", description="Marks a new question in a generated text; the answer ends before (Q6)"
    )
    answer_mark: str = Field("A:", description="Marks an answer in a generated text (Q6)")
    marks: Literal["line", "anywhere"] = Field(
        "line",
        description="Marks count where a line begins, or anywhere, within words too (Q6)",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_chat(cls, given: Any) -> Any:
        # YAML takes a bare `on` for a truth value
        if isinstance(given, dict) and isinstance(given.get("chat"), bool):
            given = {**given, "chat": "on" if given["chat"] else "off"}
        if isinstance(given, dict) and given.get("chat") == "on":
            return {**IN_A_CHAT, **given}
        return given

    @model_validator(mode="after")
    def _of_one_kind(self) -> "PromptSettings":
        """Refuse what would not be used: texts of plain prompts in a chat, and the reverse."""
        unused = {"on": PLAIN, "off": CHAT}.get(self.chat, ())
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].default:
                told = "{name} is not used where chat is {chat}; set it to {own}, or chat to {way}"
                way = "off" if self.chat == "on" else "on"
                own = repr(type(self).model_fields[name].default)
                context = {"name": name, "chat": self.chat, "own": own, "way": way}
                raise PydanticCustomError("chat", told, context)
        roles = [turn.role for turn in self.turns]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            told = "turns are of user and assistant in turn, and end with the assistant"
            raise PydanticCustomError("chat", told)
        return self

    @field_validator(*PLACES)
    @classmethod
    def _plain_places(cls, template: str, info: Any) -> str:
        places = PLACES[str(info.field_name)]
        return checked_template(template, places, places[0])


class SplitSettings(Section):
    """Folds and validation share (Q2, Q3)."""

    folds: int = Field(2, ge=2, le=1000)
    validation: float = Field(
        0.2, gt=0, lt=1, description="Share of a fold's development groups kept for tuning"
    )
    train_share: float = Field(
        1.0, gt=0, le=1, description="Share of the training groups that is fitted on; nested"
    )


class ActivationSettings(Section):
    """The banks of head outputs (A2)."""

    dtype: Literal["float32", "float16"] = "float32"
    batch: BatchSize = Field(64, description="Texts in one forward pass")
    seed: Seed = Field(0, description="Draws the random next question of the sigma bank (A4)")


class ProbeSettings(Section):
    """Logistic probes, one per head (P1)."""

    C: float = Field(1.0, ge=1e-8, le=1e8, description="Inverse L2 penalty, scikit-learn's meaning")
    bias: bool = True


class VectorSettings(Section):
    """Steering vectors and their scale (P5, P6, P8, T3)."""

    scale: Literal["sigma", "raw"] = Field(
        "sigma", description="Unit direction times sigma, or the raw vector"
    )
    prototype_rows: Literal["train", "train+validation"] = "train"
    sigma_rows: Literal["train", "all"] = "train"


class TrackerSettings(Section):
    """How the prototype variant tracks (P7), and which state is judged after a token (G2)."""

    prototype: Literal["cosine", "logistic"] = "cosine"
    judged: Literal["newest", "previous"] = "newest"


class DecodingSettings(Section):
    """Generation (G1-G9)."""

    tokens: int = Field(50, ge=1, le=100_000, description="N, the most tokens of an answer")
    batch: BatchSize = Field(64, description="Rows decoded together")
    edit: Literal["persistent", "transient"] = "persistent"
    temperature: float = Field(
        0.0, ge=0, le=100, description="0: the likeliest token; from 0.01 on tokens are drawn"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Drawn from the fewest tokens that hold this much probability"
    )
    seed: Seed = Field(
        0, description="Of what is drawn; a row's draws depend on it and on the prompt alone"
    )

    @field_validator("temperature")
    @classmethod
    def _divides(cls, temperature: float) -> float:
        """Refuse what logits divided by would overflow."""
        if 0 < temperature < 0.01:
            raise PydanticCustomError("temperature", "input should be 0, or at least 0.01")
        return temperature


class ScoringSettings(Section):
    """Multiple-choice scoring (M1-M9)."""

    start: Literal["answer", "first", "released"] = Field(
        "answer", description="Last token before the answer, its first token, or L + 4 (M2)"
    )
    span: Literal["offsets", "released"] = Field(
        "offsets", description="Scored tokens: by offsets, or all after 3 (M3)"
    )
    batch: BatchSize = Field(64, description="Answers in one forward pass")


class StageSettings(Section):
    """Settings of all stages; only keys that are given count where layers are merged."""

    prompt: PromptSettings = PromptSettings()
    split: SplitSettings = SplitSettings()
    activations: ActivationSettings = ActivationSettings()
    probes: ProbeSettings = ProbeSettings()
    vectors: VectorSettings = VectorSettings()
    trackers: TrackerSettings = TrackerSettings()
    decoding: DecodingSettings = DecodingSettings()
    scoring: ScoringSettings = ScoringSettings()

    def dump(self, *names: str) -> dict[str, Any]:
        """Return the named sections as plain values, all fields."""
        return self.model_dump(mode="json", include=set(names))


def check_places(prompt: PromptSettings, scoring: ScoringSettings, where: str = "") -> None:
    """Refuse a chat whose scored tokens are counted as the released program counts them (M2, M3).

    Raises:
        ConfigError: naming the key below `where`.
    """
    if prompt.chat == "on" and "released" in (scoring.start, scoring.span):
        raise ConfigError(
            f"{where}scoring: released places are counted in a plain prompt; set prompt.chat to "
            "off, or start to answer and span to offsets"
        )


class JudgeSettings(Section):
    """Who says whether an answer is true and informative."""

    use: str = Field(description="A file of fasb/judges/, or a dotted path")
    settings: dict[str, Any] = Field({}, description="The module's own settings")
