"""Whether a model can be had and held: asked before its weights are read.

In: `ModelSettings`. Out: the commit it was resolved to and its config, or one line that says what
is missing and what to do. Bytes are counted from the config alone. Knows no weights and no text.
"""

import importlib.util
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import psutil
import torch
from huggingface_hub import constants, errors
from safetensors import safe_open

from fasb.errors import FasbError, ModelError
from fasb.provenance import OF_MODELS
from fasb.settings import ModelSettings

GB = 1e9
DEVICES = ("cpu", "cuda", "mps", "xpu", "auto")
"""Kinds of device that torch may have and models run on; `auto` is for accelerate to spread."""
GGUF = ".gguf"
"""Ending of the files of llama.cpp, which are read and dequantised."""
MOST_LAYERS = 10_000
"""More are a damaged config, whose empty model alone would take for ever to build."""
OPTIONS = (
    *("config.json", "generation_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "model.safetensors.index.json"),
)
"""Files of a checkpoint that hold a mapping, which the library's own errors do not name."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where a container, or a cluster's job, is told how much memory it may take."""


def commit_of(settings: ModelSettings) -> str:
    """Return the commit that a hub id means now, or offline the one in the cache.

    It is empty for a local folder.

    Raises:
        ModelError: the model cannot be had.
    """
    with explained(settings):  # a name may be too long for one
        is_local = Path(settings.path).exists() or Path(settings.path).suffix == GGUF
    if is_local:
        source_of(settings.path)  # says what is wrong with a file
        return ""
    with explained(settings):
        file = huggingface_hub.hf_hub_download(
            settings.path, "config.json", revision=settings.revision
        )
    # the cache keeps a file as snapshots/COMMIT/config.json
    return Path(file).parent.name


def config_of(settings: ModelSettings) -> Any:
    """Return the model's config.

    Raises:
        ModelError: it cannot be had, or is of no known kind.
    """
    from transformers import AutoConfig

    _check_adapter(settings)
    check_folder(settings.path)
    path, keywords = source_of(settings.path, settings.revision)
    with explained(settings):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **keywords)
        n_layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
        if not 0 < n_layers <= MOST_LAYERS:
            raise ValueError(f"num_hidden_layers is {n_layers} in config.json")
    return config


def check_folder(path: str) -> None:
    """Refuse a local checkpoint with a file that cannot be read.

    Where one may be absent, the library goes on without it: a text's ends, or the chat template,
    would be others without a word.

    Raises:
        ModelError: naming a file that is a dangling link or no file, or not JSON.
    """
    folder = Path(path)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix not in OF_MODELS:
            continue
        if not file.is_file():
            what = "a link to nothing" if file.is_symlink() else "no file"
            raise ModelError(f"{file}: {what}; get the files again, or remove it")
        if file.name in OPTIONS:
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise ModelError(f"{file}: not JSON ({_line(error)}); get it again") from None
            if not isinstance(found, dict):
                raise ModelError(f"{file}: not a mapping; get it again")


def _check_adapter(settings: ModelSettings) -> None:
    """Refuse an adapter's folder.

    Its weights would be used or not as PEFT is installed or not.
    """
    if Path(settings.path, "adapter_config.json").is_file():
        raise ModelError(
            f"{settings.path}: an adapter (adapter_config.json), not a model; merge it into its "
            "base (merge_and_unload), or load it by PEFT and give the loaded model"
        )


def source_of(path: str, revision: str | None = None) -> tuple[str, dict[str, str]]:
    """Return what the library's loaders take.

    That is a hub id or folder, and keywords for a commit or GGUF file.

    Raises:
        ModelError: a file that is no GGUF file, or what reads GGUF is not installed.
    """
    file = Path(path)
    if file.suffix != GGUF:
        if file.is_file():
            raise ModelError(f"{path}: a file; give a hub id, a folder, or a {GGUF} file")
        return path, {"revision": revision} if revision else {}
    if not file.is_file():
        raise ModelError(f"{path}: no such file; correct the path")
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"{path}: needs the package {package}; run 'pip install fasb[gguf]'")
    return str(file.parent), {"gguf_file": file.name}


def weights_at_hand(settings: ModelSettings) -> bool:
    """Return whether all weight files are in the folder or in the cache.

    Raises:
        ModelError: they are not, and the hub may not be asked.
    """
    if Path(settings.path).is_file():
        return True
    folder = _folder_of(settings)
    names = _shards_of(folder, settings)
    found = all((folder / name).is_file() for name in names or ("model.safetensors",))
    found = found or (not names and any(folder.glob("pytorch_model*.bin")))  # older checkpoints
    if not found and (constants.HF_HUB_OFFLINE or Path(settings.path).is_dir()):
        raise ModelError(f"{settings.path}: {_incomplete(settings)}")
    return found


def _folder_of(settings: ModelSettings) -> Path:
    """Return the model's folder, in the cache where it is of the hub."""
    folder = Path(settings.path)
    if folder.is_dir():
        return folder
    config = huggingface_hub.try_to_load_from_cache(
        settings.path, "config.json", revision=settings.revision
    )
    return Path(config).parent if isinstance(config, str) else folder


def _shards_of(folder: Path, settings: ModelSettings) -> set[str]:
    """Return the files that an index names; none where there is no index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    with explained(settings):
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())


def check_read(settings: ModelSettings, names: Collection[str]) -> None:
    """Refuse a model whose files the library has read as something else than they say.

    Of the hub they are all there only now. Weights of whole, logical or complex numbers mean
    nothing as floats. names: of the parameters; none of a quantised model, of which the library
    knows what its numbers stand for.

    Raises:
        ModelError: naming the first file or weight.
    """
    if Path(settings.path).is_file():  # of llama.cpp, which says what its integers stand for
        return
    folder, known = _folder_of(settings), set(names)
    check_folder(str(folder))
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else [folder / x for x in _shards_of(folder, settings)]
    for file in files:
        with explained(settings), safe_open(file, framework="pt") as tensors:
            kinds = {x: tensors.get_slice(x).get_dtype() for x in known & set(tensors.keys())}
        for name, kind in sorted(kinds.items()):
            if not kind.startswith(("F", "BF")):
                raise ModelError(
                    f"{settings.path}: its weight {name} is of type {kind}, and config.json says "
                    "nothing of quantisation; get the config.json that belongs to it, or the "
                    "weights in floating point"
                )


def check_device(settings: ModelSettings) -> None:
    """Refuse a device that is not there.

    Raises:
        ModelError: it is of a kind that is not visible, or of none.
    """
    kind = settings.device.partition(":")[0]
    if kind not in DEVICES or not re.fullmatch(r"\w+(:\d{1,3})?", settings.device):
        raise ModelError(
            f"device: {settings.device!r} is none that models run on; set one of "
            f"{', '.join(DEVICES)}, perhaps with a number, as cuda:1"
        )
    there = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}.get(kind)
    if there is not None and not there.is_available():
        raise ModelError(
            f"device: {settings.device}, but no {kind.upper()} device is visible; set device: cpu "
            "or start on a GPU"
        )


def check_memory(config: Any, settings: ModelSettings) -> None:
    """Refuse a model whose weights alone are more than what is free on its device.

    Raises:
        ModelError: with need, have and remedy.
    """
    with explained(settings):
        need, have = weight_bytes(config, settings.dtype), free_bytes(settings.device)
    if need > have:
        raise ModelError(
            f"{settings.path}: its weights take {need / GB:.1f} GB in {settings.dtype}, but "
            f"{settings.device} has {have / GB:.1f} GB free; {_smaller(settings)}"
        )


def count_parameters(config: Any) -> int:
    """Return the number of the model's parameters; those that are shared count once."""
    from transformers import AutoModelForCausalLM

    # on this device tensors have shapes and no memory
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(config: Any, dtype: str) -> int:
    """Return the bytes of the weights as they will be held.

    A quantised model takes at least so many.
    """
    bits = _quantised_bits(config) or 8 * getattr(torch, dtype).itemsize
    return int(count_parameters(config) * bits / 8)


def cache_bytes(config: Any, n_tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of so many tokens, over all rows."""
    config = config.get_text_config(decoder=True)
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return 2 * n_tokens * config.num_hidden_layers * kv_heads * head_dim * dtype.itemsize


def free_bytes(device: str) -> int:
    """Return the free memory of a device; `auto` may use all GPUs and the host."""
    if device.startswith("cuda"):
        return _gpu_bytes(torch.device(device))
    gpus = range(torch.cuda.device_count()) if device == "auto" else ()
    return sum(_gpu_bytes(torch.device("cuda", i)) for i in gpus) + _host_bytes()


@contextmanager
def explained(settings: ModelSettings) -> Iterator[None]:
    """Turn what the libraries raise into one line.

    Raises:
        ModelError: `<path>: <what is wrong>; <what to do>`.
    """
    try:
        yield
    except FasbError:
        raise
    except Exception as error:  # each library has kinds of its own
        raise ModelError(f"{settings.path}: {remedy(error, settings)}") from error


def remedy(error: BaseException, settings: ModelSettings) -> str:
    """Return what went wrong in one clause, and what to do.

    Looked up are the error's class, then the classes of what caused it.
    """
    places = {
        "settings": settings,
        "elsewhere": _elsewhere(settings),
        "smaller": _smaller(settings),
    }
    for cause in _causes(error):
        for kinds, text in _REMEDIES:
            if isinstance(cause, kinds):
                return text.format(**places)
        if getattr(getattr(cause, "response", None), "status_code", None) in (401, 403):
            return "the hub refuses your token; run 'hf auth login'"
        if isinstance(cause, errors.HfHubHTTPError):
            return f"the hub fails ({_line(cause)}); try again"
    return _by_text(error, settings)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


_REMEDIES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (
        errors.GatedRepoError,
        "gated; accept its licence on its hub page and run 'hf auth login' as that account",
    ),
    (
        errors.RevisionNotFoundError,
        "no revision {settings.revision!r}; correct `revision`, or leave it out",
    ),
    (
        errors.RepositoryNotFoundError,
        "no such model on the hub; correct the path (private ones need 'hf auth login')",
    ),
    (
        errors.RemoteEntryNotFoundError,
        "not a model of the transformers library; choose a repository with config.json",
    ),
    (errors.LocalTokenNotFoundError, "needs a token; run 'hf auth login'"),
    (
        errors.HFValidationError,
        "no such folder, and no name of a model on the hub; correct the path",
    ),
    ((errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError), "{elsewhere}"),
    (
        (torch.OutOfMemoryError, MemoryError),
        "too large for {settings.device} in {settings.dtype}; {smaller}",
    ),
)
"""Kinds in the order in which they are asked about: the first is one of the third."""


def _by_text(error: BaseException, settings: ModelSettings) -> str:
    """Return what the words say that several versions of the libraries share."""
    line = _line(error)
    if "accelerate" in line:
        return f"device: {settings.device} needs accelerate here; run 'pip install accelerate'"
    if isinstance(error, ImportError):
        return f"needs a package that is not installed ({line}); install it"
    if "allocate memory" in line:
        return f"too large for {settings.device} in {settings.dtype}; {_smaller(settings)}"
    if "no file named" in line or "not appear to have" in line:
        return _incomplete(settings)
    # its name is compared, so that pickle is imported nowhere
    if type(error).__name__ == "UnpicklingError":
        return "its pickled weights hold more than weights; ask for a safetensors checkpoint"
    if "Unrecognized configuration class" in line:
        kind = re.search(r"configuration_(\w+)", line)
        return (
            f"a model of kind {kind[1] if kind else 'unknown'} is not a causal LM; choose a "
            "model that AutoModelForCausalLM loads"
        )
    return f"cannot be loaded ({line}); get the files again, or choose another model"


def _line(error: BaseException) -> str:
    """Return what an error says in one line.

    Its kind is named, unless it is one that speaks in sentences.
    """
    text = " ".join(str(error).split())[:300]
    plain = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
    return text if plain and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _incomplete(settings: ModelSettings) -> str:
    local = "an incomplete model folder; make it again or correct the path"
    return local if Path(settings.path).is_dir() else _elsewhere(settings)


def _elsewhere(settings: ModelSettings) -> str:
    revision = f" --revision {settings.revision}" if settings.revision else ""
    unset = ", or unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
    return (
        "no such folder, not whole in the local cache, and the hub is out of reach; "
        f"run 'hf download {settings.path}{revision}' where there is network{unset}"
    )


def _smaller(settings: ModelSettings) -> str:
    dtype = "dtype: bfloat16, " if settings.dtype in ("float32", "float64") else ""
    auto = "" if settings.device == "auto" else "device: auto, "
    return (
        f"set {dtype}{auto}or choose a smaller model" if dtype or auto else "choose a smaller model"
    )


def _gpu_bytes(device: torch.device) -> int:
    """Return what no process holds, and what this one holds unused."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def _host_bytes() -> int:
    # psutil sees the machine, not its container; where that has no limit the file says "max"
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    free = int(psutil.virtual_memory().available)
    return free if limit == "max" else min(free, int(limit))


def _quantised_bits(config: Any) -> int | None:
    """Bits of a quantised parameter, if the checkpoint says that it is quantised."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    said = said if isinstance(said, dict) else said.to_dict()
    return int(said.get("bits") or (4 if said.get("load_in_4bit") else 8))
