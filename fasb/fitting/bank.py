"""Banks: activations at the end of question+answer texts, labelled true or false.

In: questions, a model, what to read. Out: one HDF5 file per read, and `Bank`, which reads it layer
by layer. Of each text one token is kept, the last, or a few, or the mean of the last few
(docs/method.md A2, X10, 3.7). Knows no probe and no split.

    activations [answer, layer, unit, width]   float32 or float16, in chunks of one layer, each with
                                               a checksum; a unit is a head, or a whole layer
    label       [answer]                       1 true, 0 false
    question    [answer]                       id of the question
    answer      [answer]                       text of the answer
    drawn       [answer]                       id of the question drawn behind it; its own where
                                               none was

Rows follow the questions' order, then phrasings, then true and false answers; all reads of one
dataset have the same answers. Where several tokens are kept, an answer has so many rows, in its
order. A killed run keeps its finished blocks beside the file and goes on from there.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8

from fasb.artifacts import read_tensors, write_tensors
from fasb.data.prompts import Render, choice_text, probe_text
from fasb.data.protocol import Question
from fasb.errors import ArtifactError, DataError, first_line
from fasb.fitting.reads import TAIL, Read
from fasb.hdf5files import reading_hdf5, writing_hdf5
from fasb.model.hooks import ActivationRecorder, recording
from fasb.model.load import LoadedModel
from fasb.provenance import content_hash, content_of
from fasb.settings import ActivationSettings, PromptSettings, SiteName
from fasb.sourcecode import version_of
from fasb.steering.fingerprint import Fingerprint

if TYPE_CHECKING:
    import fasb.model.batch

FORMAT = 4
"""Raised when a bank's layout changes; older files are then refused by name."""

BLOCK = 500
"""Answers kept together while a bank is made; sorted by length within."""

CHUNK = 250
"""Answers in one HDF5 chunk."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The answers of a bank before a model has read them; columns of equal length.

    start: the character at which each answer begins, where it is read at its own tokens. rendered:
    the texts are of a chat template, special tokens included.
    """

    read: Read
    text: tuple[str, ...]
    label: tuple[int, ...]
    question: tuple[str, ...]
    answer: tuple[str, ...]
    drawn: tuple[str, ...]
    start: tuple[int, ...] = ()
    rendered: bool = False

    def __len__(self) -> int:
        return len(self.text)


def texts_of(
    questions: Sequence[Question],
    read: Read,
    prompt: PromptSettings,
    seed: int = 0,
    render: Render | None = None,
) -> Texts:
    """One row per phrasing and reference answer of each question.

    For `next_question_end` each question draws one of all questions, perhaps itself, for all its
    rows; the released program draws from an unseeded generator (A4). `render` writes the
    conversations of a chat (D2).

    Raises:
        ConfigError: a template lacks a place that is filled in, or has another.
    """
    following = (
        np.random.default_rng(seed).integers(len(questions), size=len(questions))
        if questions
        else ()
    )
    rows = []
    for question, drawn in zip(questions, following):
        behind, last = None, question.id
        if read.position == "next_question_end":
            behind, last = questions[drawn].text, questions[drawn].id
        for phrasing in question.phrasings:
            for label, answers in ((1, question.true), (0, question.false)):
                for answer in answers:
                    if read.prompted:
                        choice = choice_text(prompt, phrasing, answer, render)
                        text, start = choice.text[: choice.end], choice.start
                    else:
                        text, start = probe_text(prompt, phrasing, answer, behind, render), 0
                    rows.append((text, label, question.id, answer, last, start))
    columns = zip(*rows) if rows else 6 * ((),)
    return replace(Texts(read, *columns), rendered=render is not None)


def collect(
    model: LoadedModel,
    texts: Texts,
    settings: ActivationSettings,
    out: Path,
    made_by: dict[str, Any],
) -> "Bank":
    """Read every text and write the bank, block by block.

    Blocks that an earlier run finished are taken over.

    Raises:
        DataError: there are no texts, or an activation is not finite.
    """
    if not len(texts):
        raise DataError(
            f"{out}: the questions have no reference answers; add true and false answers to them"
        )
    source = [
        asdict(model.fingerprint),
        model.settings.model_dump(),
        content_of(model.settings.path),
        settings.dtype,
        version_of(__name__),
    ]
    key = content_hash([asdict(texts), *source])
    # blocks of other texts, weights, settings or code are not taken over
    parts = _parts(out) / key
    parts.mkdir(parents=True, exist_ok=True)
    # what `_progress` tells of a run that was killed
    (parts / "n_answers").write_text(str(len(texts)))
    inputs = _inputs(model, texts)
    model.check_room(inputs.tokens, 0, settings.batch)
    with recording(model.layout, texts.read.site) as recorder:
        for first in _blocks(len(texts)):
            if not _finished(parts, first):
                block = _read_block(model, recorder, inputs, slice(first, first + BLOCK), settings)
                _check_finite(block, texts.text[first : first + BLOCK], out)
                write_tensors(_part(parts, first), {"activations": block}, {})
    _join(model, texts, settings.dtype, parts, out, made_by)
    shutil.rmtree(_parts(out))
    return Bank.open(out)


def _join(
    model: LoadedModel, texts: Texts, dtype: str, parts: Path, out: Path, made_by: dict[str, Any]
) -> None:
    """Write the bank's file from its blocks, which lie in `parts`."""
    site, n = texts.read.site, texts.read.n_states
    where = model.layout.site(site)
    with writing_hdf5(out, made_by) as file:
        file.attrs.update(format=FORMAT, site=site)
        file.attrs["fingerprint"] = json.dumps(asdict(model.fingerprint))
        shape = (n * len(texts), model.layout.n_layers, where.units, where.width)
        chunks = (min(CHUNK, n * len(texts)), 1, where.units, where.width)
        data = file.create_dataset("activations", shape, dtype, chunks=chunks, fletcher32=True)
        for first in _blocks(len(texts)):
            block = read_tensors(_part(parts, first))[0]["activations"]
            data[n * first : n * (first + BLOCK)] = block
        file["label"] = np.repeat(np.array(texts.label, dtype=np.int8), n)
        for name in ("question", "answer", "drawn"):
            column = np.repeat(np.array(getattr(texts, name), dtype=object), n)
            file.create_dataset(name, data=column.tolist(), dtype=h5py.string_dtype())


@dataclass(frozen=True, slots=True)
class Bank:
    """An open bank: labels and questions in memory, activations on disk until asked for.

    label: 1 true, 0 false, -1 where a fold must not know it.
    """

    path: Path
    label: Int8[np.ndarray, " answer"]
    question: np.ndarray
    drawn: np.ndarray
    site: SiteName
    n_layers: int
    n_units: int
    width: int
    fingerprint: Fingerprint

    @classmethod
    def open(cls, path: Path) -> "Bank":
        """Return the bank of a file that `collect` made.

        Raises:
            ArtifactError: the file is missing, unfinished, damaged, or not a bank of this format.
        """
        path = Path(path)
        if not path.is_file():
            raise ArtifactError(f"{path}: {_progress(path)}; run 'fasb run activations' to make it")
        with _opened(path) as file:
            if file.attrs.get("format") != FORMAT or "activations" not in file:
                raise ArtifactError(
                    f"{path}: not a bank of format {FORMAT}; run the study or 'fasb run "
                    "activations' again"
                )
            fingerprint = Fingerprint.read(json.loads(file.attrs["fingerprint"]), str(path))
            label, site = file["label"][:], cast(SiteName, str(file.attrs["site"]))
            texts = {name: file[name].asstr()[:] for name in ("question", "answer", "drawn")}
            n_answers, n_layers, n_units, width = _checked_shape(file, site, fingerprint)
            lengths = {len(label), *map(len, texts.values())}
            if label.dtype != np.int8 or not np.isin(label, (0, 1)).all():
                raise ValueError("labels other than 0 and 1")
            if lengths != {n_answers} or not n_answers:
                found = ", ".join(map(str, sorted({n_answers, *lengths})))
                raise ValueError(f"columns of {found} answers")
            question, drawn = (np.array(texts[name], dtype=str) for name in ("question", "drawn"))
        return cls(path, label, question, drawn, site, n_layers, n_units, width, fingerprint)

    def layer(self, layer: int) -> Float32[np.ndarray, "answer unit width"]:
        """Return one layer's activations of all answers, as float32; checksums are compared.

        Raises:
            ArtifactError: the file is damaged.
        """
        with _opened(self.path) as file:
            x: np.ndarray = file["activations"][:, layer]
            if not np.isfinite(x).all():
                raise ValueError(f"layer {layer} holds values that are not finite")
        return x.astype(np.float32, copy=False)

    def labelled(self, questions: Sequence[str]) -> "Bank":
        """Return the bank with the labels of these questions' answers only, -1 for all others."""
        known = np.isin(self.question, np.array(list(questions), dtype=str))
        return replace(self, label=np.where(known, self.label, np.int8(-1)))

    def rows(self, questions: Sequence[str]) -> Bool[np.ndarray, " answer"]:
        """Which answers belong to the given questions, with no other question's text behind (A4).

        Raises:
            DataError: a question that the bank has no answers of.
        """
        missing = sorted(set(questions) - set(self.question.tolist()))
        if missing:
            raise DataError(
                f"{self.path}: no answers of {len(missing)} questions, {missing[0]!r} among them; "
                "make the bank and the splits from the same questions"
            )
        given = np.array(list(questions), dtype=str)
        return np.isin(self.question, given) & np.isin(self.drawn, given)


def _checked_shape(file: h5py.File, site: str, model: Fingerprint) -> tuple[int, int, int, int]:
    """Return the activations' shape, if the model of the fingerprint gives such ones.

    Raises:
        ValueError: it does not.
    """
    x = file["activations"]
    if x.ndim != 4 or x.dtype not in (np.float16, np.float32) or site not in get_args(SiteName):
        raise ValueError(f"activations of site {site!r}, type {x.dtype} and {x.ndim} dimensions")
    n_answers, n_layers, n_units, width = x.shape
    own = (model.n_layers, model.n_heads, model.head_dim)
    if site != "head":
        known = 0 if site == "neuron" else model.hidden
        own = (model.n_layers, 1, known or width)  # unknown where 0
    if (n_layers, n_units, width) != own:
        raise ValueError(f"shape {x.shape[1:]}, but its model gives {own}")
    return n_answers, n_layers, n_units, width


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is read: tokens of texts, and of each the tokens that are kept, counted from its end.

    averaged: one row is their mean, else each is a row. prefix: what all texts begin with.
    """

    tokens: list[list[int]]
    from_end: list[list[int]]
    averaged: bool = False
    prefix: "fasb.model.batch.Prefix | None" = None


def _inputs(model: LoadedModel, texts: Texts) -> _Inputs:
    if texts.read.prompted:
        return _prompted_inputs(model, texts)
    tokens = model.encode(texts.text, special=not texts.rendered)
    from_end = [[0]] * len(texts)
    averaged = texts.read.position == "answer_tail"
    if averaged:
        # of a text shorter than that, all tokens but a possible start
        from_end = [list(range(min(TAIL, max(len(text) - 1, 1)))) for text in tokens]
    return _Inputs(tokens, from_end, averaged)


def _prompted_inputs(model: LoadedModel, texts: Texts) -> _Inputs:
    from fasb.model.batch import shared_prefix

    found, from_end, beginnings = [], [], []
    for text, start in zip(texts.text, texts.start, strict=True):
        tokens, offsets = model.encode_with_offsets(text, special=not texts.rendered)
        # tokens that hold a character of the answer
        n = max(1, sum(end > start for _, end in offsets))
        # equally many of every answer, so that long ones do not outweigh others
        n_states = texts.read.n_states
        ends = [math.ceil(n * part / n_states) for part in range(1, n_states + 1)]
        from_end.append([n - end for end in ends])
        found.append(tokens)
        # a prefix leaves out the last of these, so every kept token is run
        beginnings.append(tokens[: len(tokens) - max(from_end[-1])])
    return _Inputs(found, from_end, prefix=shared_prefix(model, beginnings))


def _read_block(
    model: LoadedModel,
    recorder: ActivationRecorder,
    inputs: _Inputs,
    part: slice,
    settings: ActivationSettings,
) -> Float[np.ndarray, "row layer unit width"]:
    """Return activations at the tokens of some texts that are kept, in the order of the texts."""
    # here, as it takes transformers with it, which those who only read a bank do not need
    from fasb.model.batch import batch_of, forward, in_batches

    tokens, from_end = inputs.tokens[part], inputs.from_end[part]
    found: list[np.ndarray] = [np.empty(0)] * len(tokens)

    def run(rows: list[int]) -> None:
        batch = batch_of(model, [tokens[i] for i in rows], inputs.prefix)
        n_kept = max(len(from_end[i]) for i in rows)
        back = torch.tensor([from_end[i] + [0] * (n_kept - len(from_end[i])) for i in rows])
        recorder.positions = (batch.width - 1 - back).to(model.device)
        forward(model, batch, keep=1)
        seen = recorder.pop().to("cpu", torch.float32)  # [row, token, layer, unit, width]
        for i, x in zip(rows, seen, strict=True):
            own = x[: len(from_end[i])]
            own = own.mean(0, keepdim=True) if inputs.averaged else own
            # float16 is reached from float32, so that what overflows becomes inf and is refused
            found[i] = own.to(getattr(torch, settings.dtype)).numpy()

    in_batches([len(text) for text in tokens], settings.batch, run)
    return np.concatenate(found)


def _check_finite(
    x: Float[np.ndarray, "row layer unit width"], texts: Sequence[str], out: Path
) -> None:
    wrong = np.argwhere(~np.isfinite(x).all(axis=-1))
    if len(wrong):
        row, layer, head = wrong[0].tolist()
        text = texts[row * len(texts) // len(x)]  # of each text equally many rows
        raise DataError(
            f"{out}: layer {layer}, head {head} is not finite for {text!r}; "
            "set the model's dtype to bfloat16 or float32, and activations.dtype to float32"
        )


def _blocks(n_answers: int) -> range:
    return range(0, n_answers, BLOCK)


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _part(parts: Path, first: int) -> Path:
    return parts / f"{first:07d}.safetensors"


def _finished(parts: Path, first: int) -> bool:
    """Whether a block is there and whole."""
    try:
        read_tensors(_part(parts, first))
    except ArtifactError:
        return False
    return True


def _progress(path: Path) -> str:
    """How far an unfinished bank has come."""
    for count in _parts(path).glob("*/n_answers"):
        text = count.read_text()
        if not text.isdigit():  # the run was killed while it wrote this
            continue
        n_answers = int(text)
        done = min(len(list(count.parent.glob("*.safetensors"))) * BLOCK, n_answers)
        return f"{done:,} of {n_answers:,} answers written"
    return "no such file"


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open the file for reading.

    What HDF5 raises on a damaged or foreign one becomes one line that names it.
    """
    try:
        with reading_hdf5(path) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = first_line(error).strip("'\"")
        what = "cannot be read" if isinstance(error, OSError) else "holds what no bank does"
        raise ArtifactError(
            f"{path}: {what} ({reason}); run 'fasb run activations' again"
        ) from error
