"""The header of a small encoder, for what is decided from a header; llama.cpp would not load its weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import BOS, CONTROL, END, NORMAL, SPECIALS, vocabulary


def write_encoder_header(path: Path, *, pooling: int | None, context_length: int = 2048) -> Path:
    """Write a file.

    Args:
        path: of it.
        pooling: llama.cpp's number of the pooling it declares: 0 none, 1 mean, 2 cls, 3 last.
        context_length: tokens it says it was trained for.
    """
    tokens, _ = vocabulary()
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(context_length)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * len(SPECIALS) + [NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_tensor("token_embd.weight", np.zeros((1, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
