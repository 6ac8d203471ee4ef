"""CASAL: one module learns to write what a steering vector would add, where it is needed.

Source: arXiv 2510.02324 (docs/method.md 3.21). v = mean(true) - mean(false) of the residual stream
behind a layer. The paper trains one module of that layer until the stream of unknown questions'
answers moves by v and that of known ones stays. Here the layer's MLP output y gets alpha (w . y) v,
with w the ridge regression of "false" (1) on "true" (0) without a constant, at every token: output
weights W become W + alpha v w'W, without a bias, so `fasb compile` writes them.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

STREAM, OUTPUT = Read("residual", "answer_end"), Read("mlp", "answer_end")
READS = (STREAM, OUTPUT)


class Settings(Section):
    """One setting; alpha 1 is what was learned."""

    layer: float = Field(0.5, ge=0, le=1, description="Which layer, as a share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer's MLP output."""
    import numpy as np
    import torch
    from sklearn.linear_model import RidgeCV

    from fasb.fitting.directions import layer_at, mean_difference, whole_layers
    from fasb.fitting.probes import unit
    from fasb.steering.edit import Edit
    from fasb.steering.operations import LowRank

    stream, output = training.bank(STREAM), training.bank(OUTPUT)
    layer = layer_at(settings.layer, output.n_layers)
    vector = mean_difference(stream, training.train_rows(stream))[layer, 0]
    rows = training.train_rows(output)
    y = output.layer(layer)[rows, 0].astype(np.float64)
    size = np.sqrt((y**2).mean()) or 1.0
    # penalties around the size of what is regressed on; leaving each answer out chooses
    ridge = RidgeCV(alphas=np.logspace(-2, 4, 13), fit_intercept=False)
    needed = ridge.fit(y / size, output.label[rows] == 0).coef_ / size
    # R' (W x - R x) with R = unit(v) and W = R + |v| w
    basis = unit(vector)
    weight = basis + np.linalg.norm(vector) * needed
    operation = LowRank(
        torch.from_numpy(basis.astype(np.float32))[None, None],
        torch.from_numpy(weight.astype(np.float32))[None, None],
        torch.zeros(1, 1),
    )
    return Edit.of("mlp", whole_layers([layer]), operation, "all")
