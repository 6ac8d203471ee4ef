"""Always-on steering of a transformers model, whatever calls it.

    with fasb.editing(model, bundle, strength=8):
        model.generate(**inputs)

In: a model, a bundle or an edit, a strength. Out: the same model, edited inside the block. No
tracker, no policy, no stepping back: those are `fasb.steer` and `fasb.decoding.hf.steered`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fasb.errors import BundleError, ConfigError, ModelError
from fasb.model import hooks
from fasb.model.layout import Layout, layout_of
from fasb.model.load import LoadedModel
from fasb.model.weights import weights_hash
from fasb.model.wrappers import nested, text_part, unwrap
from fasb.settings import Positions
from fasb.steering.bundle import Bundle
from fasb.steering.edit import Edit
from fasb.steering.fingerprint import Fingerprint


@contextmanager
def editing(
    model: Any,
    bundle: Bundle | Edit | str | Path,
    strength: float | int | None = None,
    siblings: bool = False,
) -> Iterator[Any]:
    """Edit every forward pass in the block; the hooks leave with it, also after an error.

    `strength`: what the edit's vectors are multiplied with, the bundle's alpha unless it is given;
    an edit by itself has none. The edit is active at the tokens it says (`Edit.positions`), for
    which a pass must go on from the cache of the one before, as `generate` does, and rows must be
    padded on the left. A pass of several tokens is taken for a prompt that ends with it, also
    behind a conversation's cache: prompts must not be read in chunks (`prefill_chunk_size`).

    Raises:
        BundleError: the bundle was made for another model, or does not steer.
        ConfigError: no strength, or one that is not a number.
        ModelError: compiled, not a causal LM of a known layout, or without the units of the edit.
    """
    inner = model.model if isinstance(model, LoadedModel) else _uncompiled(model)
    part = text_part(inner, type(inner).__name__)
    layout = layout_of(part)
    if isinstance(bundle, str | Path):
        bundle = Bundle.load(Path(bundle))
    if isinstance(bundle, Bundle):
        if strength is None and bundle.edit is not None and bundle.policy.when == "never":
            raise BundleError(
                "bundle: it is switched off (when: never), as one that did harm is; give a "
                "strength to use its edit all the same"
            )
        _check(inner, layout, bundle, siblings)
        edit, alpha = bundle.edit, bundle.policy.alpha
    else:
        edit, alpha = bundle, None
    strength = alpha if strength is None else strength
    if strength is None or not math.isfinite(strength):
        raise ConfigError(f"strength: {strength}; give a number")
    if edit is None:
        raise BundleError("bundle: it has no edit, so there is nothing to steer with; fit one")
    with hooks.editing(layout, edit) as dial:

        def dial_pass(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            dial.strength = _strengths(edit.positions, float(strength), inputs, named)

        # with_kwargs, as `generate` gives ids by keyword, which plain hooks do not see
        handle = part.register_forward_pre_hook(dial_pass, with_kwargs=True)
        try:
            yield model
        finally:
            handle.remove()


def _uncompiled(model: Any) -> Any:
    """Return the causal LM inside `model`, in which hooks fire: not where it was compiled.

    Raises:
        ModelError: it is no such model, or compiled, which would be edited without effect.
    """
    name = type(model).__name__
    if any(type(one).__name__ == "OptimizedModule" for one in nested(model, name)):
        raise ModelError(
            "editing: a model compiled by torch.compile, in which hooks do not fire; give, and "
            "call in the block, the model itself (model._orig_mod)"
        )
    return unwrap(model, name)


def _strengths(
    positions: Positions, strength: float, inputs: tuple[Any, ...], named: dict[str, Any]
) -> Float[Tensor, "row token"]:
    """Return how strongly each token of a pass is edited.

    A pass without anything in its cache reads the prompt, and so does one of several tokens behind
    a conversation's cache; its last token predicts the answer's first.
    """
    ids = inputs[0] if inputs else named.get("input_ids")
    ids = named["inputs_embeds"] if ids is None else ids
    cache = named.get("past_key_values")
    # at the prompt `generate` hands over a cache that is still empty
    goes_on = cache is not None and cache.get_seq_length() > 0 and ids.shape[1] == 1
    wanted = torch.zeros(ids.shape[:2], dtype=torch.float64, device=ids.device)
    if positions == "all" or (goes_on and positions == "from_answer"):
        wanted[:] = strength
    elif not goes_on:
        wanted[:, -1] = strength
    return wanted


def _check(model: Any, layout: Layout, bundle: Bundle, siblings: bool) -> None:
    """Refuse a bundle of another model; the tokenizer is the caller's."""
    made_for = bundle.fingerprint
    if made_for is None:
        return
    here = Fingerprint(
        model=str(getattr(model.config, "name_or_path", "")) or type(model).__name__,
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        head_dim=layout.head_dim,
        tokenizer=made_for.tokenizer,
        weights=weights_hash(model),
        hidden=int(model.config.get_text_config(decoder=True).hidden_size),
    )
    made_for.check(here, siblings)
