"""Published numbers agree with themselves: products, averages, rows that stand in two tables."""

from collections import defaultdict

import pytest

from fasb.data.published import published, sources
from fasb.extensions import known


def table(name, source="fasb"):
    """{(model, dataset, method): {metric: value}}."""
    found = defaultdict(dict)
    for number in published(source, name):
        found[number.model, number.dataset, number.method][number.metric] = number.value
    return found


def test_every_number_has_a_known_source_and_stands_there_once():
    numbers = published("")
    assert {number.source for number in numbers} <= set(sources())
    places = [(n.table, n.model, n.dataset, n.method, n.metric, n.source) for n in numbers]
    assert len(set(places)) == len(places)
    assert all(0 < number.value < 100 for number in numbers)


@pytest.mark.parametrize("source", ["fasb", "sadi"])
def test_true_info_is_the_product_of_the_two_rates(source):
    products = [
        row for row in table("main", source).values() if {"true", "info", "true_info"} <= set(row)
    ]
    assert products
    for row in products:
        assert row["true"] * row["info"] / 100 == pytest.approx(row["true_info"], abs=0.011)


def test_averages_are_over_the_six_tasks():
    rows = defaultdict(dict)
    for (_, dataset, method), row in table("choice tasks").items():
        rows[method][dataset] = row["mc1"]
    assert len(rows) == 3
    for row in rows.values():
        average = row.pop("average")
        assert len(row) == 6
        assert sum(row.values()) / 6 == pytest.approx(average, abs=0.06)


def test_the_ablation_repeats_two_rows_of_the_main_table():
    main, ablation = table("main"), table("ablation")
    place = ("LLaMA-2-7B-chat", "truthfulqa")
    for name, same in (("fasb-probe", "fasb-probe"), ("all-fixed", "iti")):
        assert ablation[*place, name].items() <= main[*place, same].items()


def test_datasets_with_a_loader_have_its_name():
    without = {"average", "boolq"}
    assert {number.dataset for number in published("")} - without <= set(known("data"))


def test_numbers_are_in_percent_as_printed():
    (number,) = [
        n
        for n in published(table="transfer")
        if (n.dataset, n.method) == ("trivia_qa", "fasb-probe")
    ]
    assert number.value == 67.55
