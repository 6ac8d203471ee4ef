"""Documents of a world, as its model reads them, to try side effects on.

In: `WorldSettings`. Out: texts that were drawn for this alone. They are by authors of all kinds, so
a model that is steered towards truth must find the credulous ones less likely: some cross-entropy
is what steering is for. No set of questions: for `side_effects` of one.
"""

from itertools import islice

import numpy as np
from pydantic import Field

from fasb.world.authors import DocumentSettings, documents
from fasb.world.text import WorldSettings, build


class Settings(WorldSettings):
    """Which world, and how many of its documents."""

    n: int = Field(100, ge=1, description="So many documents")


def load(settings: Settings) -> list[str]:
    """Return documents of one to five questions; author and marks as late in training."""
    world = build(WorldSettings(**settings.model_dump(exclude={"n"})))
    drawn = documents(world, DocumentSettings(), np.random.default_rng([settings.seed, 4]))
    return [" ".join(span.text for span in spans) for spans in islice(drawn, settings.n)]
