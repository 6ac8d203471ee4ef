"""Plain texts to try side effects on (docs/method.md Q10): files of one's own, or a set of the hub.

In: a folder or a repository with text, Parquet or JSONL files. Out: texts, in the files' order. No
dataset of questions: for `side_effects` of one.
"""

from pathlib import Path

from pydantic import Field

from fasb.data import sources
from fasb.errors import DataError
from fasb.textfiles import read_text

FILES = {"texts": ("*.txt", *sources.parquet("default", "train"), "**/*.parquet", "*.jsonl")}


class Settings(sources.Source):
    """Where the texts are, and how many to take."""

    hub: str = "stas/openwebtext-10k"
    column: str = Field("text", description="Column of Parquet and JSONL files")
    n: int = Field(100, ge=1, description="So many texts, the first")


def load(settings: Settings) -> list[str]:
    """Return the first `n` texts that are not blank; a .txt file is one text.

    Raises:
        DataError: a file is missing or lacks the column, or there is no text.
    """
    found = sources.files(settings, FILES)["texts"]
    texts = [text for text in _texts(found, settings.column) if text.strip()][: settings.n]
    if not texts:
        raise DataError(f"{found[0]}: no text in it; correct `path` or `column`")
    return texts


def _texts(files: list[Path], column: str) -> list[str]:
    if files[0].suffix == ".txt":
        return [read_text(path, DataError) for path in files]
    return [str(sources.field(row, column)) for row in sources.rows(files)]
