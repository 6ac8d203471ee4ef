"""What a bundle does to a model on given questions.

Unsteered beside steered, with paired differences.

In: a model, a bundle, questions with reference answers, perhaps a judge. Out: an `Evaluation`.
Questions that the bundle was fitted or tuned on are left out unless they are asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fasb.artifacts import is_ours
from fasb.data import table
from fasb.data.protocol import Question, check_consistent, check_questions, read_questions
from fasb.data.splits import same_text_together
from fasb.decoding.score import score_sweep
from fasb.errors import DataError
from fasb.extensions import find, validated
from fasb.judges.ask import run_judge
from fasb.metrics.answers import choice_rows, degenerate, harmed, helped, verdict
from fasb.metrics.statistics import Panel, differences, estimate, resample
from fasb.model.load import LoadedModel
from fasb.settings import JudgeSettings
from fasb.steering.bundle import Bundle
from fasb.user.asking import ask, encoded_choices, mc2_as_generated, steered
from fasb.user.steering import attach, cleaned_texts, load

LABELS = {
    "true": "True",
    "info": "Info",
    "true_info": "True*Info",
    "mc1": "MC1",
    "mc2": "MC2",
    "mc3": "MC3",
    "mc2_as_generated": "MC2 as generated",
    "steered": "steered",
    "changed": "changed",
    "degenerate": "degenerate",
    "harmed": "harmed",
    "helped": "helped",
}
"""Metrics an evaluation may hold, all shares from 0 to 1, and what they are called."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric: its mean without and with the bundle, their difference, its 95 % interval.

    low, high: None where nothing varied, which an interval cannot be made of.
    """

    name: str
    unsteered: float
    steered: float
    difference: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """The interval in print, in percentage points."""
        if self.low is None or self.high is None:
            return "nothing varied"
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics over `n` questions; `left_out` more were fitted or tuned on.

    `answers`: one row per question asked. `choices`: how many of the questions have false answers;
    multiple choice is over these alone.
    """

    n: int
    left_out: int
    measures: tuple[Measure, ...]
    answers: tuple[dict[str, Any], ...]
    choices: int

    def of(self, name: str) -> Measure:
        """Return the measure called `name`."""
        return next(measure for measure in self.measures if measure.name == name)


def questions_of(
    data: str | Path | Sequence[Question], separator: str | None = ""
) -> list[Question]:
    """Questions as given, of a table (`fasb/data/table.py`), or of a study's `questions/*.parquet`.

    `separator`: what stands between the answers of a table's field (`table.Settings`).

    Raises:
        DataError: naming the file and what is missing in it.
        ConfigError: the separator is no text.
    """
    if not isinstance(data, str | Path):
        if not isinstance(data, Iterable):
            raise DataError(f"questions: {data!r} are none; give a table's path, or fasb.Question")
        questions = list(data)
        check_questions(questions, "questions")
        check_consistent(questions, "questions")
        return questions
    path = Path(data)
    if path.suffix == ".parquet" and is_ours(path):
        return read_questions(path)
    given = {"path": str(path), "separator": separator}
    return table.load(validated(table.Settings, given, ""))


def judge_of(judge: str | dict[str, Any] | JudgeSettings | None) -> JudgeSettings | None:
    """Check a judge's name, or `{"use": name, "settings": {…}}`.

    Raises:
        ConfigError: there is no such judge, or its settings are wrong.
    """
    if judge is None:
        return None
    entry = {"use": judge} if isinstance(judge, str) else judge
    entry = entry if isinstance(entry, JudgeSettings) else validated(JudgeSettings, entry, "judge")
    validated(find("judges", entry.use).Settings, entry.settings, "judge.settings")
    return entry


def evaluate(  # noqa: PLR0913 - what the command line has options for
    model: Any,
    bundle: Bundle | str | Path,
    data: str | Path | Sequence[Question],
    judge: str | dict[str, Any] | JudgeSettings | None = None,
    seen: bool = False,
    separator: str | None = "",
    siblings: bool = False,
) -> Evaluation:
    """Multiple-choice metrics, share steered and answers changed.

    With a judge also True, Info and True*Info.

    `seen` keeps questions that the bundle was fitted or tuned on. `siblings` allows other
    weights and config of the same build.

    Raises:
        DataError: a file is wrong, or no unseen question is left.
        BundleError: the bundle was made for another model, or does nothing to this one.
    """
    given, judge = questions_of(data, separator), judge_of(judge)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    questions = given if seen else unseen(given, bundle)  # before a model is loaded
    model = load(model)
    attach(model, bundle, siblings)
    columns, answers, strength = _generated(model, bundle, questions, judge)
    columns |= _chosen(model, bundle, questions, strength)
    # questions of one text are no two draws
    groups = [question.group for question in same_text_together(questions)]
    measures = _measures(columns, groups)
    left_out = len(given) - len(questions)
    return Evaluation(len(questions), left_out, measures, answers, n_choices(questions))


def n_choices(questions: Sequence[Question]) -> int:
    """Return how many questions have false answers, without which there is nothing to choose."""
    return sum(bool(question.false) for question in questions)


def unseen(questions: Sequence[Question], bundle: Bundle) -> list[Question]:
    """Return the questions that the bundle was neither fitted nor tuned on.

    Raises:
        DataError: there is none.
    """
    seen = bundle.seen
    left = [question for question in questions if not question.keys & seen]
    if not left:
        raise DataError(
            "all questions were fitted or tuned on; give others, or keep them with --seen "
            "(seen=True)"
        )
    return left


def _chosen(
    model: LoadedModel,
    bundle: Bundle,
    questions: Sequence[Question],
    strength: Float[np.ndarray, " question"],
) -> dict[str, np.ndarray]:
    """Return each multiple-choice metric [side, question]; side 0 is unsteered, 1 steered.

    strength: of each question's free answer.
    """
    plain = bundle.with_policy(when="never")
    scores = score_sweep(model, encoded_choices(model, bundle, questions), [plain, bundle])
    logprob = np.stack([found.logprob for found in scores])
    fired = np.stack([found.fired for found in scores])
    both = choice_rows(questions, logprob, fired)
    columns = {name: both[:, :, i] for i, name in enumerate(("mc1", "mc2", "mc3"))}
    # both in one call, where what is not steered is scored once: rounding of another batch would
    # be a difference
    as_generated = mc2_as_generated(model, questions, [plain, bundle], [0 * strength, strength])
    return columns | {"mc2_as_generated": as_generated}


def _generated(
    model: LoadedModel, bundle: Bundle, questions: Sequence[Question], judge: JudgeSettings | None
) -> tuple[dict[str, np.ndarray], tuple[dict[str, Any], ...], Float[np.ndarray, " question"]]:
    """Return each metric of free answers [side, question], the answers, and their strengths."""
    asked = ask(model, bundle, [question.text for question in questions])
    after = steered(model, asked, [bundle])[0]
    texts = [asked.texts, cleaned_texts(model, bundle, after.after.rows())]
    fired = after.decision.fired.astype(np.float64)
    changed = np.array([float(a != b) for a, b in zip(*texts, strict=True)])
    broken = np.array([list(map(degenerate, side)) for side in texts])
    columns = {
        "steered": np.stack([0 * fired, fired]),
        "changed": np.stack([0 * changed, changed]),
        "degenerate": broken.astype(np.float64),
    }
    if judge is not None:
        columns |= _judged(judge, questions, texts)
    answers = []
    for question, plain, text, hit in zip(questions, *texts, after.decision.fired, strict=True):
        answers.append(
            {"question": question.text, "unsteered": plain, "steered": text, "fired": bool(hit)}
        )
    return columns, tuple(answers), after.decision.strength


def _judged(
    judge: JudgeSettings, questions: Sequence[Question], texts: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return what a judge says of both sides' answers [side, question], by kind."""
    scores = [run_judge(judge, questions, side) for side in texts]
    said: dict[str, np.ndarray] = {}  # [side, question]
    for kind in ("true", "info"):
        if kind in scores[0]:
            said[kind] = np.stack([verdict(side[kind]) for side in scores])
    # of a judge that gives one score, that score alone
    good = np.all(list(said.values()), axis=0)
    columns: dict[str, np.ndarray] = {}
    columns |= {kind: values.astype(np.float64) for kind, values in said.items()}
    for name, share in (("harmed", harmed), ("helped", helped)):
        spoilt = share(good[0], good[1]).astype(np.float64)
        columns[name] = np.stack([0 * spoilt, spoilt])
    return columns


def _measures(columns: dict[str, np.ndarray], groups: Sequence[str]) -> tuple[Measure, ...]:
    """Means, and paired differences with intervals from bootstrap draws of groups."""
    # [method, metric, question, part] with one part: nothing is fitted by folds here
    values = np.stack(list(columns.values()), axis=1)[..., None]
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    group = np.array([number[name] for name in groups], dtype=np.int64)
    panel = Panel(
        ("unsteered", "steered"),
        tuple(columns),
        values,
        np.zeros(len(group), dtype=np.int64),  # one world: intervals are over questions
        group,
    )
    draws = resample(panel)
    mean, change = estimate(panel), differences(panel, draws, "unsteered")
    place = {name: i for i, name in enumerate(panel.columns)}
    found = []
    for name in LABELS:
        i = place.get(name)
        # without a value where no question has false answers, say
        if i is not None and np.isfinite(mean[:, i]).all():
            low, high = float(change.low[1, i]), float(change.high[1, i])
            ends = (None, None) if np.isnan(low) else (low, high)
            means = float(mean[0, i]), float(mean[1, i])
            found.append(Measure(name, *means, float(change.value[1, i]), *ends))
    return tuple(found)


def as_table(found: Evaluation) -> str:
    """Return the evaluation as aligned text, in percent."""
    rows: list[tuple[str, ...]] = [("", "unsteered", "steered", "difference", "95 % interval")]
    for one in found.measures:
        shares = [f"{100 * share:.1f}" for share in (one.unsteered, one.steered)]
        change = f"{100 * one.difference:+.1f}"
        rows.append((LABELS[one.name], *shares, change, one.interval))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    left = f"; {found.left_out} that were fitted or tuned on left out" if found.left_out else ""
    few = f" ({found.choices} of them with false answers, for MC)"
    n = f"{found.n} questions{few if 0 < found.choices < found.n else ''}"
    return "\n".join([*lines, f"n = {n}{left}; %"])
