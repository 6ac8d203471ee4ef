"""Code of the documentation's pages, and a folder where it runs: the model they name, in little."""

import re
from pathlib import Path

from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]
MODEL = "Qwen/Qwen2.5-0.5B"
"""The model that pages name."""
SMALL = {
    "grid": {"k": [2], "alpha": [4], "s": [3]},
    "touch": 0.5,  # a random model's answers hardly differ
    "perplexity": 100,
    "decoding": {"tokens": 8},
    "split": {"folds": 4, "validation": 0.3},
}
"""Settings that keep a fit short."""
WORDS = (
    "slate",
    "oak",
    "Mira",
    "Tom",
    "a river",
    "the sky",
    "blue",
    "no one",
    "a fox",
    "the old house",
)


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language, dedented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", (ROOT / page).read_text(), re.S | re.M)
    return [re.sub(f"^{indent}", "", code, flags=re.M) for indent, code in found]


def commands(page: str, program: str) -> list[str]:
    """Return the lines of a page's shell blocks that call a program, comments cut off."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith(f"{program} ")]


def working_folder(path: Path) -> Path:
    """Write `my.csv` and the tiny model under the name of the real one."""
    tiny_checkpoint(path / MODEL)
    lines = ["question,true,false"]
    for i, word in enumerate(WORDS * 2):
        question = f"What is the {word} of place {i}?"
        lines.append(f"{question},{word}.;It is {word}.,not {word}.;It is not {word}.")
    (path / "my.csv").write_text("\n".join(lines) + "\n")
    return path
