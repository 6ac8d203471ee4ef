"""Banks: the last token of every text, whatever the batch.

Resumed after a kill, refused when damaged.
"""

import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tiny import tiny_bank, tiny_model, tiny_questions

import fasb.fitting.bank
import fasb.model.batch
from fasb.artifacts import stamp_of
from fasb.errors import ArtifactError, ConfigError, DataError
from fasb.extensions import validated
from fasb.fitting.bank import Bank, Texts, collect, texts_of
from fasb.fitting.reads import HEAD_READS, Read
from fasb.hdf5files import seal
from fasb.model.batch import batch_of, forward
from fasb.model.hooks import recording
from fasb.settings import ActivationSettings, PromptSettings

PROMPT = PromptSettings()
ANSWER_END, NEXT_QUESTION_END = HEAD_READS


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def texts():
    return texts_of(tiny_questions(), ANSWER_END, PROMPT)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(fasb.fitting.bank, "BLOCK", 6)
    monkeypatch.setattr(fasb.fitting.bank, "CHUNK", 4)


def everything(bank):
    return np.stack([bank.layer(i) for i in range(bank.n_layers)], axis=1)


def test_every_phrasing_and_answer_is_a_row():
    questions = tiny_questions()
    texts = texts_of(questions, ANSWER_END, PROMPT)
    expected = [
        (f"Q: {phrasing} A: {answer}", label, question.id, answer)
        for question in questions
        for phrasing in question.phrasings
        for label, answers in ((1, question.true), (0, question.false))
        for answer in answers
    ]
    assert list(zip(texts.text, texts.label, texts.question, texts.answer)) == expected


def test_one_next_question_per_question_follows_the_same_rows():
    questions = tiny_questions(20)
    first = texts_of(questions, ANSWER_END, PROMPT)
    texts, again, other = (
        texts_of(questions, NEXT_QUESTION_END, PROMPT, seed) for seed in (1, 1, 2)
    )
    assert texts == again
    assert texts != other
    assert (texts.label, texts.question, texts.answer) == (
        first.label,
        first.question,
        first.answer,
    )
    behind = {}
    for long, short, question in zip(texts.text, first.text, texts.question):
        behind.setdefault(question, set()).add(long.removeprefix(short))
    assert all(len(drawn) == 1 for drawn in behind.values())
    assert {drawn for (drawn,) in behind.values()} <= {
        f" Q: {question.text}" for question in questions
    }
    named = {question.id: question.text for question in questions}
    assert all(text.endswith(f" Q: {named[drawn]}") for text, drawn in zip(texts.text, texts.drawn))
    assert len({drawn for (drawn,) in behind.values()}) > 5


@pytest.mark.parametrize(
    ("field", "template"), [("probe", "{question} {reply}"), ("next_question", "{question}")]
)
def test_a_template_with_another_place_is_refused(field, template):
    with pytest.raises(ConfigError, match=rf"prompt\.{field}: it has a place .*; places: "):
        validated(PromptSettings, {field: template}, "prompt")


@pytest.mark.parametrize("position", ["prompted_end", "prompted_tokens"])
def test_prompted_rows_are_the_states_of_answers_behind_the_evaluation_prompt(
    model, tmp_path, position, small_blocks
):
    read, questions = Read("head", position), tiny_questions()
    prompt = PromptSettings(prefix="Be brief. ", answer="\nA: {answer} (end)")
    texts = texts_of(questions, read, prompt)
    bank = collect(model, texts, ActivationSettings(batch=3), tmp_path / "bank.h5", {})
    found = everything(bank).reshape(len(texts), read.n_states, 3, 4, 8)
    pairs = [(p, a) for q in questions for p in q.phrasings for a in q.references]
    assert len(pairs) == len(texts)
    for row, (question, answer) in zip(found, pairs):
        before = f"Be brief. Q: {question}\nA: "
        tokens, offsets = model.encode_with_offsets(before + answer)
        inside = [i for i, (_, end) in enumerate(offsets) if end > len(before)]
        quarters = [inside[-(-len(inside) * j // 4) - 1] for j in (1, 2, 3, 4)]
        with recording(model.layout, "head") as recorder:
            forward(model, batch_of(model, [tokens]))
            expected = recorder.pop()[0, quarters[-read.n_states :]].cpu().numpy()
        np.testing.assert_allclose(row, expected, atol=2e-5)
    assert bank.label.tolist() == np.repeat(texts.label, read.n_states).tolist()
    assert bank.question.tolist() == np.repeat(texts.question, read.n_states).tolist()


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_ragged_batches_equal_single_rows(model, texts, tmp_path, batch, small_blocks):
    bank = collect(model, texts, ActivationSettings(batch=batch), tmp_path / "bank.h5", {})
    found = everything(bank)
    assert found.shape == (len(texts), 3, 4, 8)
    assert (bank.n_layers, bank.n_units, bank.width) == (3, 4, 8)
    assert bank.label.tolist() == list(texts.label)
    assert bank.question.tolist() == bank.drawn.tolist() == list(texts.question)
    for row, tokens in zip(found, model.encode(texts.text)):
        with recording(model.layout, "head") as recorder:
            model.model(torch.tensor([tokens], device=model.device))
            np.testing.assert_allclose(row, recorder.pop()[0, -1].cpu().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("site", ["attention", "mlp", "residual"])
def test_other_sites_have_one_unit_a_layer(model, texts, tmp_path, site):
    read = Read(site, "answer_end")
    bank = collect(
        model, replace(texts, read=read), ActivationSettings(batch=3), tmp_path / "bank.h5", {}
    )
    assert (bank.site, bank.n_layers, bank.n_units, bank.width) == (site, 3, 1, 24)
    found = everything(bank)
    for row, tokens in zip(found, model.encode(texts.text)):
        with recording(model.layout, site) as recorder:
            model.model(torch.tensor([tokens], device=model.device))
            np.testing.assert_allclose(row, recorder.pop()[0, -1].cpu().numpy(), rtol=0, atol=1e-5)
    assert Bank.open(bank.path).site == site


def test_a_read_is_known_by_its_banks_name():
    assert [read.name for read in HEAD_READS] == ["answer_end", "next_question_end"]
    assert Read("residual", "answer_end").name == "residual-answer_end"
    for site in ("head", "attention", "neuron", "mlp", "residual"):
        for position in ("answer_end", "next_question_end"):
            read = Read(site, position)
            assert Read.named(read.name) == read
    with pytest.raises(ConfigError, match="no 'residual-answer_ends'; did you mean 'residual-an"):
        Read.named("residual-answer_ends")


def test_the_file_is_stamped_chunked_by_layer_and_alone(model, texts, tmp_path):
    bank = collect(
        model, texts, ActivationSettings(dtype="float16"), tmp_path / "bank.h5", {"config": "abc"}
    )
    assert stamp_of(bank.path)["provenance"]["config"] == "abc"
    with h5py.File(bank.path) as file:
        assert file["activations"].dtype == np.float16
        assert file["activations"].chunks == (len(texts), 1, 4, 8)
        assert file["activations"].fletcher32
        assert file["answer"].asstr()[:].tolist() == list(texts.answer)
    assert bank.layer(0).dtype == np.float32
    assert bank.fingerprint == model.fingerprint
    assert list(tmp_path.iterdir()) == [bank.path]


def test_equal_inputs_give_the_same_digest(model, texts, tmp_path):
    banks = [
        collect(model, texts, ActivationSettings(), tmp_path / name, {"run": name})
        for name in ("a.h5", "b.h5")
    ]
    assert len({stamp_of(bank.path)["digest"] for bank in banks}) == 1


def test_a_stopped_run_goes_on_where_it_was(model, texts, tmp_path, small_blocks, monkeypatch):
    whole = everything(collect(model, texts, ActivationSettings(), tmp_path / "whole.h5", {}))
    out, passes, forward = tmp_path / "bank.h5", [], fasb.model.batch.forward

    def stopping(*arguments, **named):
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return forward(*arguments, **named)

    monkeypatch.setattr(fasb.model.batch, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        collect(model, texts, ActivationSettings(), out, {})
    with pytest.raises(
        ArtifactError, match=rf"12 of {len(texts)} answers written; run 'fasb run activations'"
    ):
        Bank.open(out)
    passes[:] = [1] * 10
    bank = collect(model, texts, ActivationSettings(), out, {})
    assert len(passes) - 10 == -(-len(texts) // 6) - 2
    assert np.array_equal(everything(bank), whole)


def test_blocks_that_other_code_has_read_are_not_taken_over(
    model, texts, tmp_path, small_blocks, monkeypatch
):
    out, passes, forward = tmp_path / "bank.h5", [], fasb.model.batch.forward

    def counting(*arguments, **named):
        passes.append(1)
        return forward(*arguments, **named)

    monkeypatch.setattr(fasb.model.batch, "forward", counting)
    for version in ("before", "after"):
        monkeypatch.setattr(fasb.fitting.bank, "version_of", lambda _, now=version: now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fasb.fitting.bank, "writing_hdf5", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                collect(model, texts, ActivationSettings(), out, {})
    assert len(passes) == 2 * -(-len(texts) // 6)


def test_blocks_of_other_texts_or_half_written_ones_are_not_taken_over(
    model, texts, tmp_path, small_blocks
):
    out = tmp_path / "bank.h5"
    stale = fasb.fitting.bank._parts(out) / "0123456789abcdef"
    stale.mkdir(parents=True)
    (stale / "0000000.safetensors").write_bytes(b"from another model")
    whole = everything(collect(model, texts, ActivationSettings(), out, {}))
    assert not stale.exists()
    for part in ("truncated", "foreign"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fasb.fitting.bank, "writing_hdf5", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                collect(model, texts, ActivationSettings(), out, {})
        first = next(fasb.fitting.bank._parts(out).rglob("0000000.safetensors"))
        first.write_bytes(first.read_bytes()[:-20] if part == "truncated" else b"foreign")
        assert np.array_equal(
            everything(collect(model, texts, ActivationSettings(), out, {})), whole
        )


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import fasb.fitting.bank as bank
import fasb.model.batch as batch
from pathlib import Path
from tiny import tiny_model, tiny_questions
bank.BLOCK = 6
model = tiny_model()
forward, passes = batch.forward, []
def killing(*arguments, **named):
    passes.append(1)
    if len(passes) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(*arguments, **named)
batch.forward = killing
texts = bank.texts_of(tiny_questions(), bank.Read(), bank.PromptSettings())
bank.collect(model, texts, bank.ActivationSettings(), Path(sys.argv[2]), {})
"""


def test_a_killed_run_loses_only_its_unfinished_block(model, texts, tmp_path, small_blocks):
    out = tmp_path / "bank.h5"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(out)], env=os.environ
    )
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    bank = collect(model, texts, ActivationSettings(), out, {})
    assert np.array_equal(
        everything(bank),
        everything(collect(model, texts, ActivationSettings(), tmp_path / "whole.h5", {})),
    )


def test_values_that_are_not_finite_are_named(texts, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.model.layers[1].self_attn.v_proj.weight[8:] = float(
            "nan"
        )  # the second key head: heads 2 and 3
    with pytest.raises(
        DataError,
        match=r"bank.h5: layer 1, head 2 is not finite for 'Q: Who.*; set the model's dtype",
    ):
        collect(model, texts, ActivationSettings(), tmp_path / "bank.h5", {})


def test_values_too_large_for_float16_are_refused(texts, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.model.layers[0].self_attn.v_proj.weight *= 1e6
    with pytest.raises(
        DataError, match=r"layer 0, head \d is not finite.*activations\.dtype to float32"
    ):
        collect(model, texts, ActivationSettings(dtype="float16"), tmp_path / "bank.h5", {})


def test_no_texts_are_refused(model, tmp_path):
    with pytest.raises(DataError, match="no reference answers; add true and false answers"):
        collect(
            model,
            Texts(ANSWER_END, (), (), (), (), ()),
            ActivationSettings(),
            tmp_path / "bank.h5",
            {},
        )


def test_rows_are_those_of_the_given_questions(tmp_path):
    bank = tiny_bank(tmp_path / "bank.h5", n_answers=12)
    assert bank.rows(["q2", "q0"]).tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert not bank.rows([]).any()
    ahead = tiny_bank(tmp_path / "next.h5", n_answers=12, ahead=1)
    assert ahead.rows(["q0", "q1"]).tolist() == [True] * 4 + [False] * 8
    with pytest.raises(
        DataError, match=r"no answers of 2 questions, 'q7' among them; make the bank and the splits"
    ):
        bank.rows(["q1", "q8", "q7"])


def test_a_missing_bank_says_how_to_make_it(tmp_path):
    with pytest.raises(ArtifactError, match="no such file; run 'fasb run activations' to make it"):
        Bank.open(tmp_path / "bank.h5")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_bank_is_refused(tmp_path, share):
    path = tiny_bank(tmp_path / "bank.h5").path
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match=r"bank.h5: .*make it again"):
        Bank.open(path)


def test_a_flipped_byte_is_an_error_and_not_a_wrong_number(tmp_path):
    bank = tiny_bank(tmp_path / "bank.h5")
    values = bank.layer(1)[:10].tobytes()
    content = bytearray(bank.path.read_bytes())
    content[content.index(values[:40]) + 7] ^= 1
    bank.path.write_bytes(content)
    with pytest.raises(ArtifactError, match="content does not match its checksum"):
        Bank.open(bank.path)


def test_foreign_unfinished_and_stale_files_are_refused(tmp_path):
    path = tmp_path / "bank.h5"
    with h5py.File(path, "w") as file:
        file["activations"] = np.zeros((2, 1, 1, 1))
    with pytest.raises(ArtifactError, match="not a finished HDF5 file"):
        Bank.open(path)
    tiny_bank(path)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = 0
    seal(path)
    with pytest.raises(ArtifactError, match="not a bank of format 4; run the study"):
        Bank.open(path)
    tiny_bank(path)
    with h5py.File(path, "a") as file:
        del file["label"]
        file["label"] = np.zeros(3, dtype=np.int8)
    seal(path)
    with pytest.raises(ArtifactError, match="columns of 3, 80 answers"):
        Bank.open(path)


def test_memory_does_not_grow_with_the_answers(model, tmp_path, monkeypatch):
    """Heads as large as those of real models.

    Only the outputs are made up, reading and writing are not.
    """
    heads = {"n_heads": 64, "head_dim": 64}
    large = replace(
        model,
        layout=replace(model.layout, **heads),
        fingerprint=replace(model.fingerprint, **heads),
    )
    shape = (model.layout.n_layers, 64, 64)
    monkeypatch.setattr(fasb.fitting.bank, "BLOCK", 50)
    monkeypatch.setattr(fasb.fitting.bank, "CHUNK", 25)
    monkeypatch.setattr(
        fasb.fitting.bank,
        "_read_block",
        lambda _, __, inputs, part, ___: np.ones(
            (len(inputs.tokens[part]), *shape), dtype=np.float32
        ),
    )

    def peak(n_answers):
        columns = [f"w{i}" for i in range(n_answers)]
        texts = Texts(ANSWER_END, tuple(columns), (1,) * n_answers, *[tuple(columns)] * 3)
        tracemalloc.start()
        collect(large, texts, ActivationSettings(), tmp_path / f"{n_answers}.h5", {})
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    one_block = 50 * np.prod(shape) * 4
    assert peak(1000) < peak(100) + one_block
