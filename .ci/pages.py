"""What mkdocs does not do by itself: pages that lie outside docs/, and links between the two.

Links are written as they are followed in the repository. A link to a page that is built becomes a
link to it; one to any other file of the repository becomes the file's name.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "config/README.md",
    "benchmarks/results.json",
    "benchmarks/results.png",
)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside docs/ under their own paths."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the page's links from paths in the repository into paths among the pages."""
    here = page.file.src_uri
    folder = (ROOT / here if here in OUTSIDE else ROOT / "docs" / here).parent

    def rewritten(match: re.Match[str]) -> str:
        text, link, place = match[1], match[2], match[3] or ""
        target = built(folder / link)
        if target is None or files.get_file_from_path(target) is None:
            # a source file's name is enough; a link to nothing stays, and fails the build
            return text if (folder / link).exists() else match[0]
        return f"[{text}]({os.path.relpath(target, Path(here).parent)}{place})"

    return LINK.sub(rewritten, markdown)


def built(path: Path) -> str | None:
    """Return the path of a repository's file among the pages, or None if it is not among them."""
    inside = Path(os.path.normpath(path)).relative_to(ROOT).as_posix()
    if inside in OUTSIDE:
        return inside
    return inside.removeprefix("docs/") if inside.startswith("docs/") else None


def on_config(config: MkDocsConfig) -> Any:
    """Find the library beside this file, installed or not."""
    config.plugins["mkdocstrings"].config.handlers["python"].setdefault("paths", [str(ROOT)])
    return config
