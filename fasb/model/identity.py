"""What decides a model's function beside its weights: the values of its config, in one text.

In: a loaded model. Out: its fingerprint, of which the config is a part. Weights alone do not say
which angles, norms, activations, windows and scales they are computed with. Left out of the config
is what only names, trains or loads a model, and what its class does not know, so that the hub, a
folder, a GGUF file and a copy saved again agree. Knows no file.
"""

import json
from functools import cache
from typing import Any

from fasb.model.layout import Layout
from fasb.model.weights import weights_hash
from fasb.steering.fingerprint import Fingerprint

BOOKKEEPING = frozenset(
    (
        *("use_cache", "pretraining_tp", "tie_word_embeddings", "torch_dtype", "is_decoder"),
        *("add_cross_attention", "cross_attention_hidden_size", "initializer_range"),
        *("init_std", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
        # as `layer_types` and the fingerprint's shape say
        *("max_window_layers", "sliding_window_pattern", "head_dim", "num_experts"),
        "num_local_experts",
    )
)
"""Keys that decide no logit, or repeat what the weights or another key say."""

SHARED = (
    *("partial_rotary_factor", "layer_types", "attention_chunk_size", "sliding_window"),
    *("is_causal", "per_layer_config"),
)
"""Keys that code for all models asks for, though a model's class may not know them."""


def fingerprint_of(
    model: Any, layout: Layout, name: str, tokenizer: str, revision: str = ""
) -> Fingerprint:
    """Return what must agree between the model and a bundle; `tokenizer` is its hash."""
    return Fingerprint(
        model=name,
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        head_dim=layout.head_dim,
        tokenizer=tokenizer,
        revision=revision,
        weights=weights_hash(model),
        hidden=int(model.config.get_text_config(decoder=True).hidden_size),
        config=config_text(model.config),
    )


def config_text(config: Any) -> str:
    """Return JSON of the values of a model's text config that decide its logits, keys sorted.

    What is off (none, false, zero, empty) is null; numbers have six digits, as GGUF files keep them
    in 32 bits.
    """
    config = config.get_text_config(decoder=True)
    given, kind = config.to_dict(), config.__class__
    known = _keys_of(kind) or given.keys()
    values = {key: given.get(key) for key in (*known, *SHARED) if not _is_bookkeeping(key)}
    values = {key: _plain(value) or None for key, value in _with_rope(values).items()}
    return json.dumps({**values, "model_type": config.model_type}, sort_keys=True)


def _is_bookkeeping(key: str) -> bool:
    return (
        key in BOOKKEEPING
        or key in _keys_of_all()
        or key.startswith(("_", "summary_"))
        or key.endswith("_token_id")
        or "drop" in key  # there is no dropout in eval mode
    )


@cache
def _keys_of(kind: Any) -> frozenset[str]:
    """Return the keys that a class of configs knows; none of one without defaults."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # some defaults are warned of, which are not the model's
    try:
        return frozenset(kind().to_dict())
    except Exception:  # it may be somebody's own
        return frozenset()
    finally:
        logging.set_verbosity(before)


@cache
def _keys_of_all() -> frozenset[str]:
    """Return the keys of configs of every kind: labels, outputs, dtype."""
    from transformers import PreTrainedConfig

    return frozenset(PreTrainedConfig().to_dict())


def _with_rope(values: dict[str, Any]) -> dict[str, Any]:
    """Return values whose rotary ones stand in `rope_parameters`, where there are such."""
    values = dict(values)
    if set(values["layer_types"] or ()) == {"full_attention"}:
        values["layer_types"] = None  # as where nothing is said
    rope = values.get("rope_parameters")
    if not isinstance(rope, dict):
        return values
    share = values.pop("partial_rotary_factor")
    for key in ("rope_theta", "rope_scaling", "rotary_pct"):
        values.pop(key, None)
    if not any(isinstance(one, dict) for one in rope.values()):
        rope = _one_rope({"partial_rotary_factor": share, **rope})
    else:  # of each type of layer
        rope = {key: _one_rope(one) if isinstance(one, dict) else one for key, one in rope.items()}
    return {**values, "rope_parameters": rope}


def _one_rope(rope: dict[str, Any]) -> dict[str, Any]:
    # the older name of rope_type; plain rotation, and of the whole head, where nothing is said
    plain = {"type": rope.get("type"), "rope_type": "default", "partial_rotary_factor": 1.0}
    return {key: value for key, value in rope.items() if value != plain.get(key, "")}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: mappings without what is off, numbers by six digits."""
    if isinstance(value, dict):
        items = {
            str(key): _plain(item) for key, item in value.items() if not _is_bookkeeping(str(key))
        }
        return {key: item for key, item in items.items() if item}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(f"{value:.6g}")
    return value if isinstance(value, str | bool) or value is None else str(value)
