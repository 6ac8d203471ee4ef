"""How methods appear in print: label, role, colour and order, as their config entries say.

In: the entries of `run.methods`. Out: one `MethodStyle` each. Tables, figures and the report know
of a method what stands here and nothing else; its name decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

GREY = "#999999"
"""Of methods that the config gives no colour: the story is told by the coloured ones."""


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """A method in print.

    steers: false for the unsteered model, which others are compared with. gated: its policy reads p
    while the answer is written.
    """

    name: str
    label: str
    role: Literal["main", "ablation", "control"] = "main"
    colour: str = GREY
    steers: bool = True
    gated: bool = False


def styles_of(methods: Sequence["MethodStyle | str"]) -> tuple[MethodStyle, ...]:
    """Return the styles as they are; names alone get one by today's names, until configs say it.

    This is the only place outside methods/, gates/ and the config that knows a method's name.
    """
    return tuple(one if isinstance(one, MethodStyle) else _by_name(one) for one in methods)


def _by_name(name: str) -> MethodStyle:
    known: dict[str, dict[str, Any]] = {
        "unsteered": {"label": "Unsteered", "colour": "#000000", "steers": False},
        "iti": {"label": "ITI", "colour": "#0072B2"},
        "caa": {"label": "CAA", "colour": "#56B4E9"},
        "fasb": {"label": "FASB", "colour": "#D55E00", "gated": True},
        "fasb-probe": {"label": "FASB-Probe", "colour": "#D55E00", "gated": True},
        "fasb-prototype": {"label": "FASB-Prototype", "colour": "#E69F00", "gated": True},
    }
    if name in known:
        return MethodStyle(name, **known[name])
    plain = name.removesuffix("-same").removeprefix("without-").replace("-", " ")
    if name.startswith("without-"):
        same = " (same setting)" if name.endswith("-same") else ""
        return MethodStyle(name, f"w/o {plain}{same}", "ablation", gated=True)
    label = plain[:1].upper() + plain[1:]
    gates = {"all-fixed": False, "after-question": True}
    return MethodStyle(
        name, label, "ablation" if name in gates else "main", gated=gates.get(name, False)
    )


def names_of(styles: Sequence[MethodStyle], *roles: str) -> list[str]:
    """Return the names of the methods of some roles, or of all, in the config's order."""
    return [style.name for style in styles if not roles or style.role in roles]


def first_gated(styles: Sequence[MethodStyle]) -> str | None:
    """Return the first main method that reads p, what the study is about; else any that does."""
    gated = [style for style in styles if style.gated]
    ranked = sorted(gated, key=lambda style: style.role != "main")
    return ranked[0].name if ranked else None


def with_styles(rows: pd.DataFrame, styles: Sequence[MethodStyle]) -> pd.DataFrame:
    """Return rows that have a column `method` with its label, colour and place in the config.

    So the CSV of a figure or table holds all that is drawn and printed of it.
    """
    if rows.empty:
        return rows
    at = {style.name: place for place, style in enumerate(styles)}
    place = rows["method"].map(at)
    label = rows["method"].map({style.name: style.label for style in styles})
    colour = rows["method"].map({style.name: style.colour for style in styles})
    return rows.assign(label=label, colour=colour, place=place)
