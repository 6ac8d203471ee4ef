"""The pages of docs/ and the code agree: points that are cited exist, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
METHOD = (ROOT / "docs" / "method.md").read_text()
POINTS = set(re.findall(r"\*\*([APTGMBQ]\d+|\d\.\d)[* ]", METHOD)) | set(
    re.findall(r"^## (\d(?:\.\d)?) ", METHOD, re.M)
)
CITED = re.compile(r"docs/method\.md ((?:[A-Z]?\d+(?:\.\d)?(?:-[A-Z]?\d+)?(?:, )?)+)")


def test_every_point_that_is_cited_exists():
    folders = ("fasb", "tests", "benchmarks", "workflow", "config")
    files = [
        file
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".smk", ".md")
    ]
    unknown = {
        (str(file.relative_to(ROOT)), point)
        for file in files
        for cited in CITED.findall(file.read_text())
        for point in re.split(r"-|, ", cited)
        if point and point not in POINTS
    }
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_lead_somewhere(page):
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = [
        ROOT / path
        for path in re.findall(r"`((?:fasb|tests|docs|config|workflow|notebooks)/[\w/.-]+)`", text)
    ]
    missing = [str(path) for path in links + named if not path.exists() and path.stem != "NAME"]
    assert not missing


def test_points_are_numbered_without_gaps():
    for letter in "APTGMBQ":
        numbers = sorted(int(point[1:]) for point in POINTS if point[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1))
