"""What a model writes is data: hostile values in LaTeX, Markdown, CSV, a page and a figure."""

import csv
import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from synthetic import STYLES, results

from fasb.study.escaping import csv_text, escape_latex, escape_markdown, without_controls
from fasb.study.panels import read_cells
from fasb.study.printing import latex, markdown
from fasb.study.tables import table_rows

SPECIAL = "\\input{/etc/passwd} 5 % of $x_1$ & #2 {a} ~ ^ <b> | \x1b[31m"


def test_latex_runs_no_command_of_a_text():
    text = escape_latex(SPECIAL)
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    assert commands == {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    }
    assert not re.search(r"(?<!\\)[%$&#_]", text)
    assert re.sub(r"\\[{}]", "", text).count("{") == re.sub(r"\\[{}]", "", text).count("}")
    assert "\x1b" not in text


def test_signs_of_the_tables_are_commands_in_latex():
    text = escape_latex("\u0394 True*Info\xa0\u2191 \u22125.0\u2020 \u2013")
    assert text == r"$\Delta$ True$\times$Info~$\uparrow$ $-$5.0$^\dagger$ --"


def test_markdown_takes_nothing_for_markup():
    text = escape_markdown("a|b *c* _d_ `e` <script> [x](http://y)\nz")
    assert text == r"a\|b \*c\* \_d\_ \`e\` \<script> [x\](http://y) z"
    assert escape_markdown("p < 0.05 [1.0, 2.0]") == "p < 0.05 [1.0, 2.0]"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", '=HYPERLINK("http://y")'])
def test_a_spreadsheet_finds_no_formula_and_numbers_stay(text):
    frame = pd.DataFrame({"answer": [text, "oak"], "n": [-1.5, 2.0], "known": [True, False]})
    back = pd.read_csv(io.StringIO(csv_text(frame)))
    assert back["answer"].tolist() == [f"'{text}", "oak"]
    assert back["n"].tolist() == [-1.5, 2.0]
    assert back["known"].tolist() == [True, False]


@pytest.mark.parametrize("text", ["oak\r=1+1", "\r=1+1", "oak\r\n=1+1", "\r\n", "oak\n=1+1"])
def test_a_line_end_in_a_text_begins_no_row(text):
    written = csv_text(pd.DataFrame({"answer": [text], "n": [1]}))
    ((head, _), (answer, n)) = csv.reader(io.StringIO(written, newline=""))
    assert (head, n) == ("answer", "1")
    assert answer.removeprefix("'") == text.replace("\r\n", "\n").replace("\r", "\n")


def test_control_characters_go_and_line_breaks_stay():
    assert without_controls("a\x1b[2Jb\x00\u202ec\nd\te\r\x9bf") == "a[2Jbc\nd\tef"


def test_a_hostile_label_is_text_in_every_form_of_a_table(tmp_path):
    made = results(tmp_path, worlds=("a-s2",), seeds=(0,), groups=3)
    frame = read_cells(made.cells, made.files("metrics.parquet"), "metrics.parquet")
    styles = [replace(style, label=f"={SPECIAL}") for style in STYLES]
    rows = table_rows(frame, "main", styles, "default", n_draws=20)
    assert "\\input" not in latex(rows)
    assert "<b>" not in markdown(rows).replace("\\<b>", "")
    lines = [line for line in markdown(rows).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]}) == 1
    labels = pd.read_csv(io.StringIO(csv_text(rows)))["label"]
    assert labels.str.startswith("'=").all()
