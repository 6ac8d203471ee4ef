"""What `fasb fit` found, in a few lines; the first says whether steering helps.

In: a bundle's `about`. Out: text. The only place that puts the figures of a fit into words.
"""

from collections.abc import Mapping
from typing import Any

from fasb.errors import BundleError
from fasb.steering.bundle import Bundle
from fasb.user.evaluation import LABELS, Measure
from fasb.user.guards import REASONS

GOOD = ("true", "info", "true_info", "mc1", "mc2", "mc3", "mc2_as_generated")
"""Measures of which more is better."""
SHOWN = ("true_info", "mc1", "mc2", "mc2_as_generated", "steered", "changed", "degenerate")
"""Measures of the questions held out that are printed."""


NEEDED = ("tracker", "tuned", "held_out", "questions", "controls", "examples", "broken")
"""Keys of `about` that a fit writes."""


def report(bundle: Bundle) -> str:
    """Say in a few lines what `bundle.about` holds; the first says whether steering helps.

    Raises:
        BundleError: it is not as `fasb.fit` gave it.
    """
    about = bundle.about or {}
    if any(key not in about for key in NEEDED):
        raise BundleError(
            "bundle: not as fasb.fit gave it, so nothing was measured with it (another policy "
            "drops what was measured); measure it by fasb.evaluate"
        )
    lines = [_verdict(bundle), *_tracker(about["tracker"]), *_setting(about)]
    # the point of not steering is empty
    if not about["tuned"]["point"]:
        return "\n".join(lines)
    for found in _measures(about):
        if found.name in (*SHOWN, about["tuned"]["on"]):
            shares = f"{100 * found.unsteered:5.1f} to {100 * found.steered:5.1f} %"
            lines.append(f"held out  {LABELS[found.name]:16} {shares}  ({_interval(found)})")
    lines.append(f"          n = {_n(about, 'test')} held out")
    controls = about["controls"]
    lines.append(
        f"controls  of {controls['n']} everyday questions held out {_share(controls['changed'])} "
        f"changed, {controls['degenerate']} newly empty or repeating"
    )
    for row in about["examples"]:
        lines.append(f"example   {_line(row['question'])}")
        lines += [f"          {side}: {_line(row[side])}" for side in ("unsteered", "steered")]
    return "\n".join(lines)


ROUNDING = 1e-6
"""A share by which measures differ where they are the same: scores are summed in float32."""


def harms(about: Mapping[str, Any], touch: float) -> list[str]:
    """Return what got worse on questions and controls held out, in words; nothing if nothing did.

    A measure counts where its whole interval lies on the wrong side, by more than rounding.
    """
    found = []
    for one in _measures(about):
        if one.name in GOOD and one.high is not None and one.high < -ROUNDING:
            found.append(f"{LABELS[one.name]} {100 * one.difference:+.1f} points ({one.interval})")
    if about["broken"]:
        found.append(f"{about['broken']} answers became empty or repeating")
    controls = about["controls"]
    if controls["changed"] > touch:
        found.append(f"{_share(controls['changed'])} of control answers changed")
    if controls["degenerate"]:
        found.append(f"{controls['degenerate']} control answers became empty or repeating")
    return found


def _verdict(bundle: Bundle) -> str:
    """Say whether steering helps, by what was held out, and what to do if not."""
    about = bundle.about or {}
    tuned, name = about["tuned"], LABELS[about["tuned"]["on"]]
    if not tuned["point"]:
        return f"DOES NOT HELP: {_why_none(tuned)}, so this bundle does not steer"
    if bad := harms(about, tuned["touch"]):
        return f"HARMS: held out, {'; '.join(bad)}; so this bundle does not steer"
    found = next(one for one in _measures(about) if one.name == tuned["on"])
    gain = f"{name} {100 * found.difference:+.1f} points held out ({_interval(found)})"
    if found.low is not None and found.low > ROUNDING:
        return f"HELPS: {gain}"
    return f"NO CLEAR EFFECT: {gain}; hold more questions out, or do not steer"


def _why_none(tuned: Mapping[str, Any]) -> str:
    """Say why nothing was chosen, and what may change that."""
    n_out = sum(tuned["out"].values())
    if tuned["out"].get("touch", 0) == tuned["settings"]:
        return (
            f"no threshold leaves {100 * (1 - tuned['touch']):g} % of the answers alone that "
            "should stay; give more control questions (--controls) or raise touch"
        )
    if n_out == tuned["settings"]:
        return "every setting broke a guard; try smaller grid.alpha in --settings"
    if not tuned["fired"]:
        return (
            "under thresholds that leave other answers alone, no answer to the questions to tune "
            "is steered; give more questions, so that the tracker gets better, or raise touch"
        )
    return (
        f"of {tuned['settings']} settings none that keeps within the guards had a better "
        f"{LABELS[tuned['on']]} than the model as it is on the questions to tune; give more "
        "questions, or another grid in --settings"
    )


def _tracker(tracker: Mapping[str, Any]) -> list[str]:
    best = tracker["heads"][:4]
    heads = ", ".join(f"{layer}.{head} {_share(share)}" for layer, head, share in best)
    auc = "one class only" if tracker["auc"] is None else f"{tracker['auc']:.2f}"
    before, after = tracker["ece"]
    tied = ", ".join(f"{layer}.{head}" for layer, head in tracker["tied"])
    ties = f"; as accurate as the last anchor, but left out: {tied}" if tied else ""
    return [
        f"tracker   best heads (layer.head): {heads} of {tracker['n_validation']} states told "
        f"right, chance {100 * tracker['chance']:.0f} %; AUC of p on {tracker['n_test']} states "
        f"held out: {auc}; calibration error {before:.2f}, calibrated {after:.2f}{ties}"
    ]


def _setting(about: Mapping[str, Any]) -> list[str]:
    tuned = about["tuned"]
    point = ", ".join(f"{name} {value:g}" for name, value in tuned["point"].items()) or "none"
    lines = [
        f"setting   {point}: {LABELS[tuned['on']]} {100 * tuned['unsteered']:.1f} to "
        f"{100 * tuned['value']:.1f} % on {_n(about, 'validation')}, best of "
        f"{tuned['settings']} settings and none; {_share(tuned['steered'])} of free answers steered"
    ]
    for reason, count in tuned["out"].items():
        lines.append(f"          {count} settings left out: {REASONS[reason]}")
    for name in about["edge"]:
        lines.append(
            f"          {name} is the smallest or largest that was tried; if answers are still "
            f"fluent, widen grid.{name} in --settings"
        )
    return lines


def _n(about: Mapping[str, Any], part: str) -> str:
    """Return how many questions a part has; multiple choice is over those with false answers."""
    n = about["questions"][part]
    choices = about["questions"].get("choices", {}).get(part, n)  # older bundles do not say
    few = f" ({choices} of them with false answers, for MC)" if 0 < choices < n else ""
    return f"{n} questions{few}"


def _measures(about: Mapping[str, Any]) -> list[Measure]:
    return [Measure(**one) for one in about["held_out"]]


def _interval(found: Measure) -> str:
    return f"95 % interval of the difference: {found.interval}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _line(text: str) -> str:
    """Return a text on one line, its end cut off where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:159] + "…"
