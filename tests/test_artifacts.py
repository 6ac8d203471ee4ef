"""Files are whole or absent, name their maker, and damage is an error, never a wrong number."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasb import hdf5files
from fasb.artifacts import (
    Store,
    read_json,
    read_parquet,
    read_tensors,
    stamp_of,
    write_json,
    write_parquet,
    write_receipt,
    write_tensors,
)
from fasb.errors import ArtifactError
from fasb.hdf5files import reading_hdf5, writing_hdf5
from fasb.provenance import _processor, content_hash, content_of, provenance
from fasb.wholefiles import check_out, writing, writing_folder

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


def test_what_can_carry_no_checksum_has_it_in_a_receipt_beside_it(tmp_path):
    picture, other = tmp_path / "x.png", tmp_path / "x.csv"
    picture.write_bytes(b"a picture")
    other.write_text("a,b\n")
    with pytest.raises(ArtifactError, match="carries no checksum, and none lies beside it"):
        stamp_of(picture)
    write_receipt(tmp_path / "x.json", [picture], {"seed": 3})
    assert stamp_of(picture)["digest"] == hashlib.sha256(b"a picture").hexdigest()
    assert stamp_of(picture)["provenance"]["seed"] == 3
    with pytest.raises(ArtifactError, match="carries no checksum"):
        stamp_of(other)
    picture.write_bytes(b"another picture")
    with pytest.raises(ArtifactError, match=r"x\.png: content does not match its checksum"):
        stamp_of(picture)
    write_json(tmp_path / "x.json", ["x.png"])
    with pytest.raises(ArtifactError, match="carries no checksum"):
        stamp_of(picture)


@pytest.mark.parametrize("name", KINDS)
def test_equal_payloads_have_equal_digests_whoever_made_them(tmp_path, name):
    write_one(tmp_path / "one" / name, seed=1)
    write_one(tmp_path / "two" / name, seed=2)
    one, two = stamp_of(tmp_path / "one" / name), stamp_of(tmp_path / "two" / name)
    assert one["digest"] == two["digest"]
    assert (one["provenance"]["seed"], two["provenance"]["seed"]) == (1, 2)
    assert {"versions", "commit", "hardware"} <= set(one["provenance"])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            "model name\t: AMD EPYC\nflags\t: fma avx avx2 avx512f\nmodel name\t: x",
            "AMD EPYC avx512f",
        ),
        ("model name\t: Xeon\nflags\t: fma avx avx2", "Xeon avx2"),
        ("Features\t: fp asimd", None),
    ],
)
def test_a_result_names_the_processor_which_decides_how_sums_are_rounded(
    monkeypatch, told, expected
):
    monkeypatch.setattr(Path, "read_text", lambda path, **_: told)
    assert _processor() == expected


@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_is_named_with_the_remedy(tmp_path, name):
    path = tmp_path / name
    write_one(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match=r"x\.\w+.*: .*make (it|the file) again"):
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


def test_a_local_model_is_known_by_its_content_and_a_hub_id_by_none(tmp_path):
    for text in ("", "lab/model", "a prompt\n" * 999, "\0"):
        assert content_of(text) == []
    for name in ("config.json", "model.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_bytes(b"one")
    (tmp_path / "training.log").write_bytes(b"one")
    (tmp_path / "additional_chat_templates").mkdir()
    before = content_of(str(tmp_path))
    copied = shutil.copytree(tmp_path, tmp_path / "copied")
    os.utime(copied / "model.safetensors", (1, 1))
    assert content_of(str(copied)) == before
    (tmp_path / "training.log").write_bytes(b"other")
    assert content_of(str(tmp_path)) == before
    named = "additional_chat_templates/tools.jinja"
    for name in ("config.json", "model.safetensors", "chat_template.jinja", named):
        (tmp_path / name).write_bytes(b"two")
        assert content_of(str(tmp_path)) != before
        before = content_of(str(tmp_path))


def test_a_folder_of_a_tokenizer_alone_is_known_by_its_content(tmp_path):
    for name in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_text("one")
    (tmp_path / "logs.json").mkdir()
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")
    before = content_of(str(tmp_path))
    assert [name for name, _ in before] == ["chat_template.jinja", "tokenizer.json"]
    (tmp_path / "chat_template.jinja").write_text("two")
    assert content_of(str(tmp_path)) != before


def test_of_a_large_file_beginning_middle_and_end_are_read(tmp_path, monkeypatch):
    for name, value in (("WHOLE", 100), ("BLOCKS", 11), ("BLOCK", 10)):
        monkeypatch.setattr(f"fasb.provenance.{name}", value)
    path = tmp_path / "model.gguf"

    def hashed(content):
        path.write_bytes(content)
        return content_of(str(path))[0][1]

    plain = hashed(bytes(1000))
    assert hashed(bytes(1001)) != plain
    for place in (0, 99, 500, 999):
        changed = bytearray(1000)
        changed[place] = 1
        assert hashed(bytes(changed)) != plain


def refused(read, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_byte_is_refused_or_changes_no_payload(tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("changed") / name
    write_one(path)
    whole, digest = path.read_bytes(), stamp_of(path)["digest"]
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(
        whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    )
    try:
        found = stamp_of(path)["digest"]
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert found == digest


def test_a_changed_hdf5_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    write_one(tmp_path / "x.h5")
    content = bytearray((tmp_path / "x.h5").read_bytes())
    content[100] ^= 1
    (tmp_path / "x.h5").write_bytes(content)
    monkeypatch.setattr(h5py, "File", lambda *_, **__: pytest.fail("parsed"))
    refused(lambda: stamp_of(tmp_path / "x.h5"), "content does not match its checksum")


def test_an_hdf5_file_is_compared_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    write_one(path)
    os.utime(path, (1e9, 1e9))
    read = []
    real = hdf5files._bytes_digest
    monkeypatch.setattr(hdf5files, "_bytes_digest", lambda *a: read.append(a) or real(*a))
    for _ in range(3):
        with reading_hdf5(path) as file:
            assert file["activations"].shape == (60, 10)
    assert len(read) == 1
    write_one(path)
    stamp_of(path)
    assert len(read) == 3  # written, then read


def test_an_hdf5_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs[hdf5files.KEY] = json.dumps({"digest": "", "provenance": {}})
        file.create_dataset("a", (10**6, 10**6), "f4", chunks=(100, 100))
    hdf5files.seal(path)
    with pytest.raises(ArtifactError, match="a claims 4,000,000,000,000 bytes"), reading_hdf5(path):
        pass


def test_a_locked_file_is_named_as_locked(tmp_path):
    path = tmp_path / "x.h5"
    write_one(path)
    code = (
        "import h5py, sys, time; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        refused(lambda: stamp_of(path), r"x\.h5: locked by another program, .*; wait for it")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("name", KINDS)
def test_files_are_as_the_umask_says(tmp_path, name):
    before = os.umask(0o027)
    try:
        write_one(tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


def test_files_in_a_folder_are_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        with writing_folder(tmp_path / "model") as part:
            (part / "weights").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model" / "weights").stat().st_mode) == 0o644


def test_what_a_killed_run_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    code = (
        "import os,signal,sys; from pathlib import Path; from fasb.wholefiles import *\n"
        "with writing(Path(sys.argv[1])) as part, writing_folder(Path(sys.argv[2])):\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file, folder = tmp_path / "x.json", tmp_path / "model"
    subprocess.run([sys.executable, "-c", code, file, folder], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with writing(file) as mine:
        mine.write_text("mine")
        write_one(file)
        with writing_folder(folder):
            assert len(list(tmp_path.iterdir())) == 3
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model", "x.json"]
    assert file.read_text() == "mine"


def test_the_part_of_another_machine_is_left_for_a_day(tmp_path):
    part = tmp_path / ".x.json.0badhost-1-abc.part"
    part.write_text("half")
    write_one(tmp_path / "x.json")
    assert part.exists()
    os.utime(part, (0, 0))
    write_one(tmp_path / "x.json")
    assert not part.exists()


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    refused(lambda: write_one(tmp_path / "pipe.json"), "pipe.json: no ordinary file; give the path")
    assert (tmp_path / "pipe.json").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("file/", "a file stands where a folder is needed; choose another path"),
        ("folder/", "a folder; give the path of a file"),
        ("n" * 300, "File name too long.*; shorten the name"),
        ("/proc/", "cannot be written .*; choose"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(tmp_path, name, where, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / name).mkdir(parents=True)
    path = tmp_path / (where + name)
    refused(lambda: write_one(path), message)
    refused(lambda: check_out(path), message)


@pytest.mark.parametrize("name", KINDS)
def test_a_long_name_of_wide_letters_is_written(tmp_path, name):
    path = tmp_path / ("真" * 80 + Path(name).suffix)  # 240 bytes of the 255 that a name may have
    write_one(path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", KINDS)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, name):
    path = tmp_path / name
    write_one(path)
    code = (
        "import resource,sys; sys.path[:0]=sys.argv[2:]; from pathlib import Path; import numpy "
        "as np\n"
        "from fasb.errors import FasbError; import test_artifacts as t; import pyarrow\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try: t.write_one(Path(sys.argv[1]))\n"
        "except FasbError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, Path(__file__).parent],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "cannot be written (File too large); raise the limit" in done.stdout, done.stderr
    assert stamp_of(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_work_itself_is_not_taken_for_one_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "x"):
        Path("/nowhere/at/all").read_text()


def test_provenance_is_that_of_all_blocks_around(tmp_path):
    with provenance(stage="fit", seed=1), provenance(seed=2):
        write_one(tmp_path / "x.json", own=3)
    write_one(tmp_path / "y.json")
    made_by = stamp_of(tmp_path / "x.json")["provenance"]
    assert (made_by["stage"], made_by["seed"], made_by["own"]) == ("fit", 2, 3)
    assert "stage" not in stamp_of(tmp_path / "y.json")["provenance"]


def test_nobody_is_told_to_delete_a_file_that_is_not_ours(tmp_path):
    for name in ("mine.csv", *KINDS):
        (tmp_path / name).write_text("question,true,false\nWhy?,a,b\n")
        with pytest.raises(ArtifactError) as caught:
            stamp_of(tmp_path / name)
        assert "; delete" not in str(caught.value)
