"""A loaded model: weights, tokenizer, layout of its heads, and what ends its texts.

In: `ModelSettings`, or a model already in memory. Out: `LoadedModel`, checked. Knows no prompt and
no edit.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fasb.errors import DataError, ModelError
from fasb.extensions import validated
from fasb.model.access import (
    GB,
    cache_bytes,
    check_device,
    check_folder,
    check_memory,
    check_read,
    commit_of,
    config_of,
    explained,
    free_bytes,
    source_of,
    weight_bytes,
    weights_at_hand,
)
from fasb.model.ends import ends_of
from fasb.model.generation import say_what_is_passed_over
from fasb.model.identity import fingerprint_of
from fasb.model.layout import Layout, layout_of
from fasb.model.rope import check_length
from fasb.model.weights import check_finite
from fasb.model.wrappers import text_part, unwrap
from fasb.provenance import content_hash
from fasb.settings import ModelSettings
from fasb.steering.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM ready to be read and steered: in eval mode, without gradients.

    eos: all ids that end a text, by generation config, config or tokenizer. pad: any id; padding is
    always masked. device: where token ids go. entrances: by layer, of `fasb/model/midway.py`.
    """

    model: Any
    tokenizer: Any
    layout: Layout
    settings: ModelSettings
    device: torch.device
    eos: frozenset[int]
    pad: int
    vocab_size: int
    fingerprint: Fingerprint
    entrances: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def fixed_shapes(self) -> bool:
        """Whether the model takes a cache of fixed shape, as transformers says.

        The cache of other models must end at the newest token.
        """
        return bool(self.model._can_compile_fullgraph)

    def encode(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Return token ids with the tokenizer's own start (BOS), and without an end it may add.

        Without `special` none is added, as texts of a chat template hold what they need.
        """
        return [tokens for tokens, _ in self._encoded(texts, False, special)]

    def encode_with_offsets(
        self, text: str, special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids as `encode` gives them, and the characters [start, end) each covers.

        An added BOS covers (0, 0).

        Raises:
            ModelError: the tokenizer has no offsets.
        """
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"{self.settings.path}: its tokenizer gives no character offsets; install its fast "
                "tokenizer, or set scoring.span: released"
            )
        return self._encoded([text], True, special)[0]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of the tokens, without special tokens."""
        # the clean-up would drop spaces before punctuation
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token adds to the text, special tokens included.

        Joined, the pieces are the whole text. A token that ends within a character adds nothing;
        the one that completes it adds it.
        """
        pieces, before = [], ""
        # whole beginnings, as a token alone may lose its space or be part of a character
        for n in range(1, len(tokens) + 1):
            text = self.tokenizer.decode(list(tokens[:n]), clean_up_tokenization_spaces=False)
            text = text if n == len(tokens) else text.rstrip("\ufffd")
            pieces.append(text[len(before) :])
            before = text
        return pieces

    def check_room(self, rows: Sequence[Sequence[int]], more: int, batch: int) -> None:
        """Refuse texts that are too long for the model, or a batch of them for its memory.

        `more`: tokens behind each. On a GPU only one row has to fit: there a batch that does not
        is an error, which may be halved. A host that runs out of memory is stopped without one.

        Raises:
            ModelError: the context, or what its rotary positions hold for, is shorter, or keys and
                values are more than what is free.
        """
        longest = max(map(len, rows), default=0) + more
        config = self.model.config.get_text_config(decoder=True)
        check_length(self.settings.path, config, longest)
        n_rows = min(batch if self.device.type == "cpu" else 1, len(rows))
        need = cache_bytes(self.model.config, n_rows * longest, self.model.dtype)
        have = free_bytes("auto" if self.settings.device == "auto" else str(self.device))
        if need > have:
            raise ModelError(
                f"{self.settings.path}: {n_rows} x {longest:,} tokens take {need / GB:.1f} GB of "
                f"keys and values, but {self.settings.device} has {have / GB:.1f} GB free; lower "
                "`batch` in decoding, scoring and activations, or shorten the texts"
            )

    def _encoded(
        self, texts: Sequence[str], offsets: bool, special: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        if not texts:
            return []
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            around = error.object[max(error.start - 20, 0) : error.end]
            raise DataError(f"{around!r}: bytes that are not UTF-8; correct the text") from None
        found = self.tokenizer(
            list(texts),
            add_special_tokens=special,
            return_offsets_mapping=offsets,
            return_attention_mask=False,
        )
        rows = []
        n_known = len(self.model.get_input_embeddings().weight)
        for i, tokens in enumerate(found["input_ids"]):
            if max(tokens, default=0) >= n_known:
                raise ModelError(
                    f"{self.settings.path}: the tokenizer gives token {max(tokens):,}, but the "
                    f"model knows {n_known:,}; give the tokenizer that belongs to it"
                )
            spans = found["offset_mapping"][i] if offsets else [(0, 0)] * len(tokens)
            # where none is added, as in a chat's text, an end is the text's own
            own = self._own(tokens) if special else slice(None)
            rows.append((list(tokens[own]), [(int(a), int(b)) for a, b in spans[own]]))
        return rows

    def _own(self, tokens: Sequence[int]) -> slice:
        """Return where a text lies with one BOS before it, and without an EOS nobody wrote."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        twice = len(tokens) > 1 and tokens[0] == tokens[1] == bos
        ended = len(tokens) > 1 and tokens[-1] == eos
        if not (twice or ended):
            return slice(None)
        # what the tokenizer adds is not told from what a person wrote by this text alone
        any_text = self.tokenizer("a")["input_ids"]
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = twice and any_text[:1] == [bos] != plain[:1]
        end = ended and any_text[-1:] == [eos] != plain[-1:]
        return slice(int(start), len(tokens) - end)


def wrap(
    model: Any,
    tokenizer: Any,
    name: str | None = None,
    settings: ModelSettings | None = None,
    revision: str = "",
) -> LoadedModel:
    """Return a model already in memory, put in eval mode and its gradients switched off.

    Compilers and adapters around it are seen through (`fasb/model/wrappers.py`). `name`: what
    errors call it, if not what its config says. `revision`: the commit of the hub, if any.

    Raises:
        ModelError: it is not a causal LM whose layout is known, it has no tokenizer, weights that
            are not numbers, or gives rows of a batch what they do not get alone.
    """
    # it runs what is loaded here
    from fasb.model.padding import check_rows

    name = name or str(getattr(getattr(model, "config", None), "name_or_path", "") or "model")
    model = unwrap(model, name)
    _check_tokenizer(tokenizer, model, name)
    layout = layout_of(text_part(model, name))
    model.eval().requires_grad_(False)
    check_finite(model, name)
    _quiet_padding(model, layout)
    config = model.config.get_text_config(decoder=True)
    held = {"path": name, "dtype": str(model.dtype).removeprefix("torch.")}
    settings = settings or validated(ModelSettings, held, name)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        layout=layout,
        settings=settings,
        device=_input_device(model),
        eos=ends_of(model, config, tokenizer, name),
        pad=_pad(tokenizer, len(model.get_input_embeddings().weight), name),
        vocab_size=int(config.vocab_size),
        fingerprint=fingerprint_of(model, layout, name, tokenizer_hash(tokenizer), revision),
    )
    check_rows(loaded, name)
    return loaded


def load_model(settings: ModelSettings) -> LoadedModel:
    """Return the model and tokenizer of a hub id or local folder.

    What can be refused is refused before weights are read.

    Raises:
        ModelError: one line saying what is missing and what to do.
    """
    check_device(settings)
    commit = commit_of(settings)
    pinned = settings.model_copy(update={"revision": commit or None})  # all parts of one commit
    config, tokenizer = config_of(pinned), tokenizer_of(pinned)
    check_memory(config, settings)
    model = _weights_of(pinned, config)
    local = Path(settings.path)
    name = local.name if local.exists() else settings.path
    say_what_is_passed_over(model, name)
    return wrap(model, tokenizer, name, settings, commit)


def _weights_of(settings: ModelSettings, config: Any) -> Any:
    """Return the model with its weights on its device, each of them read and none left over."""
    from transformers import AutoModelForCausalLM

    quantised = getattr(config, "quantization_config", None) is not None
    # "" names the whole model
    placing = {"device_map": "auto" if settings.device == "auto" else {"": settings.device}}
    placed = quantised or settings.device == "auto"  # by accelerate, as the weights are read
    path, keywords = source_of(settings.path, settings.revision)
    with explained(settings), _quiet(settings):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **keywords,
            **(placing if placed else {}),
        )
        model, info = loaded
        check_complete(info, settings)
        check_read(settings, {} if quantised else dict(model.named_parameters()))
        if "gguf_file" in keywords:
            _forget_quantisation(model)
        return model if placed else model.to(settings.device)


def _forget_quantisation(model: Any) -> None:
    """Make a dequantised model an ordinary one, which can be saved and moved."""
    del model.config.quantization_config
    model.config.name_or_path = ""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)


def check_complete(info: dict[str, Any], settings: ModelSettings) -> None:
    """Refuse weights that are not those of the config.

    The library would draw missing ones at random.

    Raises:
        ModelError: naming the first tensor that is missing, left over, or of another shape.
    """
    kinds = {
        "mismatched_keys": "of another shape than config.json says",
        "missing_keys": "missing from its weights",
        "unexpected_keys": "in its weights that config.json knows nothing of",
    }
    for kind, what in kinds.items():
        found = sorted(key if isinstance(key, str) else key[0] for key in info.get(kind, ()))
        if found:
            raise ModelError(
                f"{settings.path}: {len(found)} tensors {what}, {found[0]} among them; get the "
                "checkpoint again, or the config.json that belongs to it"
            )


def available(settings: ModelSettings) -> str:
    """Return one line about a model whose config and tokenizer can be had.

    No weight is read, no memory asked for.

    Raises:
        ModelError: it cannot be had: the same line that `load_model` would say.
    """
    commit = commit_of(settings)
    pinned = settings.model_copy(update={"revision": commit or None})
    config, _ = config_of(pinned), tokenizer_of(pinned)
    where = "weights at hand" if weights_at_hand(pinned) else "weights to be downloaded"
    at = f" at {commit[:12]}" if commit else ""
    size = weight_bytes(config, settings.dtype) / GB
    return f"{settings.path}{at}: {size:.3g} GB in {settings.dtype}, {where}"


def tokenizer_of(settings: ModelSettings) -> Any:
    """Return the model's tokenizer, padding on the left.

    Raises:
        ModelError: it cannot be had.
    """
    from transformers import AutoTokenizer

    if settings.tokenizer:
        check_folder(settings.tokenizer)
    # a tokenizer of its own is of another repository, where the model's revision means nothing
    revision = None if settings.tokenizer else settings.revision
    path, keywords = source_of(settings.tokenizer or settings.path, revision)
    with explained(settings.model_copy(update={"path": settings.tokenizer or settings.path})):
        return AutoTokenizer.from_pretrained(
            path, padding_side="left", trust_remote_code=False, **keywords
        )


def tokenizer_hash(tokenizer: Any) -> str:
    """Return a hash of all that turns text into tokens.

    That is vocabulary, merges, specials and how text is split.
    """
    if getattr(tokenizer, "is_fast", False):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        parts |= {"padding": None, "truncation": None}  # of the newest call, not of the tokenizer
    else:
        parts = tokenizer.get_vocab()
    return content_hash([parts, getattr(tokenizer, "special_tokens_map", {})])


def _check_tokenizer(tokenizer: Any, model: Any, name: str) -> None:
    """Refuse a model without a tokenizer, or with that of another."""
    if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
        raise ModelError(
            f"{name}: no tokenizer of the transformers library; give it as fasb.load(model, "
            "tokenizer)"
        )
    try:
        tokenizer("a")
    except Exception as error:  # its settings may be of any type
        said = " ".join(str(error).split())[:150]
        raise ModelError(
            f"{name}: its tokenizer fails at a text ({type(error).__name__}: {said}); correct its "
            "tokenizer_config.json, or get its files again"
        ) from error
    rows = len(model.get_input_embeddings().weight)
    # added tokens are not in this size; `_encoded` looks at those that a text has
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"{name}: its tokenizer has {tokenizer.vocab_size:,} tokens, but the model knows "
            f"{rows:,}; give the tokenizer that belongs to it"
        )


@contextmanager
def _quiet(settings: ModelSettings) -> Iterator[None]:
    """Keep the library's reports out of the log (`check_complete` says what matters), and its bars.

    No bars in files, nor over a local folder, which is read in seconds.
    """
    import transformers.modeling_gguf_pytorch_utils as gguf_utils
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled() and (
        Path(settings.path).is_dir() or not sys.stderr.isatty()
    )
    before, gguf_bar = logging.get_verbosity(), gguf_utils.tqdm
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
        gguf_utils.tqdm = lambda rows, **_: rows  # the only one that does not ask
    try:
        yield
    finally:
        logging.set_verbosity(before)
        gguf_utils.tqdm = gguf_bar
        if bars:
            logging.enable_progress_bar()


def _quiet_padding(model: Any, layout: Layout) -> None:
    """Keep padding finite in float64 under the library's eager attention.

    There softmax runs in float32, in which float64's mask value is -inf: a padding column, which
    sees nothing but masked slots, becomes nan, and 0 * nan spoils the real columns of the next
    layer.
    """
    if model.dtype == torch.float64 and model.config._attn_implementation == "eager":
        for projection in layout.projections:
            projection.register_forward_pre_hook(
                lambda _, inputs: (inputs[0].nan_to_num(nan=0.0), *inputs[1:])
            )


def _input_device(model: Any) -> torch.device:
    """Return where token ids go.

    That is where the embeddings are computed, not where offloaded ones lie.
    """
    embeddings = model.get_input_embeddings()
    device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    return embeddings.weight.device if device is None else torch.device(device)


def _pad(tokenizer: Any, n_known: int, name: str) -> int:
    """Return the id that fills short rows: the tokenizer's own, or any other special one.

    A padding token that somebody added to the tokenizer alone is none of the `n_known` that the
    model has; what fills a row is masked, whichever it is.
    """
    for token in (
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
        tokenizer.bos_token_id,
    ):
        if token is not None and token < n_known:
            return int(token)
    raise ModelError(
        f"{name}: its tokenizer has no pad, eos, unk or bos token that the model knows; set "
        "tokenizer.pad_token"
    )
