import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic import STYLES, results, styled

from fasb.study.answers import OUTCOMES, _with_verdicts, pick
from fasb.study.cells import Cell
from fasb.study.chosen import chosen_rows, chosen_tables
from fasb.study.escaping import csv_text
from fasb.study.figures import FIGURES, draw, rows_of, save
from fasb.study.panels import read_cells
from fasb.study.rates import timed
from fasb.study.report import Sources, _table, health, render, timing
from fasb.study.tables import table_rows
from fasb.study.texttables import texts_as_latex, texts_as_markdown

INPUTS = (
    "metrics.parquet",
    "metrics.json",
    "grid.parquet",
    "tuned.json",
    "generations.parquet",
    "judged.parquet",
    "anchors.h5",
)
SECTIONS = (
    "about",
    "main",
    "differences",
    "ablation",
    "figures",
    "health",
    "tuned",
    "answers",
    "provenance",
    "timing",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results with tables and figures."""
    made = results(tmp_path_factory.mktemp("results"), groups=4)
    cells, files = made.cells, made.files(*INPUTS)
    for folder in ("tables", "figures"):
        (made.root / folder).mkdir()
    frame = read_cells(cells, files, "metrics.parquet")
    for name in ("main", "differences", "ablation"):
        rows = table_rows(frame, name, STYLES, "default", n_draws=100)
        (made.root / "tables" / f"{name}.csv").write_text(csv_text(rows))
    rows = chosen_rows(cells, made.files("tuned.json", "metrics.json"), STYLES)
    (made.root / "tables" / "tuning.csv").write_text(csv_text(rows))
    for name in FIGURES:
        rows = rows_of(name, cells, files, STYLES)
        (made.root / "figures" / f"{name}.csv").write_text(csv_text(rows))
        save(draw(name, rows), made.root / "figures" / name)
    return made


@pytest.fixture(scope="module")
def page(made):
    health = sorted((made.root / "health").glob("*.json"))
    shown = [*made.root.glob("tables/*.csv"), *made.root.glob("figures/*.png")]
    sources = Sources(
        name="small",
        preset="default",
        cells=made.cells,
        methods=STYLES,
        files=[*shown, *made.files(*INPUTS[:-1])],
        health=health,
        timing=made.root / "timing",
    )
    path = made.root / "report.html"
    path.write_text(render(sources))
    return path


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


def test_the_page_says_what_its_numbers_do_not_show(page):
    text = page.read_text()
    assert "Nothing about real language models" in text
    assert "a gate comes near an oracle" in text
    assert "re-ranking by the probe" in text
    assert "speaks of these worlds only" in text


def test_all_figures_and_outcomes_are_shown(page):
    text = page.read_text()
    assert all(f'id="{name}"' in text for name in FIGURES)
    assert sum(title in text for title in OUTCOMES.values()) >= 3
    assert 'class="t dropped' in text


def test_a_study_without_worlds_has_no_such_section(made):
    sources = Sources("bare", "default", made.cells, STYLES, made.files(*INPUTS), [])
    text = render(sources)
    assert 'id="health"' not in text
    assert "an invented world" not in text
    assert "No figures were given" in text
    assert render(sources) == text


def test_what_a_model_wrote_is_text_and_never_markup(made):
    from fasb.artifacts import read_parquet, write_parquet

    path = made.files("generations.parquet")[0]
    original = path.read_bytes()
    frame = read_parquet(path)
    frame["text"] = "<script>alert(1)</script>"
    told = ['"><img src=x onerror=alert(1)>', "\x1b[2J\u202e"]
    # as many pieces as there are tokens, which is asked of such a file
    frame["trace_pieces"] = [
        (told * len(pieces))[: len(pieces)] for pieces in frame["trace_pieces"]
    ]
    write_parquet(path, frame, {})
    try:
        text = render(Sources("bare", "default", made.cells, STYLES, made.files(*INPUTS), []))
    finally:
        path.write_bytes(original)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<img src=x" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_mark_stands_where_the_answer_fired(made):
    cells = made.cells[:1]
    names = ("generations.parquet", "judged.parquet")
    frames = [read_cells(cells, made.files(name), name) for name in names]
    shown = pick(*frames, "fasb-probe")
    rows = frames[0][frames[0]["method"] == "fasb-probe"]
    assert any(one.after for one in shown)
    for one in shown:
        marked = [i for i, token in enumerate(one.before) if token.fired]
        of = rows[
            (rows["text"] == one.question) & (rows["trace_pieces"].map(len) == len(one.before))
        ]
        assert (marked or [-1])[0] + 1 in ({*of["fired_at"]} if one.after else {0})


def test_choices_at_the_grids_edge_are_counted(tmp_path):
    rows = chosen_row([{"edge": ["alpha"]}, {"edge": []}], tmp_path)
    assert rows["edges"] == "k for MC2: 2 of 2, alpha: 1 of 2"
    assert rows["edge"] == 0.5
    assert rows["k"] == "4 (2)"


@pytest.mark.parametrize(
    ("differ", "told"),
    [
        ((18, 18), "18"),
        ((12, 12), "18, of which 12 differ"),
        ((6, 9), "18, of which 6 to 9 differ"),
    ],
)
def test_settings_that_come_to_the_same_are_told(tmp_path, differ, told):
    rows = chosen_row([{"edge": [], "different": n} for n in differ], tmp_path)
    assert rows["settings"] == told
    assert told in written(rows.to_frame().T.infer_objects())


def test_how_often_not_to_steer_was_best_stands_in_the_table(tmp_path):
    never = {"edge": [], "setting": {}, "steers": {"generation": False, "mc2": True}}
    rows = chosen_row([never, {"edge": []}], tmp_path).to_frame().T.infer_objects()
    assert rows["unsteered"].item() == "1 of 2"
    assert rows["k"].item() == "4 (1)"
    assert "Not to steer" in written(rows)
    (tmp_path / "b").mkdir()
    steers = chosen_row([{"edge": []}], tmp_path / "b").to_frame().T.infer_objects()
    assert "Not to steer |" not in written(steers)


def test_choices_are_a_table_in_every_form_and_on_the_page(made, page):
    rows = pd.read_csv(made.root / "tables" / "tuning.csv")
    fields = "FASB-Prototype", "alpha: 4 of 4, k for MC2: 4 of 4"
    shown = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    for text in (written(rows), texts_as_latex(chosen_tables(rows)), shown):
        assert all(field in text for field in fields)
    assert "\N{MINUS SIGN}" in written(rows.assign(drop=-1.5))


def test_the_drop_from_validation_to_test_is_in_points(tmp_path):
    rows = chosen_row([{"edge": []}, {"edge": [], "validation": {"true_info": 0.7}}], tmp_path)
    assert (rows["validation"], rows["test"]) == pytest.approx((80.0, 72.0))
    assert rows["drop"] == pytest.approx(8.0)


def test_an_answer_is_informative_where_its_judge_gives_no_info_whatever_another_gives():
    keys = {"model": ["a", "b"], "dataset": ["a", "b"], "seed": 0, "source": "", "question": "q"}
    rows = pd.DataFrame({**keys, "trace_answer": "x", "answer": "y", "fired": True})
    said = pd.concat([rows.assign(answer="x", true=0.0), rows.assign(true=1.0)])
    said["info"] = [1.0, None, 1.0, None]  # model b's judge gives one score
    assert _with_verdicts(rows, said)["outcome"].tolist() == ["helped", "helped"]


def test_an_answer_that_nobody_judged_is_not_shown_as_false():
    """Of a dataset without judge, beside one that has one."""
    keys = {"model": "m", "dataset": ["a", "b"], "seed": 0, "source": "", "question": "q"}
    rows = pd.DataFrame({**keys, "trace_answer": "x", "answer": "y", "fired": True})
    said = pd.concat([rows.assign(answer="x", true=0.0), rows.assign(true=1.0)])
    said = said[said["dataset"] == "a"].assign(info=1.0)
    found = _with_verdicts(rows, said)
    assert (found["dataset"].tolist(), found["outcome"].tolist()) == (["a"], ["helped"])


def test_a_method_called_none_keeps_its_name_on_the_page(tmp_path):
    (tmp_path / "x.csv").write_text("label,value\nNone,\nnull,1\n")
    found = _table(tmp_path / "x.csv")
    assert found["label"].tolist() == ["None", "null"]
    assert found["value"].isna().tolist() == [True, False]


def written(rows):
    """The table of some rows of `tuning`, as Markdown."""
    return texts_as_markdown(chosen_tables(rows))


def chosen_row(folds, root):
    """The row of a method whose folds change an entry with .9 on validation and .72 on test."""
    from fasb.artifacts import write_json

    entry = {
        "setting": {"k": 4, "alpha": 16.0},
        "for_mc2": {},
        "edge_mc2": ["k"],
        "tried": 18,
        "different": 18,
        "validation": {"true_info": 0.9},
        "steers": {"generation": True, "mc2": True},
    }
    tuned = {f"fold{i}": {"iti": entry | fold} for i, fold in enumerate(folds)}
    cell = Cell("a-s2", "a-s2", 0, results=root)
    write_json(cell.folder / "tuned.json", tuned, {})
    write_json(cell.folder / "metrics.json", {"iti": {"true_info": 0.72}}, {})
    files = [cell.folder / "tuned.json", cell.folder / "metrics.json"]
    return chosen_rows([cell], files, styled("iti")).iloc[0]


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
        "rule": "sweep",
        "jobs": 2,
        "total": 6.5,
        "longest": 4.0,
        "memory": None,
    }
    assert timing(tmp_path / "none") == []
    # a job was killed while it was written, or a disk was full: no result depends on it
    for name, text in (("empty", ""), ("head", "s\tmax_rss\n"), ("cut", "s\tmax_rss\n-\t-\n")):
        (tmp_path / "sweep" / "a" / f"{name}.tsv").write_text(text)
    assert timing(tmp_path)[0]["jobs"] == 2
    assert timed("sweep", "a", "", tmp_path) == pytest.approx(3.25)


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
