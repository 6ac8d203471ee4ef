"""Files are whole or absent, name their maker, and damage is an error, never a wrong number."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from fasb.artifacts import (
    Store,
    content_hash,
    read_json,
    read_parquet,
    read_tensors,
    stamp_of,
    weights_of,
    write_json,
    write_parquet,
    write_tensors,
    writing,
    writing_folder,
    writing_hdf5,
)
from fasb.errors import ArtifactError

FRAME = pd.DataFrame({"question": ["a", "b"], "tokens": [[1, 2], []], "p": [0.5, float("nan")]})


def write_one(path: Path, **made_by: object) -> None:
    if path.suffix == ".json":
        write_json(path, {"a": [1, 2.5, None]}, made_by)
    elif path.suffix == ".parquet":
        write_parquet(path, FRAME, made_by)
    elif path.suffix == ".safetensors":
        write_tensors(path, {"w": np.arange(6.0).reshape(2, 3)}, made_by, {"k": 2})
    else:
        with writing_hdf5(path, made_by) as file:
            file.create_dataset(
                "activations", data=np.arange(600.0).reshape(60, 10), chunks=(20, 10)
            )
            file.create_dataset("question", data=["a", "b"], dtype=h5py.string_dtype())


KINDS = ["x.json", "x.parquet", "x.safetensors", "x.h5"]


@pytest.mark.parametrize("name", KINDS)
def test_equal_payloads_have_equal_digests_whoever_made_them(tmp_path, name):
    write_one(tmp_path / "one" / name, seed=1)
    write_one(tmp_path / "two" / name, seed=2)
    one, two = stamp_of(tmp_path / "one" / name), stamp_of(tmp_path / "two" / name)
    assert one["digest"] == two["digest"]
    assert (one["provenance"]["seed"], two["provenance"]["seed"]) == (1, 2)
    assert {"versions", "commit", "hardware"} <= set(one["provenance"])


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_is_named_with_the_remedy(tmp_path, name):
    path = tmp_path / name
    write_one(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"x\.\w+.*: .*make it again"):
        stamp_of(path)


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_file_is_named_with_the_remedy(tmp_path, name):
    with pytest.raises(ArtifactError, match="no such file; make it first"):
        stamp_of(tmp_path / name)


def test_a_changed_value_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "x.json"
    write_one(path)
    document = json.loads(path.read_text())
    document["payload"]["a"][0] = 7
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        read_json(path)


def test_what_is_read_is_what_was_written(tmp_path):
    for name in KINDS:
        write_one(tmp_path / name)
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None]}
    frame = read_parquet(tmp_path / "x.parquet")
    assert [list(row) for row in frame["tokens"]] == [[1, 2], []]
    tensors, about, _ = read_tensors(tmp_path / "x.safetensors")
    assert about == {"k": 2}
    np.testing.assert_array_equal(tensors["w"], np.arange(6.0).reshape(2, 3))


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path):
    write_one(tmp_path / "x.parquet")
    with pytest.raises(ArtifactError, match="no column alpha; it has question, tokens, p"):
        read_parquet(tmp_path / "x.parquet", ["question", "alpha"])


def test_an_error_while_writing_leaves_the_old_file_and_no_scraps(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), writing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    with writing_folder(tmp_path / "model") as part:
        (part / "a").write_text("1")
        assert not (tmp_path / "model").exists()
    with writing_folder(tmp_path / "model") as part:
        (part / "b").write_text("2")
    assert [item.name for item in (tmp_path / "model").iterdir()] == ["b"]
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_the_store_gives_back_what_was_kept_for_equal_keys_only(tmp_path):
    store = Store(tmp_path)
    key = {"method": "iti", "alpha": 5}
    assert store.load(key) is None
    kept = store.keep(key, FRAME)
    pd.testing.assert_frame_equal(store.load({"alpha": 5, "method": "iti"}), kept)
    assert store.load({"method": "iti", "alpha": 6}) is None


def test_a_damaged_cell_of_the_store_counts_as_absent(tmp_path):
    store = Store(tmp_path)
    store.keep("cell", FRAME)
    next(tmp_path.rglob("*.parquet")).write_bytes(b"PAR1 half")
    assert store.load("cell") is None


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert (
        content_hash({"a": 1, "b": 2})
        == content_hash({"b": 2, "a": 1})
        != content_hash({"a": 2, "b": 1})
    )


def test_a_retrained_model_has_other_weights_and_a_hub_id_has_none(tmp_path):
    assert weights_of("lab/model") == []
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before = weights_of(str(tmp_path))
    file.write_bytes(b"other")
    assert weights_of(str(tmp_path)) != before
