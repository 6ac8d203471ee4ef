"""llama.cpp itself, through llama-cpp-python: a small model in its format, and logits under it."""

import ctypes
from pathlib import Path

import numpy as np
import pytest


def write_model(path: Path, model) -> None:
    """Write a Llama as GGUF in float32, without a vocabulary: texts are given as tokens."""
    import gguf

    config = model.model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.model.state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight",))
        weights = value.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp turns neighbouring values of a head, transformers its two halves
            halves = weights.reshape(-1, 2, config.head_dim // 2, config.hidden_size)
            weights = halves.swapaxes(1, 2).reshape(weights.shape)
        writer.add_tensor(found, np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits_under(path: Path, tokens: list[int], vector: Path | None = None) -> np.ndarray:
    """Return llama.cpp's logits at every token, under a control vector at strength 1."""
    cpp = pytest.importorskip("llama_cpp")
    loaded = cpp.llama_model_load_from_file(str(path).encode(), cpp.llama_model_default_params())
    assert loaded
    settings = cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = 256
    settings.type_k = settings.type_v = cpp.GGML_TYPE_F32
    settings.flash_attn_type = cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it works in half precision
    context = cpp.llama_init_from_model(loaded, settings)
    if vector is not None:
        rows = directions_of(vector, cpp.llama_model_n_layer(loaded))
        pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        ends = rows.shape[1], 1, len(rows)
        assert cpp.llama_set_adapter_cvec(context, pointer, rows.size, *ends) == 0
    batch = cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert cpp.llama_decode(context, batch) == 0
    size = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(loaded))
    found = np.ctypeslib.as_array(cpp.llama_get_logits(context), (len(tokens), size)).copy()
    cpp.llama_batch_free(batch)
    cpp.llama_free(context)
    cpp.llama_model_free(loaded)
    return found


def directions_of(path: Path, n_layers: int) -> np.ndarray:
    """Return a control vector as its command line tools read it: a row per layer but the first."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    rows = np.zeros((n_layers - 1, len(tensors[0].data)), dtype=np.float32)
    for tensor in tensors:
        rows[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return rows
