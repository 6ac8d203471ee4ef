"""The probes' own benchmark runs, on sizes that say nothing about speed; memory is that of one layer."""

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_bank

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import probes_case

from fasb.fitting.probes import fit_probes
from fasb.settings import ProbeSettings


@pytest.mark.parametrize("kind", probes_case.KINDS)
def test_every_kind_of_head_outputs_gives_a_ratio(kind):
    row = probes_case.sklearn_over_probes(1, n_answers=200, n_heads=3, head_dim=8, kind=kind)
    assert 0 < row["low"] <= row["ratio"] <= row["high"]


def test_the_bank_on_disk_is_fitted():
    found = probes_case.peak_memory(n_answers=300, n_layers=2, n_heads=2, head_dim=8)
    assert 0 < found["bank_gib"] < found["peak_gib"]


def test_memory_of_a_fit_does_not_grow_with_the_layers(tmp_path, monkeypatch):
    bank = tiny_bank(tmp_path / "bank.h5")
    large = np.random.default_rng(0).normal(size=(len(bank.label), 64, 32)).astype(np.float32)
    monkeypatch.setattr(type(bank), "layer", lambda self, i: large.copy())

    def peak(n_layers):
        object.__setattr__(bank, "n_layers", n_layers)
        tracemalloc.start()
        fit_probes(bank, np.ones(len(bank.label), dtype=bool), ProbeSettings())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(2), peak(8)
    assert many < few + large.nbytes / 2
