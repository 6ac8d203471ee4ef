"""Gradient-refined adaptive steering, G-ACT: a classifier picks one of several vectors, per layer.

Source: arXiv 2506.18887 (docs/method.md 3.9). Per layer, the questions' differences mean(true) -
mean(false) of the residual stream are cut into clusters; a multinomial logistic regression tells
from a state which cluster its question is in, and x <- x + alpha c, c the centre of the likeliest.
The paper refines its classifiers by gradient while it decodes; here they stay as fitted.
"""

from typing import TYPE_CHECKING

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import Section

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


READ = Read("residual", "answer_end")
READS = (READ,)


class Settings(Section):
    """One setting; alpha is the multiplier."""

    clusters: int = Field(3, ge=1, description="Clusters of questions, in every layer")
    first: float = Field(0.3, ge=0, le=1, description="First layer, share of the depth")
    last: float = Field(0.6, ge=0, le=1, description="Last layer, share of the depth")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the layers."""
    import numpy as np
    import torch

    from fasb.fitting.clusters import cluster_questions
    from fasb.fitting.directions import layers_between, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import ByClass

    bank = training.bank(READ)
    train, nothing = training.train_rows(bank), np.zeros(len(bank.label), dtype=bool)
    layers = layers_between(settings.first, settings.last, bank.n_layers)
    parts = []
    for layer in layers:
        cluster, centres = cluster_questions(bank, train, nothing, layer, settings.clusters)
        # unit 0 is the whole layer; -1: not fitted on, or a question without both kinds of answer
        known, own = cluster[:, 0] >= 0, cluster[:, 0]
        weight, bias = _classifier(bank.layer(layer)[known, 0], own[known], settings.clusters)
        parts.append((weight, bias, centres[0]))
    tensors = [torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*parts)]
    return Edit.of("residual", whole_layers(layers), ByClass(*tensors))


def _classifier(
    x: "Float[np.ndarray, 'answer width']", cluster: "Int[np.ndarray, ' answer']", n: int
) -> "tuple[Float[np.ndarray, 'class width'], Float[np.ndarray, ' class']]":
    """Return weights and biases of each cluster; one that has no question is never picked."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.zeros((n, x.shape[1])), np.full(n, -1e9)
    classes = np.unique(cluster)
    bias[classes] = 0.0
    if len(classes) > 1:
        fitted = LogisticRegression(max_iter=1000).fit(x.astype(np.float64), cluster)
        # of two classes only the second has a weight
        several = classes if len(classes) > 2 else classes[1:]
        weight[several], bias[several] = fitted.coef_, fitted.intercept_
    return weight, bias
