"""What stands around a causal LM: compilers, adapters, parallel copies, vision towers.

In: the model object that a user holds. Out: the causal LM within, whose modules take hooks and
whose `forward` says what it accepts, and the part of it that decodes text. Whatever would not
compute exactly what the wrapper computes is refused. Knows no weights file.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from fasb.errors import ModelError
from fasb.model.layout import PROJECTIONS

WRAPPED = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
"""Wrappers that compute what their model does, and where they keep it."""


def unwrap(model: Any, name: str) -> Any:
    """Return the causal LM inside `model`.

    A compiled wrapper is taken off (hooks that are set after compilation never fire), an adapter
    stays in the layers and in effect.

    Raises:
        ModelError: it is no causal LM of the transformers library, or one whose wrapper changes
            what it computes.
    """
    *_, model = nested(model, name)
    _check_kind(model, name)
    for path, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None:  # set by Module.compile()
            raise ModelError(
                f"{name}: compiled in place ({path or 'the whole model'}), where hooks do not "
                "fire; load it again without .compile(), or wrap it by torch.compile(model)"
            )
    return model


def nested(model: Any, name: str) -> Iterator[Any]:
    """Yield `model`, what it wraps, and so on, down to the model of the transformers library.

    Raises:
        ModelError: there is none within, or a wrapper changes what it computes.
    """
    from transformers import PreTrainedModel

    yield model
    while not isinstance(model, PreTrainedModel):
        inner = _peft_base(model, name) or _inner_module(model)
        if inner is None:
            raise ModelError(
                f"{name}: a {type(model).__name__} is not a causal LM of the transformers library; "
                "give a hub id, a folder, or a model from AutoModelForCausalLM with its tokenizer"
            )
        model = inner
        yield model


def _peft_base(model: Any, name: str) -> Any:
    """Return the base model of a PEFT wrapper, its adapters in its layers; None if it is none."""
    configs = getattr(model, "peft_config", None)
    if configs is None or not hasattr(model, "get_base_model"):
        return None
    for config in configs.values():
        outside = config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None)
        if outside:
            raise ModelError(
                f"{name}: its {config.peft_type} adapter works on the prompt, not within layers; "
                "steer the base model, or an adapter such as LoRA"
            )
    return model.get_base_model()


def _inner_module(model: Any) -> Any:
    """Return what torch.compile or a parallel copy wraps; None if `model` is neither."""
    place = WRAPPED.get(type(model).__name__)
    return getattr(model, place, None) if place and isinstance(model, nn.Module) else None


def _check_kind(model: Any, name: str) -> None:
    """Refuse what generates no text from left to right, and what keeps a recurrent state."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    kind, config = type(model).__name__, model.config
    text = config.get_text_config(decoder=True)
    masked = type(text) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(text, "is_decoder", False)
    if getattr(config, "is_encoder_decoder", False) or masked or not model.can_generate():
        raise ModelError(
            f"{name}: a {kind} is not a causal LM (an encoder, an encoder-decoder, or a model "
            "without a language head); choose a model of AutoModelForCausalLM"
        )


def text_part(model: Any, name: str) -> Any:
    """Return the module whose layers decode text: of a vision-language model its text model.

    Raises:
        ModelError: some of its layers have no attention, or a state that cannot be stepped back.
    """
    config = model.config.get_text_config(decoder=True)
    part = model if config is model.config else model.get_decoder()
    without = _layers_without_attention(part, config)
    if without:
        listed = ", ".join(map(str, without[:8])) + (", …" if len(without) > 8 else "")
        raise ModelError(
            f"{name}: its layers {listed} have no attention; hybrid models are not supported, "
            "choose one with attention heads in every layer"
        )
    if getattr(model, "_is_stateful", False):
        raise ModelError(
            f"{name}: a {type(model).__name__} keeps a recurrent state, from which no token can "
            "be dropped; recurrent models are not supported, choose one with attention only"
        )
    return part


def _layers_without_attention(part: nn.Module, config: Any) -> list[int]:
    """Return the decoder layers that lack the projection which others have.

    None is given where all lack it.
    """
    n_layers = getattr(config, "num_hidden_layers", 0)
    for layers in part.modules():
        if isinstance(layers, nn.ModuleList) and len(layers) == n_layers:
            without = [i for i, layer in enumerate(layers) if not _has_projection(layer)]
            # a list of which none has one may be another list, of experts, say
            if len(without) < n_layers:
                return without
    return []


def _has_projection(layer: nn.Module) -> bool:
    paths = {path for path, _ in layer.named_modules()}
    return not paths.isdisjoint(PROJECTIONS)
