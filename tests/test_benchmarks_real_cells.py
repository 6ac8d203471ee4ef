"""A job for each whole cell, some of them killed: the payloads are those of a plain loop."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import real_cells


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_cells_whose_jobs_are_killed_have_the_payloads_of_a_plain_loop(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(real_cells, "N_MODELS", 1)
    arguments = ["real_cells", "--cells", "3", str(tmp_path)]
    for more in (["--by-hand"], ["--killed", "100"]):
        monkeypatch.setattr(sys, "argv", [arguments[0], *more, *arguments[1:]])
        real_cells.main()
    told = capsys.readouterr().out
    killed = re.search(r"^(\d+) jobs killed; nothing is left to do$", told, re.MULTILINE)
    assert int(killed[1]) > 0
    n = re.search(r"^(\d+) payloads of a plain loop; 0 differ \[\]$", told, re.MULTILINE)
    assert int(n[1]) > 3 * 15
