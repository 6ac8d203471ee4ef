"""The notebook runs from top to bottom and is kept without outputs."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "notebooks" / "walkthrough.ipynb"


def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_is_kept_without_outputs():
    for cell in notebook().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_it_runs_where_no_study_has_been_run(tmp_path):
    found = notebook()
    (parameters,) = [cell for cell in found.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = re.sub(r"TOKENS = [\d_]+", "TOKENS = 20_000", parameters.source)
    NotebookClient(found, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in found.cells for out in cell.get("outputs", ())]
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    assert "3 layers of 8 heads; 96 questions" in printed
    assert re.search(r"^(not )?steered", printed, re.M)
    assert "n = 48 questions" in printed
