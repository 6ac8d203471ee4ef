"""Where a model's attention heads are: the modules whose input is the outputs of a layer's heads, side by side.

In: a Hugging Face causal LM. Out: its `Layout`. Found by structure, with one table of names; knows
no text.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from fasb.errors import ModelError

PROJECTIONS = (
    # Llama, Mistral, Mixtral, Qwen, Gemma, Phi-3, OLMo, Cohere, StarCoder 2, GPT-OSS …
    "self_attn.o_proj",
    "self_attn.out_proj",  # OPT
    "self_attn.dense",  # Phi
    "self_attention.dense",  # Falcon, Bloom
    "attention.dense",  # GPT-NeoX
    "attn.c_proj",  # GPT-2, GPT-BigCode; not `mlp.c_proj`
    "attn.out_proj",  # GPT-J, CodeGen, MPT
    "attn.attention.out_proj",  # GPT-Neo
)
"""Paths, within a decoder layer, of the projection that follows the heads. A new architecture adds
its own here."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The attention output projections, one per layer; each takes [row, token, n_heads * head_dim] (docs/method.md A2).

    `n_heads` counts query heads. `head_dim` is the projection's width over `n_heads`: not always
    hidden / heads.
    """

    projections: tuple[nn.Module, ...]
    n_heads: int
    head_dim: int

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return len(self.projections)


def layout_of(model: nn.Module) -> Layout:
    """The layout of a causal LM; `pretraining_tp` is set to 1, as above 1 the projection is bypassed (A1).

    Raises:
        ModelError: no known projection, or heads that differ between layers.
    """
    name, config = type(model).__name__, _text_config(model)
    for part in (config, *model.modules()):
        if getattr(part, "pretraining_tp", 1) != 1:
            part.pretraining_tp = 1
    projections = _projections(model, config.num_hidden_layers)
    if not projections:
        raise ModelError(
            f"{name}: no attention output projection found in its {config.num_hidden_layers} layers; add its path "
            "within a layer to PROJECTIONS in fasb/model/layout.py and a tiny config to tests/tiny.py"
        )
    widths = sorted({_width(projection) for projection in projections})
    n_heads = config.num_attention_heads
    if len(widths) > 1 or widths[0] % n_heads:
        raise ModelError(
            f"{name}: attention output projections take {', '.join(map(str, widths))} values, which is not one width "
            f"of {n_heads} heads; models whose layers differ in their heads are not supported, choose another"
        )
    return Layout(projections, n_heads, widths[0] // n_heads)


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def _projections(model: nn.Module, n_layers: int) -> tuple[nn.Module, ...]:
    """The projection of every layer of the first list of `n_layers` modules that all have one."""
    for layers in model.modules():
        if isinstance(layers, nn.ModuleList) and len(layers) == n_layers:
            for path in PROJECTIONS:
                found = tuple(_descend(layer, path) for layer in layers)
                if all(module is not None for module in found):
                    return found  # type: ignore[return-value]
    return ()


def _descend(module: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _width(projection: nn.Module) -> int:
    """Input features; GPT-2's Conv1D keeps them as `nx` and its weight the other way round."""
    return int(projection.in_features if hasattr(projection, "in_features") else projection.nx)
