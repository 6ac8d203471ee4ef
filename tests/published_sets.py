"""Small copies of published sets in their files' forms, and the folder with the real ones."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

REAL = Path(os.environ.get("FASB_DATA", ""))

realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not os.environ.get("FASB_DATA"),
        reason="FASB_DATA is not set: the folder with the real benchmark files",
    ),
]
"""Marks of a test that reads the real files."""


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


class Hub:
    """Stands in for the hub's downloader: folders by revision, and what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **folders: Path):
        self.folders, self.asked = folders, []
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)

    def snapshot_download(self, hub, *, repo_type, revision, allow_patterns):
        assert repo_type == "dataset"
        self.asked.append((hub, revision, tuple(allow_patterns)))
        return str(self.folders["copy" if revision == "refs/convert/parquet" else "main"])
