"""Styles of methods by name, as the default study's config has them."""

from collections.abc import Sequence
from typing import Any

from fasb.study.styles import MethodStyle


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
