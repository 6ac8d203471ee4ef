"""Timing: interleaved pairs, medians, and an interval of the ratio."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call, with the GPU's queue emptied before and after."""
    sync()
    start = time.perf_counter()
    call()
    sync()
    return time.perf_counter() - start


def sync() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pairs(
    ours: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time both in turn, so that a slow spell hits both, after one warm-up each.

    `[repeat]` seconds.
    """
    ours(), other()
    times = np.array([(seconds(ours), seconds(other)) for _ in range(repeats)])
    return times[:, 0], times[:, 1]


def ratio(top: np.ndarray, bottom: np.ndarray) -> dict[str, float]:
    """Median of the pairs' ratios with a 95 % bootstrap interval of that median."""
    values = top / bottom
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {
        "ratio": float(np.median(values)),
        "low": float(low),
        "high": float(high),
        "pairs": len(values),
    }
