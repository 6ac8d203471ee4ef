"""Always-on steering of a transformers model, whatever calls it.

    with fasb.editing(model, bundle, strength=8):
        model.generate(**inputs)

In: a model, a bundle or an edit, a strength. Out: the same model, edited inside the block. No
tracker, no policy, no stepping back: those are `fasb.steer` and `fasb.decoding.hf.steered`.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fasb.errors import BundleError, ConfigError, ModelError
from fasb.model import hooks
from fasb.model.identity import fingerprint_of
from fasb.model.layout import Layout, layout_of
from fasb.model.load import LoadedModel
from fasb.model.wrappers import nested, text_part, unwrap
from fasb.steering.bundle import Bundle
from fasb.steering.edit import PROMPT_END, Active, Edit


@contextmanager
def editing(
    model: Any,
    bundle: Bundle | Edit | str | Path,
    strength: float | int | None = None,
    siblings: bool = False,
) -> Iterator[Any]:
    """Edit every forward pass in the block; the hooks leave with it, also after an error.

    `strength`: what the edit's vectors are multiplied with, the bundle's alpha unless it is given;
    an edit by itself has none. The edit is active at the tokens it says (`Edit.positions`); unless
    those are all, `generate` may not read a prompt in pieces or several new tokens at once, and in
    loops of one's own a pass must go on from the cache of the one before. A pass of several tokens
    is taken for a prompt that ends with it, also behind a conversation's cache. `generate` compiles
    nothing in the block, as hooks do not fire in what is compiled.

    Raises:
        BundleError: the bundle was made for another model, or does not steer.
        ConfigError: no strength, or one that is not a number. Of a pass in the block: rows padded
            on the right or packed into one, `generate_batch`, or a setting of `generate` under
            which the tokens to edit are not known.
        ModelError: compiled, not a causal LM of a known layout, or without the units of the edit.
            Of a pass in the block: logits that the edit made NaN or infinite.
    """
    inner = model.model if isinstance(model, LoadedModel) else _uncompiled(model)
    part = text_part(inner, type(inner).__name__)
    layout = layout_of(part)
    if not isinstance(bundle, Bundle | Edit):
        bundle = Bundle.load(bundle)
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
    number = isinstance(strength, Real) and not isinstance(strength, bool)
    if not number or not math.isfinite(strength):  # type: ignore[arg-type]
        raise ConfigError(f"strength: {strength!r}; give a number")
    if edit is None:
        raise BundleError("bundle: it has no edit, so there is nothing to steer with; fit one")
    with hooks.editing(layout, edit) as dial, ExitStack() as stack:
        passes = _Passes(edit.active, float(strength), dial)  # type: ignore[arg-type]
        # with_kwargs, as `generate` gives ids by keyword, which plain hooks do not see
        before = part.register_forward_pre_hook(passes.begin, with_kwargs=True)
        stack.callback(before.remove)
        stack.callback(inner.register_forward_hook(_check_finite).remove)
        stack.enter_context(_generating(inner, passes))
        yield model


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


@dataclass(slots=True)
class _Passes:
    """Which tokens of each pass are edited.

    `written`: passes of the `generate` that runs; None outside of it. `prompt`: tokens up to the
    end of the newest prompt; None before one was run.
    """

    active: Active
    strength: float
    dial: hooks.EditStrength
    written: int | None = None
    prompt: int | None = None

    def begin(self, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Set how strongly each token of the pass that begins is edited.

        A pass without anything in its cache reads the prompt, and so does one of several tokens
        behind a conversation's cache; its last token predicts the answer's first.

        Raises:
            ConfigError: that last token is padding, rows are packed into one, `generate` does not
                go on token by token, or a schedule goes on from a prompt that was run before.
        """
        ids = inputs[0] if inputs else named.get("input_ids")
        ids = named["inputs_embeds"] if ids is None else ids
        cache = named.get("past_key_values")
        # at the prompt `generate` hands over a cache that is still empty; a static one counts in a
        # tensor
        seen = 0 if cache is None else int(cache.get_seq_length())
        goes_on = seen > 0 and ids.shape[1] == 1
        everywhere = self.active.positions == "all"
        if self.written is not None:
            if self.written and not goes_on and not everywhere:
                raise _refused(
                    "a pass does not go on, by one token, from the cache of the one before"
                )
            goes_on = goes_on and self.written > 0
            self.written += 1
        wanted = torch.zeros(ids.shape[:2], dtype=torch.float64, device=ids.device)
        if everywhere:
            wanted[:] = self.strength
        elif goes_on:
            wanted[:] = self.strength * self._share(seen + ids.shape[1])
        elif _is_packed(named):
            raise ConfigError(
                "editing: rows are packed into one, of which only the last would be edited; give "
                "each its own row, or use an edit whose positions are all"
            )
        else:
            _check_padding(named.get("attention_mask"))
            wanted[:, -1] = self.strength
            self.prompt = seen + ids.shape[1]
        self.dial.strength = wanted

    def _share(self, n: int) -> float:
        """Return the share of the strength at the last of n tokens, behind a prompt."""
        # from the second state on a schedule may change; one of two shares has the last from there
        state = n - self.prompt if self.prompt is not None else 1
        if self.prompt is None and len(self.active.schedule) > len(PROMPT_END):
            raise ConfigError(
                "editing: the cache holds a prompt that was run before the block, so the place in "
                "the edit's schedule is not known; run the prompt in the block"
            )
        return float(self.active.shares(0, state + 1)[state])


READING = {
    "use_cache": True,
    "assistant_model": None,
    "assistant_early_exit": None,
    "prompt_lookup_num_tokens": None,
    "use_mtp": False,
    "prefill_chunk_size": None,
    "custom_generate": None,
}
"""Settings of `generate` under which it reads token by token behind the prompt, and their values
then."""


@contextmanager
def _generating(model: Any, passes: _Passes) -> Iterator[None]:
    """Look at what `generate` is asked for in the block, and tell its passes from other ones.

    `generate_batch`, which begins with `init_continuous_batching`, is refused.
    """
    generate = model.generate
    named = inspect.signature(generate)

    @wraps(generate)
    def looked_at(*inputs: Any, **given: Any) -> Any:
        asked = named.bind(*inputs, **given).arguments
        asked = asked | asked.pop("kwargs", {})
        sources = (asked.get("generation_config"), getattr(model, "generation_config", None))
        for key, plain in READING.items() if passes.active.positions != "all" else ():
            found = [asked.get(key), *(getattr(source, key, None) for source in sources)]
            value = next((one for one in found if one is not None), plain)
            if value != plain:
                raise _refused(f"generate.{key} is set")
        _check_padding(asked.get("attention_mask"))
        passes.written = 0
        try:
            return generate(*inputs, **{**given, "disable_compile": True})
        finally:
            passes.written = None

    def packing(*_: Any, **__: Any) -> Any:
        raise ConfigError(
            "editing: generate_batch writes the tokens of all rows one behind the other, and on a "
            "GPU in recorded steps, in which hooks do not fire; use generate in the block"
        )

    shadows = {"generate": looked_at, "init_continuous_batching": packing}
    inside = {name: vars(model)[name] for name in shadows if name in vars(model)}
    for name, shadow in shadows.items():
        setattr(model, name, shadow)
    try:
        yield
    finally:
        for name in shadows:
            delattr(model, name)
        for name, own in inside.items():
            setattr(model, name, own)


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"editing: {what}, so the tokens to edit are not known; leave out {', '.join(READING)}, or "
        "use an edit whose positions are all"
    )


def _is_packed(named: dict[str, Any]) -> bool:
    """Return whether a pass says that its row holds several texts, one behind the other."""
    positions = named.get("position_ids")
    begins_anew = (
        isinstance(positions, Tensor)
        and positions.ndim == 2
        # beside a mask they begin anew behind the padding
        and named.get("attention_mask") is None
        and bool((positions.diff(dim=-1) < 0).any())
    )
    return begins_anew or named.get("cu_seq_lens_q") is not None


def _check_padding(mask: Any) -> None:
    """Refuse rows that end with padding; what is no mask of rows and tokens says nothing of it.

    Raises:
        ConfigError: there is one.
    """
    if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise ConfigError(
            "editing: a row is padded on the right, where its last token would not be the one that "
            "is edited; set tokenizer.padding_side to left"
        )


def _check_finite(model: Any, _: Any, output: Any) -> None:
    """Refuse logits that are not finite, of which some token would be taken all the same.

    Raises:
        ModelError: one at the last token is not.
    """
    logits = getattr(output, "logits", None)
    # -inf is how some models leave tokens out
    if logits is not None and bool((logits[:, -1].isnan() | logits[:, -1].isposinf()).any()):
        raise ModelError(
            f"{type(model).__name__}: a logit is not finite in {model.dtype} under the edit; lower "
            "the strength, or set the model's dtype to bfloat16 or float32"
        )


def _check(model: Any, layout: Layout, bundle: Bundle, siblings: bool) -> None:
    """Refuse a bundle of another model, or not of numbers; the tokenizer is the caller's."""
    bundle.check_values()
    made_for = bundle.fingerprint
    if made_for is None:
        return
    name = str(getattr(model.config, "name_or_path", "")) or type(model).__name__
    made_for.check(fingerprint_of(model, layout, name, made_for.tokenizer), siblings)
