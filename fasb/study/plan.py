"""What a study costs before it is run: the work of each rule, its disk, and the memory of its jobs.

In: a `Study`. Out: tokens, answers and bytes per rule, model and dataset. Tokens of texts are
reckoned as characters over four, of answers as the most that may be written; chat templates are
rendered (`templates.py`). Knows no rate; `rates.py` makes hours of work. Imports torch only to size
a model in a local folder.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from fasb.data.protocol import Size
from fasb.errors import DataError, ModelError
from fasb.extensions import find, settings_of
from fasb.fitting.reads import Read
from fasb.search import Method
from fasb.settings import StageSettings
from fasb.steering.policy import Policy
from fasb.study import cells
from fasb.study.config import Study
from fasb.study.entries import ModelEntry, ModelSize
from fasb.study.jobs import STAGES, count_jobs
from fasb.study.templates import CHARACTERS, Around, around
from fasb.study.templates import tokens_of as _tokens

WHERE = {"path", "hub", "revision", "presets", "wording"}
"""Settings of a dataset that say where its rows are, not which."""

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
ROW = 100
"""Bytes of an answer's row beside its text."""
TESTING = ("generate", "judge", "score")
"""Stages that are run for transferred cells as well."""


@dataclass(frozen=True, slots=True)
class Work:
    """read: tokens that the model is given. written: those it makes, at most. judged: answers.

    `disk`: bytes, exact for banks.
    """

    jobs: int = 0
    read: int = 0
    written: int = 0
    judged: int = 0
    disk: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, n: int) -> "Work":
        """Return the work of n such jobs."""
        return Work(*(n * part for part in astuple(self)))


@dataclass(frozen=True, slots=True)
class Pair:
    """A model and a dataset, and what their work is reckoned from.

    judged: whether its answers are. answered: whether there are any on test questions. around: what
    a chat template writes around a question; None where the prompt is plain text.
    """

    size: Size
    sections: StageSettings
    shape: ModelSize | None
    dtype: str
    judged: bool
    answered: bool
    methods: tuple[Method, ...]
    reads: tuple[str, ...]
    around: Around | None = None

    @property
    def before(self) -> int:
        """Tokens of instruction and primer; computed once for a batch, but held by every row."""
        if self.around is not None:
            return self.around.before
        return _tokens(len(self.sections.prompt.prefix))

    @property
    def probed(self) -> int:
        """Tokens that a bank's texts begin with: of a chat's template, else none (A3, D2)."""
        return 0 if self.around is None else self.around.before

    @property
    def question(self) -> int:
        """Tokens of a question with what stands around it."""
        if self.around is not None:
            return _tokens(self.size.question) + self.around.behind
        prompt = self.sections.prompt
        return _tokens(self.size.question + len(prompt.question + prompt.open) - len("{question}"))

    @property
    def answer(self) -> int:
        """Tokens of a reference answer with what introduces it."""
        if self.around is not None:
            return _tokens(self.size.answer)
        return _tokens(self.size.answer + len(self.sections.prompt.answer) - len("{answer}"))

    @property
    def written(self) -> int:
        """Tokens of an answer, at most."""
        return self.sections.decoding.tokens

    @property
    def tuned_on(self) -> int:
        """Validation questions, over all folds."""
        size, split = self.size, self.sections.split
        in_folds = size.questions - size.questions // split.folds
        per_fold = [in_folds] * split.folds if size.questions else [size.fit]
        # the training share is rounded down, as `split` does (Q3)
        return sum(n - int(n * (1 - split.validation)) for n in per_fold)

    @property
    def tested_on(self) -> int:
        """Test questions, over all folds."""
        return self.size.questions + self.size.test

    @property
    def answers_each(self) -> float:
        """Reference answers of a question, over its phrasings."""
        return self.size.answers / (self.size.questions + self.size.fit + self.size.test)


def size_of(study: Study, dataset: str) -> Size:
    """Return the size that a dataset's module states, else that of its questions, which it loads.

    Where settings change which rows there are, the stated size is used only if the set is not at
    hand.

    Raises:
        DataError: it has to be loaded and cannot be.
    """
    entry = study.datasets[dataset]
    module = find("data", entry.load)
    size: Size | None = getattr(module, "SIZE", None)
    if size is None or set(entry.settings) - WHERE:
        where = f"datasets.{dataset}.settings"
        try:
            size = Size.of(module.load(settings_of("data", entry.load, entry.settings, where)))
        except DataError:
            if size is None:
                raise
    return size if entry.limit is None else size.first(entry.limit)


def shape_of(entry: ModelEntry) -> ModelSize | None:
    """Return the model's size: as stated, of the study's own training, or of a local folder.

    None where nothing says it.
    """
    if entry.world is not None:
        return _trained_shape(entry)
    if entry.size is None and Path(entry.path).is_dir():
        # a plan goes without what is damaged, which `--check` and the jobs name
        with contextlib.suppress(ModelError):
            return _local_shape(entry)
    return entry.size


def _trained_shape(entry: ModelEntry) -> ModelSize:
    from fasb.world.pretrain import PretrainSettings

    made = PretrainSettings(**entry.pretrain)
    # four matrices of attention, three of a gated MLP; embeddings are left out
    layer = 4 * made.hidden**2 + 3 * made.hidden * made.feed_forward
    return ModelSize(
        parameters=made.layers * layer / 1e9,
        layers=made.layers,
        heads=made.heads,
        kv_heads=made.heads,
        head_dim=made.hidden // made.heads,
    )


def _local_shape(entry: ModelEntry) -> ModelSize | None:
    """Return the size that a folder's config gives; None where layers differ in their heads.

    Raises:
        ModelError: the config is missing, damaged, or of no causal LM.
    """
    # here, as they take torch with them
    from fasb.model.access import config_of, count_parameters, explained

    config = config_of(entry.loading)
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        return None
    with explained(entry.loading):
        return ModelSize(
            parameters=count_parameters(config) / 1e9,
            layers=text.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        )


def pairs(study: Study) -> dict[tuple[str, str], Pair]:
    """Return what each model is asked, by names of model and dataset; files are read once."""
    found: dict[tuple[str, str], Pair] = study.once("pairs", lambda: _pairs(study))
    return found


def _pairs(study: Study) -> dict[tuple[str, str], Pair]:
    sizes: dict[str, Size] = {}
    shapes: dict[str, ModelSize | None] = {}
    for cell in study.run.cells:
        if cell.dataset not in sizes:
            sizes[cell.dataset] = size_of(study, cell.dataset)
        if cell.model not in shapes:
            shapes[cell.model] = shape_of(study.models[cell.model])
    methods = tuple(study.methods[name] for name in study.run.methods)
    found = {}
    for cell in study.run.cells:
        entry, sections = study.models[cell.model], study.sections(cell.dataset)
        found[cell.model, cell.dataset] = Pair(
            size=sizes[cell.dataset],
            sections=sections,
            shape=shapes[cell.model],
            dtype=entry.dtype,
            judged=study.datasets[cell.dataset].judge is not None,
            answered=cells.answered(study, cell.dataset),
            methods=methods,
            reads=tuple(cells.reads(study, cell.dataset)),
            around=around(entry, sections.prompt) if sections.prompt.chat == "on" else None,
        )
    return found


def works(study: Study) -> dict[tuple[str, str, str], Work]:
    """Return the work of each rule by model and dataset; of rules without, names are empty."""
    found: dict[tuple[str, str, str], Work] = {}
    asked = pairs(study)
    for names in asked:
        of_pair = _works_of(study, names, asked)
        shards = study.models[names[0]].job.shards
        if shards > 1:
            of_pair = _shared(of_pair, shards)
        found |= {(rule, *names): work for rule, work in of_pair.items()}
    for model in cells.worlds(study):
        found["pretrain", model, ""] = Work(1, read=_training(study.models[model]))
    # what does none of this work is still a job: all that the study has, less those above
    counted = Counter[str]()
    for (rule, *_), work in found.items():
        counted[rule] += work.jobs
    for rule, n in (count_jobs(study) - counted).items():
        found[rule, "", ""] = Work(n)
    return found


def _works_of(
    study: Study, names: tuple[str, str], asked: dict[tuple[str, str], Pair]
) -> dict[str, Work]:
    """Return the work of each rule for one model and dataset, as if nothing were shared out."""
    pair = asked[names]
    fitted = sum((cell.model, cell.dataset) == names for cell in cells.fitting(study))
    tested = _passes_of(cells.cells(study), names, asked)
    twice = _passes_of(cells.twice_judged(study), names, asked)
    needed = {"activations": fitted, "trace": pair.answered}
    found = {rule: work for rule, work in _once(pair).items() if needed[rule]}
    for rule, work in _each_seed(pair).items():
        if rule in TESTING:
            # a transferred cell asks once by each fold, but in one job
            passes = [*tested, *(twice if rule == "judge" else [])]
            found[rule] = replace(work.times(sum(passes)), jobs=len(passes))
        elif fitted:
            found[rule] = work.times(fitted)
    return found


def _shared(of_pair: dict[str, Work], shards: int) -> dict[str, Work]:
    """Return the work where so many jobs share it: parts do it, the rule's own joins them."""
    found = {}
    for rule, work in of_pair.items():
        found[rule] = work
        if STAGES[rule].sharded:
            found[rule] = Work(work.jobs)
            found[f"{rule}_part"] = replace(work, jobs=shards * work.jobs)
    return found


def memory(pair: Pair) -> tuple[float, int | float]:
    """Return bytes of weights, and of the largest batch's keys and values, texts of mean length."""
    shape, sections = pair.shape, pair.sections
    if shape is None:
        return math.nan, math.nan
    rows = [
        (sections.decoding.batch, pair.before + pair.question + pair.written),
        (sections.scoring.batch, pair.before + pair.question + pair.answer),
        (sections.activations.batch, pair.probed + 2 * pair.question + pair.answer),
    ]
    each = 2 * shape.layers * shape.kv_heads * shape.head_dim * BYTES[pair.dtype]
    return shape.parameters * 1e9 * BYTES[pair.dtype], max(n * tokens for n, tokens in rows) * each


def _once(pair: Pair) -> dict[str, Work]:
    """All banks, and the unsteered answers; a site is as wide as its heads, neurons four times."""
    size, shape = pair.size, pair.shape
    prompts = round((pair.tested_on + size.fit) * size.phrasings)
    row = 0 if shape is None else shape.layers * shape.heads * shape.head_dim
    width = BYTES[pair.sections.activations.dtype]
    reads = [Read.named(name) for name in pair.reads]
    n_banks = len(reads)
    n_states = sum(read.n_states * (4 if read.site == "neuron" else 1) for read in reads)
    n_following = sum(read.position == "next_question_end" for read in reads)
    each = n_banks * (pair.probed + pair.question + pair.answer) + n_following * pair.question
    banks = Work(n_banks, read=size.answers * each, disk=n_states * size.answers * row * width)
    trace = Work(
        1,
        read=pair.before + prompts * pair.question,
        written=prompts * pair.written,
        disk=prompts * (_text(pair) + 8 * (pair.question + pair.before)),
    )
    return {"activations": banks, "trace": trace}


def _passes_of(
    chosen: Iterable[cells.Cell], names: tuple[str, str], asked: dict[tuple[str, str], Pair]
) -> list[int]:
    """Return `_passes` of those of the cells that are of this model and dataset."""
    return [_passes(cell, asked) for cell in chosen if (cell.model, cell.dataset) == names]


def _passes(cell: cells.Cell, asked: dict[tuple[str, str], Pair]) -> int:
    """How often each test question is asked: once by each fold of another dataset."""
    if cell.source is None or cell.source[1] == cell.dataset:
        return 1
    source = asked[cell.source]
    return source.sections.split.folds if source.size.questions else 1


def _each_seed(pair: Pair) -> dict[str, Work]:
    """Tuning on validation questions, and the test."""
    asked = round(pair.tuned_on * pair.size.phrasings)
    tested = round(pair.tested_on * pair.size.phrasings)
    to_score = round(pair.tuned_on * pair.answers_each)
    to_score_tested = round(pair.tested_on * pair.answers_each)
    n_settings = list(_settings(pair))
    steered = sum(n_settings)
    reads = sum(n > 0 for n in n_settings)
    n_methods = len(pair.methods)
    passage, choice = pair.question + pair.written, pair.question + pair.answer
    generates = int(pair.judged)
    answers = asked * (steered + 1) * generates
    tests = tested * n_methods * pair.answered
    judge = Work(1, judged=tested * (n_methods + 1), disk=tested * n_methods * _text(pair))
    return {
        # each method once unsteered, then under every setting of its grid
        "sweep": Work(
            1,
            read=generates * asked * reads * passage + to_score * choice * (steered + n_methods),
            written=generates * asked * steered * pair.written,
            disk=answers * _text(pair),
        ),
        "judge_sweep": Work(1, judged=answers, disk=answers * _text(pair)),
        "generate": Work(
            1, read=tests * passage, written=tests * pair.written, disk=3 * tests * _text(pair)
        ),
        # once unsteered and under each of the two tuned settings, at most
        "score": Work(1, read=to_score_tested * choice * 3 * n_methods),
        "judge": judge if generates else Work(1),
    }


def _settings(pair: Pair) -> Iterator[int]:
    """Return how many settings of each grid can differ in answers; none where nothing is swept."""
    for method in pair.methods:
        if not (method.steers or method.asks_anew) or method.like is not None:
            yield 0
            continue
        # whoever is steered from the question on is steered alike at every threshold
        unused = {"beta"} if method.settings.get("when") == "prompt" else set()
        points = math.prod(len(values) for key, values in method.grid.items() if key not in unused)
        guided = "guide" in {*method.settings, *method.grid}
        among = method.settings.get("among", Policy().among) if guided else 1
        yield points * int(method.settings.get("best_of", 1)) * int(among)


def _training(entry: ModelEntry) -> int:
    from fasb.world.pretrain import PretrainSettings

    return PretrainSettings(**entry.pretrain).tokens


def _text(pair: Pair) -> int:
    """Bytes of a written answer's row."""
    return ROW + CHARACTERS * pair.written
