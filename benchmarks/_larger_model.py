"""A model of a realistic size: random weights in the shape of a Llama, with the ticket tagger's tokenizer.

It says nothing sensible, though only in letters, and always as much as it may; what it costs is what counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from airflow_mullama.models.resolve import resolve_model

WIDTH, LAYERS, HEADS, FEED_FORWARD, N_CTX = 640, 12, 10, 1728, 1024
LETTERS = re.compile("[a-z]+")
KEPT_FIELDS = ("tokenizer.ggml.", "tokenizer.chat_template")


def write_larger_model(path: Path) -> Path:
    """60 million parameters, Q8_0."""
    source = gguf.GGUFReader(resolve_model("demo:ticket-tagger").path)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for name, field in source.fields.items():
        if name.startswith(KEPT_FIELDS):
            kind, inner = field.types[0], field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), kind, inner)
    tokens = source.fields["tokenizer.ggml.tokens"].contents()
    writer.add_vocab_size(len(tokens))
    random = np.random.default_rng(1)

    def add(name: str, *shape: int, zero_rows: Sequence[int] = ()) -> None:
        weights = random.normal(0.0, shape[-1] ** -0.5, shape).astype(np.float32)
        weights[list(zero_rows)] = 0.0
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    add("token_embd", len(tokens), WIDTH)
    add("output", len(tokens), WIDTH, zero_rows=[at for at, token in enumerate(tokens) if not LETTERS.fullmatch(token)])
    add_norm("output_norm")
    for layer in range(LAYERS):
        add_norm(f"blk.{layer}.attn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}", WIDTH, WIDTH)
        add_norm(f"blk.{layer}.ffn_norm")
        add(f"blk.{layer}.ffn_gate", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_up", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_down", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
