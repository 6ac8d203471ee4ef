"""Edits and trackers as named tensors and a JSON layout, and back: what files hold.

Reading checks everything that a stranger's file may have wrong, so that nothing downstream has to.
"""

from collections.abc import Set as AbstractSet
from dataclasses import asdict, fields
from typing import Any, get_args

from torch import Tensor

from fasb.settings import Positions, SiteName
from fasb.steering.edit import PROMPT_END, Active, Change, Edit
from fasb.steering.fields import check_pairs, kind_of, sizes_of, tensors_of
from fasb.steering.operations import OPERATIONS
from fasb.steering.tracker import SCORES, Platt, Tracker
from fasb.textfiles import is_finite

Layout = dict[str, Any] | None
"""What the tensors are of, as JSON; None where there is no edit, or no tracker."""


def edit_layout(edit: Edit | None) -> Layout:
    """Return the sites and operations of an edit, by name."""
    if edit is None:
        return None
    changes = []
    for change in edit.changes:
        kind = kind_of(change.operation, OPERATIONS)
        changes.append({"site": change.site, "operation": kind})
    active = edit.active
    layout: dict[str, Any] = {"positions": active.positions, "changes": changes}
    # older bundles, which have none, and most new ones are read alike
    scheduled = active.schedule != PROMPT_END
    return {**layout, "schedule": list(active.schedule)} if scheduled else layout


def tracker_layout(tracker: Tracker | None) -> Layout:
    """Return the site and score of a tracker, by name, and the numbers of its calibration."""
    if tracker is None:
        return None
    layout: dict[str, Any] = {"site": tracker.site, "score": kind_of(tracker.score, SCORES)}
    if tracker.calibration is not None:
        layout["calibration"] = asdict(tracker.calibration)
    return layout


def edit_tensors(edit: Edit | None, name: str = "edit") -> dict[str, Tensor]:
    """Return the tensors of an edit: `{name}.{number}.at`, `{name}.{number}.{field}`."""
    tensors = {}
    for i, change in enumerate(edit.changes if edit is not None else ()):
        tensors[f"{name}.{i}.at"] = change.at
        for field, value in tensors_of(change.operation).items():
            tensors[f"{name}.{i}.{field}"] = value
    return tensors


def tracker_tensors(tracker: Tracker | None, name: str = "tracker") -> dict[str, Tensor]:
    """Return the tensors of a tracker: `{name}.at`, `{name}.{field}`."""
    if tracker is None:
        return {}
    own = {f"{name}.{field}": value for field, value in tensors_of(tracker.score).items()}
    return {f"{name}.at": tracker.at, **own}


def read_edit(layout: Any, tensors: dict[str, Tensor], name: str = "edit") -> Edit | None:
    """Return the edit of a layout and tensors.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another shape or type, or not finite.
        BundleError: it is no edit, whatever its types are.
    """
    if layout is None:
        return None
    _check_keys(layout, {"positions", "changes", "schedule"}, name)
    changes = []
    for i, change in enumerate(layout["changes"]):
        _check_keys(change, {"site", "operation"}, f"{name}.{i}")
        operation = _read_part(OPERATIONS[change["operation"]], f"{name}.{i}", tensors)
        site, at = _read_units(change["site"], f"{name}.{i}", tensors)
        changes.append(Change(site, at, operation))
    schedule = layout.get("schedule", list(PROMPT_END))
    if layout["positions"] not in get_args(Positions):
        raise ValueError(f"{name}.positions {layout['positions']!r}")
    # the very type: true is an int as well
    if not isinstance(schedule, list) or any(type(one) not in (int, float) for one in schedule):
        raise ValueError(f"{name}.schedule is no list of numbers")
    return Edit(tuple(changes), Active(layout["positions"], tuple(map(float, schedule))))


def read_tracker(layout: Any, tensors: dict[str, Tensor], name: str = "tracker") -> Tracker | None:
    """Return the tracker of a layout and tensors.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another shape or type, or not finite.
    """
    if layout is None:
        return None
    _check_keys(layout, {"site", "score", "calibration"}, name)
    score = _read_part(SCORES[layout["score"]], name, tensors)
    site, at = _read_units(layout["site"], name, tensors)
    return Tracker(site, at, score, _read_calibration(layout.get("calibration"), name))


def _read_calibration(layout: Any, name: str) -> Platt | None:
    if layout is None:
        return None
    _check_keys(layout, {"slope", "intercept"}, f"{name}.calibration")
    numbers = {key: layout[key] for key in ("slope", "intercept")}
    for key, value in numbers.items():
        if not is_finite(value):
            raise ValueError(f"{name}.calibration.{key} is no finite number")
    return Platt(**{key: float(value) for key, value in numbers.items()})


def _read_units(site: Any, name: str, tensors: dict[str, Tensor]) -> tuple[SiteName, Tensor]:
    at = tensors[f"{name}.at"]
    try:
        check_pairs(site, at)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return site, at


def _read_part(kind: type[Any], name: str, tensors: dict[str, Tensor]) -> Any:
    """Return an operation or a score; its tensors must be finite and of one length."""
    found = {}
    for field in fields(kind):
        value = tensors[f"{name}.{field.name}"]
        if not value.is_floating_point():
            raise ValueError(f"{name}.{field.name} is of type {value.dtype}")
        if not value.isfinite().all():
            raise ValueError(f"{name}.{field.name} is not finite")
        found[field.name] = value
    try:
        sizes = sizes_of(kind, found)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    n_units = len(tensors[f"{name}.at"])
    if sizes["n"] != n_units or 0 in sizes.values():
        raise ValueError(f"{name} is of shape {sizes}, but has {n_units} units")
    return kind(**found)


def _check_keys(layout: Any, known: AbstractSet[str], name: str) -> None:
    if not isinstance(layout, dict):
        raise ValueError(f"{name} is no mapping")
    if unknown := sorted(layout.keys() - known):
        raise ValueError(f"{name}.{unknown[0]}: unknown key")
