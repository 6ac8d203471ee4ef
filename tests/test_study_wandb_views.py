import json
import sys

import pytest

from fasb.errors import ConfigError
from fasb.study.wandb_views import as_json, view


def panels(report):
    """All panels of a stored report, and each runset's filter."""
    found, kinds = [], []
    for block in json.loads(as_json(report))["blocks"]:
        if block["type"] == "panel-grid":
            (runs,) = block["metadata"]["runSets"]
            kinds.append({one["key"]["name"]: one["value"] for one in runs["filters"]["filters"]})
            found += block["metadata"]["panelBankSectionConfig"]["panels"]
    return found, kinds


# wandb-workspaces itself uses what pydantic will remove
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_report_has_parallel_coordinates_importance_and_tables_of_this_study():
    pytest.importorskip("wandb_workspaces")
    found, kinds = panels(view("mine", "p", "", "true_info", ["main", "tuning"]))
    by_type = {}
    for panel in found:
        by_type.setdefault(panel["viewType"], []).append(panel["config"])
    assert kinds == [{"study": "mine", "kind": kind} for kind in ("validation", "test", "study")]
    (coordinates,) = by_type["Parallel Coordinates Plot"]
    axes = [column["accessor"] for column in coordinates["columns"]]
    assert {"config:method.value", "config:alpha.value", "config:beta.value"} <= set(axes)
    assert axes[-1] == "summary:true_info"
    (importance,) = by_type["Parameter Importance"]
    assert importance["targetKey"] == "true_info"
    assert "Run Comparer" in by_type
    tables = json.dumps(by_type["Weave"])
    assert '"tables/main"' in tables
    assert '"tables/tuning"' in tables


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["it's", 'a = "b" and c', "größe"])
def test_a_study_may_be_called_anything(name):
    pytest.importorskip("wandb_workspaces")
    _, kinds = panels(view(name, "p", "", "true_info", []))
    assert {kind["study"] for kind in kinds} == {name}


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ConfigError, match=r"run \"pip install 'fasb\[views\]'\""):
        view("mine", "p", "", "true_info", [])
