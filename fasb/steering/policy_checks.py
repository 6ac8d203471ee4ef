"""What a policy may be: types and ranges of its fields, and what cannot be together.

Called by every `Policy` that is made, so that nothing else asks again.
"""

from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from fasb.errors import ConfigError

if TYPE_CHECKING:
    import fasb.steering.policy

STRONGEST, MOST_TOKENS, MOST_BACKTRACKS, MOST_ANSWERS = 10**6, 10**6, 1000, 1000
"""What a policy takes at most; each step back costs a forward pass over what it dropped."""


def check(policy: "fasb.steering.policy.Policy") -> None:
    """Refuse a policy that means nothing.

    Raises:
        ConfigError: naming the field, and what to set it to.
    """
    _check_types(policy)
    if not 1 <= policy.s <= MOST_TOKENS:
        raise ConfigError(
            f"policy.s: {policy.s}, but at least one token must be dropped; set s between 1 and "
            f"{MOST_TOKENS:,}"
        )
    if not 0 <= policy.beta <= 1:
        raise ConfigError(
            f"policy.beta: {policy.beta} is not a probability; set it between 0 and 1"
        )
    if not abs(policy.alpha) <= STRONGEST:
        raise ConfigError(
            f"policy.alpha: {policy.alpha} is no strength; set it between -{STRONGEST:,} and "
            f"{STRONGEST:,}"
        )
    if not 1 <= policy.backtracks <= MOST_BACKTRACKS:
        raise ConfigError(
            f"policy.backtracks: {policy.backtracks}; set it between 1 and {MOST_BACKTRACKS:,}, "
            "or `when` to 'never'"
        )
    for key, most in (("safe", policy.beta), ("release", 1)):
        value = getattr(policy, key)
        if value is not None and not 0 <= value <= most:
            raise ConfigError(
                f"policy.{key}: {value} is not between 0 and {most}; correct it or leave it out"
            )
    _check_once(policy)
    _check_choosing(policy)


def _check_types(policy: "fasb.steering.policy.Policy") -> None:
    """Refuse "false" for False, or 2.5 tokens: they would be read as something else."""
    for field in fields(policy):
        value = getattr(policy, field.name)
        if not _is_a(value, field.type):
            raise ConfigError(
                f"policy.{field.name}: {value!r} is not {_said(field.type)}; correct it"
            )


def _check_once(policy: "fasb.steering.policy.Policy") -> None:
    """Refuse what is only for policies that look at the unsteered answer alone, or at none."""
    for key, least, most in (("after", 0, MOST_TOKENS), ("best_of", 1, MOST_ANSWERS)):
        value = getattr(policy, key)
        if not least <= value <= most:
            raise ConfigError(f"policy.{key}: {value}; set it between {least} and {most:,}")
    if policy.after and policy.reads_p:
        raise ConfigError(
            "policy.after: is for what steers always and looks at no p; set `when` to 'always' "
            "without best_of, backtracks, reestimate or release, or leave it out"
        )
    if policy.when == "oracle" and not (policy.once and policy.safe is None):
        raise ConfigError(
            "policy.when: 'oracle' knows verdicts and no p; leave out backtracks, safe, "
            "reestimate and release"
        )
    if policy.abstain and not (policy.once and policy.best_of == 1):
        raise ConfigError(
            "policy.abstain: nothing is written anew; leave out best_of, backtracks, "
            "reestimate and release"
        )
    if not policy.once and policy.best_of > 1:
        raise ConfigError(
            "policy.best_of: is for what fires once; leave out backtracks, reestimate, release"
        )
    if not policy.once and policy.judged == "previous":
        raise ConfigError("policy.judged: 'previous' is for what fires once; set it to 'newest'")


def _check_choosing(policy: "fasb.steering.policy.Policy") -> None:
    """Refuse what cannot be together with choosing among texts that are being written."""
    for key in ("resample", "guide"):
        if not 0 <= getattr(policy, key) <= STRONGEST:
            raise ConfigError(
                f"policy.{key}: {getattr(policy, key)}; set it between 0 and {STRONGEST:,}"
            )
    if not 1 <= policy.among <= MOST_ANSWERS:
        raise ConfigError(f"policy.among: {policy.among}; set it between 1 and {MOST_ANSWERS:,}")
    whole = policy.when in ("always", "never") and policy.once and not policy.after
    if policy.resample and not (whole and policy.best_of > 1):
        raise ConfigError(
            "policy.resample: weighs several draws of whole answers; set `when` to 'always', "
            "and best_of to 2 or more"
        )
    if policy.guide and not (whole and policy.best_of == 1):
        raise ConfigError(
            "policy.guide: chooses every token of whole answers; set `when` to 'always', "
            "without best_of"
        )


def _said(kind: Any) -> str:
    """Return a field's type in print."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return str(getattr(kind, "__name__", kind)).replace("typing.", "")


def _is_a(value: Any, kind: Any) -> bool:
    """Return whether a value is of a field's type; True is no number, and numpy's numbers are."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):
        return any(_is_a(value, one) for one in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, {float: Real, int: Integral}.get(kind, kind))
