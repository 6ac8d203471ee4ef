"""`make bench`: print one table of ratios, and write results.{json,md,png} beside this file.

Ratios are of interleaved pairs in this run; what they compare and their bars are in
docs/benchmarks.md.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from cases import (
    choices_over_limit,
    edit_over_plain,
    extract_over_forward,
    generate_over_plain,
    grid_over_tokens,
    live_over_limit,
    loop_over_engine,
    mc_over_limit,
    scaling,
    share_of_bandwidth,
)
from subjects import subject

from fasb.artifacts import write_json
from fasb.provenance import surroundings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
HERE = Path(__file__).parent

BARS = {
    "live_over_limit": "<= 1.05",
    "edit_over_plain": "<= 1.03",
    "generate_over_plain": "",
    "loop_over_engine": ">= 20",
    "grid_over_tokens": "<= 1.0",
    "choices_over_limit": "<= 1.1",
    "mc_over_limit": "<= 1.1",
    "extract_over_forward": "<= 1.1",
}
GPU_BARS = {
    **BARS,
    "loop_over_engine": ">= 200",
    "bandwidth_share": ">= 0.6",
}


def cases(device: str, repeats: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every case with its subject; the 60M shape on a CPU, the 7B shape on a GPU."""
    from reference_loop import answer as loop

    shape = "60m" if device == "cpu" else "7b"
    batch, batches = (16, 4) if device == "cpu" else (256, 2)
    large = subject(shape, batches * batch, batch=batch, device=device)
    small = subject("world", 256, device=device)
    return {
        "live_over_limit": lambda: live_over_limit(large, repeats),
        "edit_over_plain": lambda: edit_over_plain(large, repeats),
        "generate_over_plain": lambda: generate_over_plain(large, repeats),
        "loop_over_engine": lambda: loop_over_engine(
            small if device == "cpu" else large, repeats, loop
        ),
        "grid_over_tokens": lambda: grid_over_tokens(small if device == "cpu" else large, repeats),
        "choices_over_limit": lambda: choices_over_limit(
            small if device == "cpu" else large, repeats
        ),
        "mc_over_limit": lambda: mc_over_limit(large, repeats),
        "extract_over_forward": lambda: extract_over_forward(large, repeats),
        "bandwidth_share": lambda: share_of_bandwidth(large, repeats),
        "scaling": lambda: scaling(small, large, repeats),
    }


def main() -> None:
    """Run the chosen cases and write what was measured, with its conditions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="Names of cases")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="Without suffix")
    options = parser.parse_args()
    bars = BARS if options.device == "cpu" else GPU_BARS
    run = cases(options.device, options.repeats)
    chosen = options.only or [*bars, "scaling"]
    measured: dict[str, dict[str, Any]] = {}
    print(HEADER)
    for name in chosen:
        measured[name] = run[name]()
        if name in bars:
            print(line(name, bars[name], measured[name]), flush=True)
        save(options, measured, bars)  # at every case, so that a run that is cut short is not lost


def save(
    options: argparse.Namespace, measured: dict[str, dict[str, Any]], bars: dict[str, str]
) -> None:
    """Write what was measured so far, with its conditions: JSON, table and picture."""
    payload = {
        "measured": measured,
        "device": options.device,
        "threads": torch.get_num_threads(),
        **surroundings(),
    }
    write_json(options.out.with_suffix(".json"), payload, {"repeats": options.repeats})
    shown = {name: row for name, row in measured.items() if name in bars}
    rows = [line(name, bars[name], row) for name, row in shown.items()]
    options.out.with_suffix(".md").write_text("\n".join([HEADER, *rows]) + "\n")
    if shown:
        draw(shown, bars, options.out.with_suffix(".png"))


HEADER = "| case | bar | median | 95 % interval | conditions |\n|---|---|---|---|---|"


def line(name: str, bar: str, row: dict[str, Any]) -> str:
    """One row of the table."""
    more = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("ratio", "low", "high"))
    return (
        f"| {name} | {bar} | {row['ratio']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {more} |"
    )


def draw(measured: dict[str, dict[str, Any]], bars: dict[str, str], path: Path) -> None:
    """Each ratio over its bar, with its interval, on a logarithmic axis.

    The good side is the right one.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    names = [name for name in measured if bars[name]]
    figure, axes = pyplot.subplots(figsize=(6.3, 0.45 * len(names) + 0.9), layout="constrained")
    for at, name in enumerate(reversed(names)):
        sign, bar = bars[name].split()
        reached = [measured[name][key] / float(bar) for key in ("low", "ratio", "high")]
        low, middle, high = sorted(reached if sign == ">=" else [1 / value for value in reached])
        colour = "#2166ac" if high >= 1 else "#b2182b"
        axes.errorbar(
            middle, at, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3
        )
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{name}  ({bars[name]})" for name in reversed(names)])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("measured, as a share of the bar (right of 1: met)")
    figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
