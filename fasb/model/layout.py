"""Where a model's activations are: for each site, one module per decoder layer.

In: a Hugging Face causal LM. Out: its `Layout`. Found by structure, with two tables of names; knows
no text.

    head        the outputs of a layer's heads side by side: what the attention's output projection
                takes (docs/method.md A2); a unit is a query head
    attention   what that projection gives
    neuron      what the feed-forward block's activation function gives
    mlp         what the feed-forward block gives
    residual    what the decoder layer gives: the residual stream behind it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from fasb.errors import ModelError
from fasb.settings import SiteName

PROJECTIONS = (
    "self_attn.o_proj",  # Llama, Mistral, Mixtral, Qwen, Gemma, Phi-3, OLMo, Cohere, GPT-OSS …
    "self_attn.out_proj",  # OPT
    "self_attn.dense",  # Phi
    "self_attention.dense",  # Falcon, Bloom
    "attention.dense",  # GPT-NeoX
    "attn.c_proj",  # GPT-2, GPT-BigCode; not `mlp.c_proj`
    "attn.out_proj",  # GPT-J, CodeGen, MPT
    "attn.attention.out_proj",  # GPT-Neo
)
"""Paths, within a layer, of the projection that follows the heads.

A new architecture adds its own.
"""

MLPS = (
    "mlp.dense_4h_to_h",  # Bloom, whose `mlp` adds the residual itself; Falcon, GPT-NeoX
    "ffn.down_proj",  # MPT, likewise
    "fc2",  # OPT
    "block_sparse_moe",  # mixtures of experts
    "mlp",
)
"""Paths, within a layer, of the last module of the feed-forward block; the first that is there."""

NEURONS = (
    "mlp.act_fn",  # Llama, Mistral, Qwen, Gemma
    "mlp.activation_fn",  # Phi, Phi-3
    "mlp.act",  # GPT-2, GPT-J, GPT-Neo, GPT-NeoX, GPT-BigCode, Falcon
    "mlp.gelu_impl",  # Bloom
    "ffn.act",  # MPT
    "activation_fn",  # OPT
)
"""Paths of the feed-forward block's activation function; mixtures of experts have none for all."""

FLATTENED = ("fc2", "activation_fn")
"""Those that take the tokens of all rows in one series."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where activations of one kind are: the same side of one module per layer.

    Each holds [row, token, units * width]. flattened_in: where a module takes all rows' tokens in
    one series, as OPT's `fc2` does, the layers that it is in, whose input tells rows from tokens;
    else empty.
    """

    modules: tuple[nn.Module, ...]
    side: Literal["input", "output"]
    units: int
    width: int
    flattened_in: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's layers and sites.

    `n_heads` counts query heads. `head_dim` is the output projection's width over `n_heads`: not
    always hidden / heads.
    """

    layers: tuple[nn.Module, ...]
    projections: tuple[nn.Module, ...]
    n_heads: int
    head_dim: int
    hidden: int

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return len(self.projections)

    def site(self, name: SiteName) -> Site:
        """Return a site of the model.

        Raises:
            ModelError: no feed-forward block is known, or no activation function of it; or there
                is no such site.
        """
        if name == "head":
            return Site(self.projections, "input", self.n_heads, self.head_dim)
        if name == "attention":
            return Site(self.projections, "output", 1, self.hidden)
        if name == "residual":
            return Site(self.layers, "output", 1, self.hidden)
        blocks = self._in_feed_forward(MLPS, "feed-forward block", "MLPS", self.hidden)
        if name == "mlp":
            return blocks
        if name != "neuron":
            raise ModelError(
                f"site {name!r}: unknown; choose one of {', '.join(get_args(SiteName))}"
            )
        # the block's last linear module takes what the activation function gives
        # (a path may end at that module itself, which `modules()` gives as well)
        linears = [part for part in blocks.modules[0].modules() if _is_linear(part)]
        width = _input_width(linears[-1]) if linears else 0
        return self._in_feed_forward(NEURONS, "activation function", "NEURONS", width)

    def _in_feed_forward(self, paths: Sequence[str], what: str, table: str, width: int) -> Site:
        found = _first_path(self.layers, paths)
        if found is None:
            raise ModelError(
                f"{type(self.layers[0]).__name__}: no {what} found; add its path within a layer to "
                f"{table} in fasb/model/layout.py"
            )
        path, modules = found
        return Site(modules, "output", 1, width, self.layers if path in FLATTENED else ())


def layout_of(model: nn.Module) -> Layout:
    """Return the layout of a causal LM.

    `pretraining_tp` is set to 1, as above 1 the projection is bypassed (A1).

    Raises:
        ModelError: no known projection, or attention or heads that differ between layers.
    """
    name, config = type(model).__name__, _text_config(model)
    # modules such as Bloom's attention keep a copy of the config's number
    for part in (config, *model.modules()):
        if getattr(part, "pretraining_tp", 1) != 1:
            part.pretraining_tp = 1
    layers, projections = _decoder_layers(model, config.num_hidden_layers)
    if not projections:
        _check_alike(model, name, config.num_hidden_layers)
        _check_count(model, name, config.num_hidden_layers)
        raise ModelError(
            f"{name}: no attention output projection found in its {config.num_hidden_layers} "
            "layers; add its path within a layer to PROJECTIONS in fasb/model/layout.py and a tiny "
            "config to tests/tiny.py"
        )
    widths = sorted({_input_width(projection) for projection in projections})
    n_heads = config.num_attention_heads
    # units are (layer, head), so all layers need as many heads of one width
    if len(widths) > 1 or widths[0] % n_heads:
        raise ModelError(
            f"{name}: attention output projections take {', '.join(map(str, widths))} values, "
            f"which is not one width of {n_heads} heads; models whose layers differ in their heads "
            "are not supported, choose another"
        )
    return Layout(layers, projections, n_heads, widths[0] // n_heads, config.hidden_size)


def weight_of(module: nn.Module) -> Tensor:
    """Return a linear module's weight as [output, input]; GPT-2's Conv1D keeps it the other way.

    Raises:
        ModelError: it is quantised, or no linear module.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelError(
            f"{type(module).__name__}: not a plain linear module; load the model unquantised"
        )
    return weight.T if hasattr(module, "nx") else weight


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def _decoder_layers(
    model: nn.Module, n_layers: int
) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """Return layers and projections of the first list of `n_layers` modules that all have one."""
    for layers in _lists_of(model, n_layers):
        found = _first_path(layers, PROJECTIONS)
        if found is not None:
            return tuple(layers), found[1]
    return (), ()


def _check_alike(model: nn.Module, name: str, n_layers: int) -> None:
    """Refuse layers that each have a known projection, but not all of one kind.

    Raises:
        ModelError: naming the kinds; no further path would help.
    """
    for layers in _lists_of(model, n_layers):
        paths = [next((p for p in PROJECTIONS if _descend(x, p) is not None), None) for x in layers]
        if None not in paths:
            others = [i for i, path in enumerate(paths) if path != paths[-1]]
            raise ModelError(
                f"{name}: its layers {', '.join(map(str, others[:8]))} have attention of another "
                f"kind ({paths[others[0]]}) than the others ({paths[-1]}), such as a recurrent "
                "one; hybrid models are not supported, choose one with the same attention in every "
                "layer"
            )


def _check_count(model: nn.Module, name: str, n_layers: int) -> None:
    """Refuse a model of which layers were taken out, or to which some were added.

    Raises:
        ModelError: naming both numbers; no further path would help.
    """
    for module in model.modules():
        layers = list(module) if isinstance(module, nn.ModuleList) else []
        if layers and _first_path(layers, PROJECTIONS):
            raise ModelError(
                f"{name}: has {len(layers)} layers, but its config says {n_layers}; set "
                "num_hidden_layers to what it has"
            )


def _lists_of(model: nn.Module, n_layers: int) -> Iterator[Sequence[nn.Module]]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            yield list(module)


def _first_path(
    layers: Sequence[nn.Module], paths: Sequence[str]
) -> tuple[str, tuple[nn.Module, ...]] | None:
    """Return the first path that every layer has, with its modules."""
    for path in paths:
        modules = [_descend(layer, path) for layer in layers]
        found = [module for module in modules if module is not None]
        if len(found) == len(modules):
            return path, tuple(found)
    return None


def _descend(module: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or hasattr(module, "nx")


def _input_width(projection: nn.Module) -> int:
    """Input features; GPT-2's Conv1D keeps them as `nx` and its weight the other way round.

    Raises:
        ModelError: a module that says neither.
    """
    width: Any = getattr(projection, "in_features", getattr(projection, "nx", None))
    if width is None:
        raise ModelError(
            f"{type(projection).__name__}: a projection that does not say how wide its input is; "
            "models with such modules are not supported, choose another"
        )
    return int(width)
