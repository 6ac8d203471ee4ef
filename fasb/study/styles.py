"""How methods appear in print: label, role, colour and order, as their config entries say.

In: the entries of `run.methods`. Out: one `MethodStyle` each. Tables, figures and the report know
of a method what stands here and nothing else; its name decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from fasb.search import GREY, Method


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """A method in print.

    steers: false for the unsteered model, which others are compared with. gated: its policy reads p
    while the answer is written. crossed: its row and column in a crossing, as printed.
    """

    name: str
    label: str
    role: Literal["main", "ablation", "control"] = "main"
    colour: str = GREY
    steers: bool = True
    gated: bool = False
    crossed: tuple[str, str] | None = None


def styles_of(methods: Mapping[str, Method]) -> tuple[MethodStyle, ...]:
    """Return the styles of a run's methods, in its order."""
    found = []
    for name, method in methods.items():
        label = method.label or name
        style = MethodStyle(
            name,
            label,
            method.role,
            method.colour,
            steers=method.steers,
            gated=method.gated,
            crossed=method.crossed,
        )
        found.append(style)
    return tuple(found)


def names_of(styles: Sequence[MethodStyle], *roles: str) -> list[str]:
    """Return the names of the methods of some roles, or of all, in the config's order."""
    return [style.name for style in styles if not roles or style.role in roles]


def labels_of(styles: Sequence[MethodStyle]) -> dict[str, str]:
    """Return the methods' names in print."""
    return {style.name: style.label for style in styles}


def first_unsteered(styles: Sequence[MethodStyle]) -> str | None:
    """Return the unsteered model, which others are compared with; None where it is no method."""
    return next((style.name for style in styles if not style.steers), None)


def first_gated(styles: Sequence[MethodStyle]) -> str | None:
    """Return the first main method that reads p, what the study is about; else any that does."""
    gated = [style for style in styles if style.gated]
    # sorting is stable: within a role the config's order stays
    ranked = sorted(gated, key=lambda style: style.role != "main")
    return ranked[0].name if ranked else None


def with_styles(rows: pd.DataFrame, styles: Sequence[MethodStyle]) -> pd.DataFrame:
    """Return rows that have a column `method` with its label, colour and place in the config.

    So the CSV of a figure or table holds all that is drawn and printed of it.
    """
    if rows.empty:
        return rows
    looks = pd.DataFrame([(style.name, style.label, style.colour) for style in styles])
    looks = looks.set_axis(["method", "label", "colour"], axis=1).reset_index(names="place")
    return rows.merge(looks, on="method", how="left")
