"""A look at a model that was just loaded: what it gives a row may not depend on rows beside it.

In: a model. Out: nothing, or one line that says why it cannot be batched. Three short passes
compare short rows behind padding and a cache with the same rows alone: decoders that count
positions from the cache's slots, as BART's do, give left-padded rows other answers without a word.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fasb.errors import ModelError
from fasb.model.batch import batch_of, forward, keys_and_values, prefix_of
from fasb.model.load import LoadedModel

TEXT = "The sky above the old town was blue, and nobody in its streets had seen any rain all week."
SHORT, LONG = 4, 24
"""Tokens of the rows that are padded, and of the row that they are padded for."""
EXACT, ROUGH = 0.01, 0.125
"""Most that logits may differ, as a share of how they spread: for whole and for half precision."""


@torch.no_grad()
def check_rows(model: LoadedModel, name: str) -> None:
    """Refuse a model whose left-padded rows do not get what they get alone.

    Raises:
        ModelError: naming its class and what goes wrong.
    """
    kind, rows = type(model.model).__name__, _rows(model)
    try:
        together = _behind_a_cache(model, rows)
        ids = torch.tensor(rows[1:], device=model.device)
        alone = model.model(input_ids=ids, use_cache=False).logits[:, -1]
    except (ModelError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:150]
        raise ModelError(
            f"{name}: a {kind} cannot read left-padded rows behind a cache of keys and values "
            f"({type(error).__name__}: {said}); it is not supported, choose another model"
        ) from error
    if together is None:
        raise ModelError(
            f"{name}: a {kind} keeps no keys and values of what it has read, and cannot be stepped "
            "back; it is not supported, choose another model"
        )
    if _differ(model, together, alone):
        raise ModelError(
            f"{name}: a {kind} gives a left-padded row other logits than the row alone, as it "
            "counts positions from the padding on; answers would depend on the batch, choose "
            "another model"
        )


def _rows(model: LoadedModel) -> list[list[int]]:
    """Return a long row and three short ones of any text's tokens."""
    known = len(model.model.get_input_embeddings().weight)
    text = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    tokens = [token for token in text if token < known] or [0]
    tokens = (tokens * LONG)[: LONG + SHORT]
    return [tokens[:LONG], *(tokens[at : at + SHORT] for at in (0, 9, 18))]


def _behind_a_cache(
    model: LoadedModel, rows: list[list[int]]
) -> Float[Tensor, "short vocab"] | None:
    """Return the short rows' last logits, their last tokens run behind the others.

    None where nothing was kept.
    """
    beginnings = [row[:-1] for row in rows]
    batch = batch_of(model, beginnings)
    forward(model, batch, keep=1)
    if not keys_and_values(batch.cache):
        return None
    begins = [(i, len(beginning)) for i, beginning in enumerate(beginnings)]
    last = batch_of(model, rows, prefix_of(beginnings, batch), begins)
    return forward(model, last, keep=1)[1:, -1]


def _differ(model: LoadedModel, found: Tensor, expected: Tensor) -> bool:
    """Whether all rows differ by more than rounding does.

    Not any: in half precision a router of experts may decide otherwise for one.
    """
    config: Any = model.model.config
    rough = torch.finfo(model.model.dtype).eps > 1e-5
    rough = rough or getattr(config, "quantization_config", None) is not None
    found, expected = found.double(), expected.double()
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    # what is not a number is refused where it is read, and says more there
    return bool(((found - expected).norm(dim=-1) / spread).min() > (ROUGH if rough else EXACT))
