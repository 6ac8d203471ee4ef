"""Files of a study: JSON, Parquet and safetensors with checksum and provenance; never pickle.

In: what a stage made. Out: the same, read back and checked. "The same result" means the same
payload digest, which leaves provenance out. `Store` keeps finished cells of a job that may be
killed.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fasb.errors import ArtifactError
from fasb.hdf5files import hdf5_stamp, reading_hdf5
from fasb.provenance import (
    KEY,
    checked_stamp,
    content_hash,
    is_checked,
    remember,
    require_match,
    stamp_for,
)
from fasb.textfiles import parse_json, read_text
from fasb.wholefiles import existing, naming, writing

SEALED = (".json", ".parquet", ".safetensors", ".h5")
"""Suffixes of files that carry a checksum."""
SHOWN = (".csv", ".md", ".tex", ".png", ".pdf", ".html")
"""Suffixes of files for people, which can carry none: it stands in their receipt."""
CHECKED = (*SEALED, *SHOWN)
"""Suffixes of files that can be compared with a checksum, their own or their receipt's."""
MOST_VALUES, LARGEST_GROUP = 2**28, 2**32
"""Values of a Parquet file, and bytes of a group of its rows, that are read at all."""


def write_json(path: Path, payload: Any, made_by: dict[str, Any] | None = None) -> None:
    """`{"payload": …, "digest": …, "provenance": …}`, indented."""
    document = {"payload": payload, **stamp_for(_json_digest(payload), made_by)}
    with writing(path) as part:
        part.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Return the payload of a file that `write_json` made.

    Raises:
        ArtifactError: the file is missing, truncated, or its payload does not match its digest.
    """
    return _read_document(path)["payload"]


def _read_document(path: Path) -> dict[str, Any]:
    text = read_text(existing(path), ArtifactError)
    document = parse_json(text, str(path), ArtifactError, "make it again")
    with naming(path):
        checked_stamp(document)
        require_match(path, document["digest"], _json_digest(document["payload"]))
    return dict(document)


def _json_digest(payload: Any) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def write_parquet(path: Path, frame: pd.DataFrame, made_by: dict[str, Any] | None = None) -> None:
    """Write the frame without its index; lists of numbers or strings are list columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # pandas' own metadata holds its version, which is no part of the content
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    stamp = stamp_for(_table_digest(table), made_by)
    with writing(path) as part:
        stamped = table.replace_schema_metadata({KEY: json.dumps(stamp)})
        pq.write_table(stamped, part, write_page_checksum=True)


def read_parquet(path: Path) -> pd.DataFrame:
    """Return the frame of a file that `write_parquet` made.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    with naming(existing(path)):
        table = _table_in(path)
        if not is_checked(path):
            stamp = checked_stamp(json.loads((table.schema.metadata or {})[KEY.encode()]))
            require_match(path, stamp["digest"], _table_digest(table))
            remember(path)
        frame: pd.DataFrame = table.to_pandas()
    return frame


def _table_in(path: Path) -> Any:
    """Return what a Parquet file holds; its pages are compared with their checksums."""
    import pyarrow.parquet as pq

    check_parquet_size(path)
    return pq.read_table(path, page_checksum_verification=True)


def check_parquet_size(path: Path) -> None:
    """Refuse a file that claims more values than could be held; reads its last bytes alone.

    Raises:
        ValueError: it does.
    """
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    n_values = about.num_rows * max(about.num_columns, 1)
    sizes = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
    largest = max(sizes, default=0)
    if not 0 <= n_values <= MOST_VALUES or not 0 <= largest <= LARGEST_GROUP:
        raise ValueError(f"it claims {n_values:,} values, {largest:,} bytes in one group")


def _table_digest(table: Any) -> str:
    """Return a hash of names and values as JSON, floats to 15 digits.

    It is the same whatever the file's encoding.
    """
    text = table.to_pandas().to_json(orient="split", index=False, double_precision=15)
    return hashlib.sha256(text.encode()).hexdigest()


def write_tensors(
    path: Path,
    tensors: dict[str, np.ndarray],
    made_by: dict[str, Any] | None = None,
    about: Any = None,
) -> None:
    """Write a safetensors file.

    `about` is any JSON value kept with the tensors and covered by the digest.
    """
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    stamp = stamp_for(_tensor_digest(tensors, about), made_by)
    with writing(path) as part:
        save_file(tensors, part, metadata={KEY: json.dumps(stamp), "about": json.dumps(about)})


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any, dict[str, Any]]:
    """Tensors, `about` and provenance of a file that `write_tensors` made.

    Raises:
        ArtifactError: the file is missing, truncated, foreign, or does not match its digest.
    """
    from safetensors import safe_open

    with naming(existing(path)), safe_open(path, framework="numpy") as file:
        meta = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        stamp, about = checked_stamp(json.loads(meta[KEY])), json.loads(meta["about"])
        require_match(path, stamp["digest"], _tensor_digest(tensors, about))
        provenance = stamp["provenance"]
    return tensors, about, provenance


def _tensor_digest(tensors: dict[str, np.ndarray], about: Any) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def is_ours(path: Path) -> bool:
    """Return whether a Parquet file was made by `write_parquet`.

    False for any that cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        # a pipe, which is no file, would be waited for
        return KEY.encode() in (pq.read_schema(existing(path)).metadata or {})
    except Exception:  # whatever is wrong with it is said by who reads it
        return False


def write_receipt(path: Path, files: Sequence[Path], made_by: dict[str, Any]) -> None:
    """Write the SHA-256 of files that lie beside `path` and can carry none, and what made them."""
    write_json(path, {file.name: _file_digest(file) for file in files}, made_by)


def _receipt_of(path: Path) -> dict[str, Any] | None:
    """Return the stamp that the receipt beside a file gives it; None if there is no receipt."""
    receipt = path.with_suffix(".json")
    if path.suffix not in SHOWN or not receipt.is_file():
        return None
    document = _read_document(receipt)
    known = document["payload"]
    if not isinstance(known, dict) or path.name not in known:
        return None
    with naming(path):
        require_match(path, str(known[path.name]), _file_digest(path))
    return {"digest": known[path.name], "provenance": document["provenance"]}


def _file_digest(path: Path) -> str:
    with existing(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> dict[str, Any]:
    """Return `{"digest", "provenance"}` of any file of a study.

    The payload is compared with the digest; of a picture or text both stand in its receipt.

    Raises:
        ArtifactError: the file is missing, damaged, or of an unknown kind.
    """
    path = existing(path)
    if path.suffix == ".json":
        document = _read_document(path)
        return {key: value for key, value in document.items() if key != "payload"}
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        read_parquet(path)
        with naming(path):
            stamp: dict[str, Any] = json.loads(pq.read_schema(path).metadata[KEY.encode()])
        return stamp
    if path.suffix in (".safetensors", ".bundle"):
        tensors, about, provenance = read_tensors(path)
        return {"digest": _tensor_digest(tensors, about), "provenance": provenance}
    if path.suffix == ".h5":
        with reading_hdf5(path) as file:
            return hdf5_stamp(file, path)
    receipt = _receipt_of(path)
    if receipt is None:
        raise ArtifactError(
            f"{path}: carries no checksum, and none lies beside it; give .json .parquet "
            ".safetensors .bundle .h5; 'fasb explain' says what makes a table or figure again"
        )
    return receipt


@dataclass(frozen=True)
class Store:
    """Finished cells of long jobs: frames under the hash of all that they depend on.

    Lives beside the declared outputs (`results/.store/`), so that a killed job resumes and equal
    cells are shared.
    """

    folder: Path

    def load(self, key: Any) -> pd.DataFrame | None:
        """Return the frame kept for `key`, or None; a damaged one counts as absent."""
        with contextlib.suppress(ArtifactError):
            return read_parquet(self._path(key))
        return None

    def keep(self, key: Any, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the frame for `key` and give it back as a later `load` will."""
        path = self._path(key)
        write_parquet(path, frame, {})
        # its digest was taken a moment ago
        with naming(path):
            kept: pd.DataFrame = _table_in(path).to_pandas()
        return kept

    def _path(self, key: Any) -> Path:
        name = content_hash(key)
        return self.folder / name[:2] / f"{name}.parquet"
