"""What a bundle is, in one screen.

In: a bundle. Out: what it holds and what was measured of it, as plain values and as lines of at
most 40 columns where nothing in it is longer. Knows no model.
"""

import textwrap
from collections import Counter
from typing import Any

from fasb.steering.bundle import Bundle
from fasb.steering.edit import PROMPT_END, Edit
from fasb.steering.fields import kind_of
from fasb.steering.operations import OPERATIONS
from fasb.steering.tracker import SCORES
from fasb.user.evaluation import LABELS

NAMES = 9
"""Columns of the names at the left."""
WIDTH = 40


def described(bundle: Bundle) -> dict[str, Any]:
    """Return what a bundle is, as values that JSON knows; None where it has or knows nothing."""
    about, prompt = bundle.about or {}, bundle.prompt
    made_for, tracker, edit = bundle.fingerprint, bundle.tracker, bundle.edit
    changes = []
    for change in edit.changes if edit is not None else ():
        operation = kind_of(change.operation, OPERATIONS)
        layers = sorted(set(change.at[:, 0].tolist()))
        changes.append(
            {"site": change.site, "operation": operation, "n": len(change.at), "layers": layers}
        )
    seen = None
    if tracker is not None:
        kind = kind_of(tracker.score, SCORES)
        seen = {"site": tracker.site, "score": kind, "n": len(tracker.at)}
    return {
        "model": None if made_for is None else made_for.model,
        "revision": None if made_for is None else made_for.revision or None,
        "weights": None if made_for is None else made_for.weights or None,
        "prompt": {"chat": prompt.chat, "system": prompt.system, "question": prompt.question},
        "edit": None if edit is None else _places(edit) | {"changes": changes},
        "tracker": seen,
        "auc": about.get("tracker", {}).get("auc"),
        "policy": bundle.policy.as_dict(),
        "tokens": bundle.decoding.tokens,
        "tuned": about.get("tuned"),
        "questions": _counts(about),
        "held_out": about.get("held_out"),
    }


def _places(edit: Edit) -> dict[str, Any]:
    """Return at which tokens, and of a schedule with which shares."""
    active = edit.active
    shares = {} if active.schedule == PROMPT_END else {"schedule": list(active.schedule)}
    return {"positions": active.positions, **shares}


def as_text(bundle: Bundle) -> str:
    """Return the description as aligned lines, percentages with their intervals."""
    found = described(bundle)
    lines = [
        *_line("model", found["model"] or "any"),
        *_line("", f"revision {found['revision'][:12]}" if found["revision"] else ""),
        *_line("", f"weights {found['weights'][:12]}" if found["weights"] else ""),
        *_line("prompt", _prompt(found["prompt"])),
        *_line("edit", _edit(found["edit"])),
        *_line("tracker", _tracker(found["tracker"], found["auc"])),
        *_line("policy", _policy(found["policy"])),
        *_line("tuned on", _tuned(found["tuned"], found["questions"])),
    ]
    measured = _held_out(found["held_out"], found["questions"])
    return "\n".join([*lines, *measured])


def _counts(about: dict[str, Any]) -> dict[str, int] | None:
    """Return how many questions were fitted on, tuned on and held out; not which."""
    counted = about.get("questions")
    if not counted:
        return None
    return {name: counted[name] for name in ("train", "validation", "test") if name in counted}


def _line(name: str, text: str) -> list[str]:
    """Return a name and its text, wrapped behind it; nothing where there is no text."""
    if not text:
        return []
    indent = " " * NAMES
    return textwrap.wrap(text, WIDTH, initial_indent=name.ljust(NAMES), subsequent_indent=indent)


def _prompt(prompt: dict[str, Any]) -> str:
    if prompt["chat"] == "on":
        system = f"; system: {prompt['system']}" if prompt["system"] else ""
        return f"chat template of the model{system}"
    return f"plain text: {prompt['question']}"


def _edit(edit: dict[str, Any] | None) -> str:
    if edit is None:
        return "none"
    kinds: Counter[str] = Counter()
    layers: set[int] = set()
    for change in edit["changes"]:
        kinds[f"{change['operation']} at {change['site']}"] += change["n"]
        layers.update(change["layers"])
    each = ", ".join(f"{kind} ({n})" for kind, n in kinds.items())
    several = f"layers {min(layers)} to {max(layers)}"
    which = several if len(layers) > 1 else f"layer {min(layers)}"
    where = f"{each}; {which}; {edit['positions']}"
    shares = edit.get("schedule")
    if shares is None:
        return where
    # a long one is in full for a while
    n_full = next((i for i, share in enumerate(shares) if share != 1), len(shares))
    if n_full == len(shares) - 1:
        return f"{where}, {n_full} tokens in full, then times {shares[-1]:g}"
    listed = ", ".join(f"{share:g}" for share in shares[:-1])
    return f"{where}, times {listed}, then {shares[-1]:g}"


def _tracker(tracker: dict[str, Any] | None, auc: float | None) -> str:
    if tracker is None:
        return "none"
    known = "" if auc is None else f"; AUC {auc:.2f} held out"
    return f"{tracker['score']} at {tracker['site']} ({tracker['n']}){known}"


def _policy(policy: dict[str, Any]) -> str:
    """Return when it steers and how strongly; of the rest only what counts then."""
    in_proportion = policy["adaptive"] and policy["when"] in ("token", "prompt")
    strength = f"alpha {policy['alpha']:g}" + (" x p" if in_proportion else "")
    if policy["when"] == "never":
        return "does not steer"
    if policy["best_of"] > 1:
        strength += f"; the best of {policy['best_of']} draws by p at their end"
    if policy["resample"]:
        strength += f", resampled every {policy['s']} tokens"
    if policy["guide"]:
        strength = f"the token of {policy['among']} with the best log p - {policy['guide']:g} p"
    if policy["abstain"]:
        strength = "declined"
    if policy["when"] == "always":
        later = f" after {policy['after']} tokens" if policy["after"] else ""
        return f"always{later}, {strength}"
    if policy["when"] == "oracle":
        return f"where a judge finds the answer not true, its last {policy['s']} tokens: {strength}"
    if policy["when"] == "prompt":
        return f"where p > {policy['beta']:g} after the question: {strength}"
    back = f"{policy['s']} tokens back" if policy["backtrack"] else "none taken back"
    return f"where p > {policy['beta']:g}: {back}, {strength}"


def _tuned(tuned: dict[str, Any] | None, n: dict[str, int] | None) -> str:
    if not tuned:
        return "nothing that is known"
    judge = f" by {tuned['judge']['use']}" if tuned.get("judge") else ""
    of = f" of {n['validation']} questions" if n else ""
    fitted = f"; fitted on {n['train']}" if n else ""
    return f"{LABELS.get(tuned['on'], tuned['on'])}{judge}{of}{fitted}"


def _held_out(measures: list[dict[str, Any]] | None, n: dict[str, int] | None) -> list[str]:
    """Return one line or two for each measure: without and with the bundle, and the interval."""
    if not measures:
        return _line("held out", "nothing was measured with this policy")
    lines = _line("held out", f"{n['test']} questions, %" if n else "%")
    for one in measures:
        name = LABELS.get(one["name"], one["name"])
        shares = f"{100 * one['unsteered']:5.1f} to {100 * one['steered']:5.1f}"
        lines.append(f"  {name:11}{shares}")
        if one["low"] is not None and one["high"] is not None:
            ends = f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}"
            lines.append(f"{'':13}95 %: {ends}")
    return lines
