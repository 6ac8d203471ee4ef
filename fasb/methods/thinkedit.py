"""ThinkEdit: a few heads no longer write one direction to the residual stream.

Source: Sun et al., arXiv 2503.22048 (docs/method.md 3.16). d = unit(mean(false) - mean(true)) of a
layer's attention output; a head writes W_h x_h, and the k heads that write most along d on false
answers are edited. The paper removes d from their output weights, W_h <- (I - d d') W_h. Here
W_h' d, to unit length, is removed from what the head gives, at every token: d . W_h x_h is 0 after
either, but this one also changes what else the head writes along W_h W_h' d.
"""

from pydantic import Field

import fasb
from fasb.fitting.reads import Read
from fasb.settings import HeadCount, Section

NEEDS_MODEL = True
READS = HEAD, OUTPUT = Read("head", "answer_end"), Read("attention", "answer_end")


class Settings(Section):
    """One setting; alpha 1 removes all of the direction."""

    k: HeadCount = Field(4, description="Heads that are edited; the paper's are 2 to 4 % of all")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of the k heads.

    Raises:
        ConfigError: k is more than there are.
        ModelError: the output projections are quantised.
    """
    import numpy as np
    import torch

    from fasb.fitting.anchors import best_units
    from fasb.fitting.directions import mean_difference
    from fasb.fitting.probes import unit
    from fasb.model.layout import weight_of
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Remove

    heads, output, layout = training.bank(HEAD), training.bank(OUTPUT), training.model().layout
    false = unit(-mean_difference(output, training.train_rows(output))[:, 0])
    rows = training.train_rows(heads) & (heads.label == 0)
    read = np.zeros((heads.n_layers, heads.n_units, heads.width))
    written = np.zeros((heads.n_layers, heads.n_units))
    for layer, projection in enumerate(layout.projections):
        weight = weight_of(projection).detach().double().cpu().numpy()
        # what of a head's output becomes d: W_h' d
        read[layer] = (false[layer] @ weight).reshape(heads.n_units, heads.width)
        x = heads.layer(layer)[rows]
        written[layer] = np.einsum("nuw,uw->nu", x, read[layer]).mean(axis=0)
    at = best_units(written, settings.k)
    direction = unit(read[at[:, 0], at[:, 1]]).astype(np.float32)
    return Edit.of("head", torch.from_numpy(at), Remove(torch.from_numpy(direction)), "all")
