"""The pages of docs/ and the code agree: points that are cited exist, and links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
METHOD = (ROOT / "docs" / "method.md").read_text()
NUMBERED = re.findall(r"\*\*([APTGMBQXCD]\d+|\d\.\d+)[* ]", METHOD)
POINTS = set(NUMBERED) | set(re.findall(r"^## (\d(?:\.\d)?) ", METHOD, re.M))
CITED = re.compile(r"docs/method\.md ((?:[A-Z]?\d+(?:\.\d+)?(?:-[A-Z]?\d+)?(?:, )?)+)")


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
    for letter in "APTGMBQXCD":
        # each once: a point of two meanings would be cited for either
        numbers = sorted(int(point[1:]) for point in NUMBERED if point[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1))


def test_every_page_has_its_place_and_the_places_are_in_order():
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.safe_load(text)["nav"]
    places = [name for entry in nav for name in entry]
    assert places == [
        "Start",
        "Steer your model",
        "Run the study",
        "On a cluster",
        "Add your own",
        "The method",
        "Reference",
        "Results",
        "Troubleshooting",
    ]
    named = set(re.findall(r": ([\w/.-]+\.md)$", text, re.M))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} <= named


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install -e .[docs]"
)
def test_the_pages_are_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    reference = (tmp_path / "api" / "index.html").read_text()
    assert 'id="fasb.steering.policy.Policy"' in reference
    # links into docs/ from a page outside it, and out of docs/ to a picture
    assert 'href="../adding/"' in (tmp_path / "CONTRIBUTING" / "index.html").read_text()
    assert 'src="results.png"' in (tmp_path / "benchmarks" / "index.html").read_text()
    assert (tmp_path / "benchmarks" / "results.png").exists()
