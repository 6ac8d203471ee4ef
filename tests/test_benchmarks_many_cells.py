"""Many cells: the workflow alone, a stand-in in each job's place, of which some are killed."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import many_cells


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_fifty_cells_end_by_themselves_though_one_job_in_twenty_is_killed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["many_cells", "--cells", "50", "--run", "--killed", "5"])
    many_cells.main()
    told = capsys.readouterr().out
    assert "50 cells, 582 jobs" in told
    killed = re.search(r"^(\d+) jobs killed; nothing is left to do$", told, re.MULTILINE)
    assert int(killed[1]) > 0
