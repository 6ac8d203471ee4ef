"""Feature-guided activation additions, FGAA: a mean difference, in features of an autoencoder.

Source: Soo et al., arXiv 2501.09929 (docs/method.md 3.19). Of the difference mean(true) -
mean(false) in features of a sparse autoencoder of one layer's residual stream, features that are
active on most texts are left out, the k largest of the rest kept, and decoded: v = sum_i d_i
W_dec[i]; x <- x + alpha v from the answer on. The paper decodes by a linear map of features'
effects, which needs a second model of them; here by the autoencoder itself.
"""

import os

from pydantic import Field

import fasb
from fasb.errors import ArtifactError
from fasb.fitting.reads import Read
from fasb.settings import Section

READ = Read("residual", "answer_end")
READS = (READ,)
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


class Settings(Section):
    """One setting; alpha is the multiplier."""

    sae: str = Field(
        description="Autoencoder: a safetensors file of W_enc [hidden, feature], b_enc, W_dec "
        "[feature, hidden], b_dec; $VARIABLES are filled in"
    )
    layer: float = Field(0.5, ge=0, le=1, description="The autoencoder's layer, share of the depth")
    k: int = Field(10, ge=1, description="Features that are kept")
    density: float = Field(0.5, gt=0, le=1, description="Share of texts above which one is dense")


def fit(training: "fasb.Training", settings: Settings) -> "fasb.Edit":
    """Return the edit of one layer.

    Raises:
        ArtifactError: the autoencoder is missing, or not one of this layer's width.
    """
    from pathlib import Path

    import numpy as np
    import torch

    from fasb.artifacts import read_tensors
    from fasb.fitting.directions import layer_at, whole_layers
    from fasb.steering.edit import Edit
    from fasb.steering.operations import Add

    path = Path(os.path.expandvars(settings.sae))
    arrays, bank = read_tensors(path)[0], training.bank(READ)
    if missing := [name for name in TENSORS if name not in arrays]:
        raise ArtifactError(f"{path}: lacks {missing[0]}; give an autoencoder of {TENSORS}")
    encode, bias, decode, centre = (arrays[name].astype(np.float64) for name in TENSORS)
    if encode.shape[0] != bank.width or decode.shape != encode.shape[::-1]:
        raise ArtifactError(
            f"{path}: of width {encode.shape[0]}, but the residual stream's is {bank.width}; give "
            "one of this model"
        )
    layer = layer_at(settings.layer, bank.n_layers)
    rows = training.train_rows(bank)
    x = bank.layer(layer)[rows, 0].astype(np.float64)
    features = np.maximum((x - centre) @ encode + bias, 0)
    label = bank.label[rows]
    difference = features[label == 1].mean(axis=0) - features[label == 0].mean(axis=0)
    difference[(features > 0).mean(axis=0) > settings.density] = 0.0
    kept = np.argsort(-abs(difference), kind="stable")[: settings.k]
    vector = (difference[kept] @ decode[kept])[None].astype(np.float32)
    return Edit.of("residual", whole_layers([layer]), Add(torch.from_numpy(vector)))
