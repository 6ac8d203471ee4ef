"""Mechanistic error reduction, MERA: as little as brings a predicted error down to a bound.

Source: Hedström et al., arXiv 2510.13290 (docs/method.md 3.10). Per layer of the residual stream a
linear probe predicts the error p = 1 - p(true). Where p exceeds the bound a, x <- x + alpha v, v
the shortest step with p(x + v) = a; elsewhere x stays. With alpha 1 the bound holds behind each
layer. The paper edits every token, chooses a among ten on calibration data, and abstains unless
the gain is sure: here tokens are edited from the answer on, a is a setting of the grid, and to
abstain is the business of what tunes it.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha 1 is the paper's closed form."""

    bound: float = Field(0.3, gt=0, lt=1, description="a, the largest predicted error that stays")
    first: float = Field(0.0, ge=0, le=1, description="First layer, share of the depth")
    last: float = Field(1.0, ge=0, le=1, description="Last layer, share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the layers."""
    import numpy as np
    import torch

    from fasb.fitting.directions import layers_between, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import ToBoundary

    probes = training.classifiers("logistic", READ)
    layers = layers_between(settings.first, settings.last, len(probes.weight))
    # p <= a where the logit of "true" is log((1 - a) / a) or more
    wanted = np.log((1 - settings.bound) / settings.bound)
    weight = torch.from_numpy(probes.weight[layers, 0].astype(np.float32))
    bias = torch.from_numpy((probes.bias[layers, 0] - wanted).astype(np.float32))
    return Edit.of("residual", whole_layers(layers), ToBoundary(weight, bias))
