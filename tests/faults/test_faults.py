"""Every fault is one line with a remedy, and docs/faults.md says what is said."""

import re
from pathlib import Path

import pytest
from registry import load_all, page, plain

FAULTS = load_all()
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
LINES: dict[str, str] = {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}: {fault.what}")
def test_a_fault_is_one_line_that_names_the_remedy(fault, tmp_path):
    line = fault.run(tmp_path)
    LINES[fault.what] = plain(line, tmp_path)
    assert "\n" not in line
    assert re.search(r"[;,] |^nothing", line), line
    assert f"| {fault.what} | `{LINES[fault.what]}` | {fault.kept} |" in PAGE.read_text(), (
        "run 'python tests/faults/registry.py > docs/faults.md'"
    )


def test_the_page_holds_these_faults_and_no_others():
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)
    written = re.findall(r"^\| (.+?) \| `.*` \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert written == [fault.what for fault in FAULTS]
    assert PAGE.read_text() == page(dict(re.findall(ROW, PAGE.read_text(), re.MULTILINE)))


ROW = r"^\| (.+?) \| `(.*)` \| .+ \|$"
