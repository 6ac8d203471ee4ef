"""The model as it is: what every method is compared with."""

from typing import TYPE_CHECKING

from fasb.settings import Section
from fasb.steering.policy import Policy

if TYPE_CHECKING:
    import fasb.fitting.training
    import fasb.steering.bundle


class Settings(Section):
    """Nothing to set."""


def fit(
    fitted: "fasb.fitting.training.Fitted", settings: Settings
) -> "fasb.steering.bundle.Bundle":
    """A bundle that never steers."""
    return fitted.bundle(Policy(gate="never"))
