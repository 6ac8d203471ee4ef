import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from fasb.cli.outputs import figure_command, report_command, table_command
from synthetic import METHODS, results

from fasb.study.answers import OUTCOMES, fired_at
from fasb.study.figure_rows import FIGURES
from fasb.study.panels import Cell
from fasb.study.report import Sources, health, render, settings, timing

INPUTS = (
    "metrics.parquet", "metrics.json", "grid.parquet", "tuned.json", "generations.parquet", "judged.parquet",
    "anchors.h5",
)  # fmt: skip
SECTIONS = (
    "about",
    "main",
    "ablation",
    "figures",
    "health",
    "tuned",
    "answers",
    "provenance",
    "timing",
)


def run(command, *arguments):
    done = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results with tables and figures, all made by the commands that the rules call."""
    import json

    made = results(tmp_path_factory.mktemp("results"), groups=4)
    shown = json.dumps(
        {"cells": made.cells, "methods": list(METHODS), "preset": "default", "version": "0"}
    )
    for name in ("main", "ablation"):
        files = made.files("metrics.parquet")
        run(table_command, name, *files, "--settings", shown, "--out", made.root / "tables" / name)
    for name in FIGURES:
        run(
            figure_command,
            name,
            *made.files(*INPUTS),
            "--settings",
            shown,
            "--out",
            made.root / "figures" / name,
        )
    return made


@pytest.fixture(scope="module")
def page(made):
    import json

    health_files = sorted(map(str, (made.root / "health").glob("*.json")))
    shown = {"name": "small", "preset": "default", "cells": made.cells, "methods": list(METHODS)}
    shown |= {"health": health_files, "timing": str(made.root / "timing")}
    files = [
        *sorted((made.root / "tables").glob("*.csv")),
        *sorted((made.root / "figures").glob("*.png")),
    ]
    files += [*made.files(*INPUTS[:-1]), *health_files]
    run(report_command, *files, "--settings", json.dumps(shown), "--out", made.root / "report.html")
    return made.root / "report.html"


class Balanced(HTMLParser):
    """Collects ids, links and pictures, and refuses tags that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.loads += [given[key] for key in ("src", "href") if key in given]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(page):
    parser = Balanced()
    parser.feed(page.read_text())
    assert parser.open == []
    assert set(SECTIONS) <= set(parser.ids)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in parser.loads)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page.read_text())


def test_every_link_of_the_page_leads_somewhere(page):
    parser = Balanced()
    parser.feed(page.read_text())
    assert {target[1:] for target in parser.loads if target.startswith("#")} <= set(parser.ids)


def test_the_page_says_what_a_world_is_no_evidence_of(page):
    assert "not evidence about real language models" in page.read_text()


def test_all_figures_and_outcomes_are_shown(page):
    text = page.read_text()
    assert all(f'id="{name}"' in text for name in FIGURES)
    assert sum(title in text for title in OUTCOMES.values()) >= 3
    assert 'class="t dropped' in text


def test_a_study_without_worlds_has_no_such_section(made):
    sources = Sources(
        "bare", "default", Cell.of(made.cells), list(METHODS), made.files(*INPUTS), []
    )
    text = render(sources)
    assert 'id="health"' not in text
    assert "No figures were given" in text
    assert render(sources) == text


def test_what_a_model_wrote_is_text_and_never_markup(made):
    from fasb.artifacts import read_parquet, write_parquet

    path = made.files("generations.parquet")[0]
    original = path.read_bytes()
    frame = read_parquet(path)
    frame["text"] = "<script>alert(1)</script>"
    write_parquet(path, frame, {})
    try:
        text = render(
            Sources("bare", "default", Cell.of(made.cells), list(METHODS), made.files(*INPUTS), [])
        )
    finally:
        path.write_bytes(original)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("p", "kept", "strength", "at"),
    [
        pytest.param([0.1, 0.2, 0.3, 0.9, 0.9], 1, 9.0, 3, id="s tokens after the last one kept"),
        pytest.param(
            [0.1, 0.9, 0.8, 0.2], 0, 8.0, 2, id="from the start, the check that gave the strength"
        ),
        pytest.param([0.1, 0.9], 0, 9.0, 1, id="a short answer is checked at its end"),
        pytest.param([0.1, 0.9, 0.8], 0, 10.0, None, id="constant strength does not tell"),
    ],
)
def test_where_an_answer_fired(p, kept, strength, at):
    assert fired_at(p, kept, strength, {"s": 2, "alpha": 10.0}) == at
    assert fired_at(p, kept, strength, {"k": 2}) is None


def test_choices_at_the_grids_edge_are_counted():
    entry = {"setting": {"k": 4, "alpha": 16.0}, "edge": ["alpha"], "edge_mc2": ["k"]}
    tuned = {("a-s2", "a-s2", 0): {"fold0": {"iti": entry}, "fold1": {"iti": entry | {"edge": []}}}}
    row = settings(tuned, ["iti"])[0]["rows"][0]
    assert row["edges"] == "k for MC2: 2 of 2, alpha: 1 of 2"
    assert row["values"]["k"] == "4 (2)"


def test_health_shows_what_was_measured_and_what_was_needed():
    head, loss = (
        {"value": 61.0, "need": "at least 72", "ok": False},
        {"value": None, "need": "below 5", "ok": False},
    )
    found = health({"a-s2": {"accepted": False, "figures": {"head": head, "loss": loss}}})
    assert found == {
        "columns": ["head", "loss"],
        "rows": [{"name": "a-s2", "accepted": False, "cells": [head, loss]}],
    }


def test_timing_adds_up_the_jobs_of_a_rule(tmp_path):
    for seed, seconds in ((0, 2.5), (1, 4.0)):
        path = tmp_path / "sweep" / "a" / f"seed{seed}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:02\t-\n")
    assert timing(tmp_path)[0] | {"memory": None} == {
        "rule": "sweep", "jobs": 2, "total": 6.5, "longest": 4.0, "memory": None,
    }  # fmt: skip
    assert timing(tmp_path / "none") == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_section(page, tmp_path, scheme):
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        pytest.skip("needs chromium, chromium-browser or google-chrome on PATH")
    picture = tmp_path / "page.png"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    options += [
        "--window-size=1100,3000",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    ]
    quiet = {"capture_output": True, "text": True, "timeout": 600, "check": True}
    dom = subprocess.run([chromium, *options, "--dump-dom", page.as_uri()], **quiet).stdout
    assert all(f'<section id="{name}"' in dom for name in SECTIONS)
    subprocess.run([chromium, *options, f"--screenshot={picture}", page.as_uri()], **quiet)
    assert _corner(picture) == ((253, 253, 251) if scheme == "light" else (22, 24, 27))


def _corner(picture: Path) -> tuple[int, ...]:
    from matplotlib.image import imread

    return tuple(round(255 * value) for value in imread(picture)[2, 2, :3].tolist())
