"""Models in the shape of real ones, with random weights, made where they are measured: gigabytes need not travel.

A weight's value does not matter to what it costs. One block of random weights stands for every tensor of its shape, so
that a model of 8 billion parameters takes seconds to write. The tokenizer is a real one, trained on the Python sources
of the machine. Only tokens of letters can be chosen, so that every answer is text and as long as it may be.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BLOCK = 32
LETTERS = re.compile(r"Ġ?[a-z]+")
SPECIALS = ("<|pad|>", "<|begin|>", "<|end|>")
CONTROL, NORMAL = 3, 1
CORPUS_BYTES = 24 << 20
QUANTIZATIONS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
FILE_TYPES = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}


@dataclass(frozen=True)
class Shape:
    """A Llama's measures. ``1b`` and ``8b`` are those of Llama 3, but for the vocabulary."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    n_ctx: int = 8192


SHAPES = {
    "1b": Shape(2048, 16, 32, 8, 8192, 32_768),
    "8b": Shape(4096, 32, 32, 8, 14_336, 32_768),
    "tiny": Shape(64, 2, 2, 1, 128, 600, 1024),
}


def write_model(folder: Path, shape_name: str, quantization: str) -> Path:
    """Write ``SHAPE-QUANTIZATION.gguf``, unless it is there."""
    path = folder / f"{shape_name}-{quantization}.gguf"
    if path.exists():
        return path
    shape, kind = SHAPES[shape_name], QUANTIZATIONS[quantization]
    writer, tokens = _begin(path, shape)
    writer.add_file_type(FILE_TYPES[quantization])
    chosen = np.array([LETTERS.fullmatch(token) is not None for token in tokens])
    for name, rows, columns in _tensors(shape, len(tokens)):
        blocks = _random_blocks(kind, columns, rows)
        if name == "output":
            blocks[~chosen] = 0  # a scale of nothing
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    _end(writer, shape, np.ones(shape.width, np.float32))
    return path


def write_overflowing_model(folder: Path) -> Path:
    """A small model in half precision whose activations leave the range of 16 bits."""
    path = folder / "overflow-f16.gguf"
    if path.exists():
        return path
    shape = SHAPES["tiny"]
    writer, tokens = _begin(path, shape)
    random = np.random.default_rng(0)
    for name, rows, columns in _tensors(shape, len(tokens)):
        weights = random.normal(0.0, 6e4, (rows, columns)).clip(-6.5e4, 6.5e4)
        writer.add_tensor(f"{name}.weight", weights.astype(np.float16))
    _end(writer, shape, np.full(shape.width, 1e30, np.float32))
    return path


def _begin(path: Path, shape: Shape) -> tuple[gguf.GGUFWriter, list[str]]:
    """A file with everything but tensors, and its tokens."""
    tokens, merges = tokenizer(shape.vocabulary)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(500_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * len(SPECIALS) + [NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    return writer, tokens


def _end(writer: gguf.GGUFWriter, shape: Shape, norm: npt.NDArray[np.float32]) -> None:
    for name in _norms(shape):
        writer.add_tensor(f"{name}.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(shape: Shape, vocabulary: int) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each matrix."""
    kv_width = shape.width * shape.kv_heads // shape.heads
    yield "token_embd", vocabulary, shape.width
    yield "output", vocabulary, shape.width
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_q", shape.width, shape.width
        yield f"blk.{layer}.attn_k", kv_width, shape.width
        yield f"blk.{layer}.attn_v", kv_width, shape.width
        yield f"blk.{layer}.attn_output", shape.width, shape.width
        yield f"blk.{layer}.ffn_gate", shape.feed_forward, shape.width
        yield f"blk.{layer}.ffn_up", shape.feed_forward, shape.width
        yield f"blk.{layer}.ffn_down", shape.width, shape.feed_forward


def _norms(shape: Shape) -> Iterator[str]:
    yield "output_norm"
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm"
        yield f"blk.{layer}.ffn_norm"


def _random_blocks(kind: gguf.GGMLQuantizationType, columns: int, rows: int) -> npt.NDArray[np.uint8]:
    """Quantised rows of random weights whose squares add up to about 1, as bytes."""
    row = _random_rows(kind, columns)
    return np.resize(row, (rows, row.shape[1])).copy()


@cache
def _random_rows(kind: gguf.GGMLQuantizationType, columns: int) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(columns)
    rows, blocks = 509, columns // BLOCK  # a prime, so that the same row never stands at the same place of two tensors
    payload = BLOCK if kind is gguf.GGMLQuantizationType.Q8_0 else BLOCK // 2
    deviation = 74.0 if kind is gguf.GGMLQuantizationType.Q8_0 else 4.6  # of the integers that random bytes stand for
    scale = np.full((rows, blocks, 1), 1.0 / (deviation * columns**0.5), np.float16).view(np.uint8)
    numbers = random.integers(0, 256, (rows, blocks, payload), np.uint8)
    return np.concatenate([scale, numbers], axis=2).reshape(rows, -1)


@cache
def tokenizer(size: int) -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE, trained on the Python sources of this machine."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    most = CORPUS_BYTES if size > 10_000 else 200_000
    trained.train_from_iterator(_sources(most), trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]


def _sources(most_bytes: int) -> Iterator[str]:
    read = 0
    for folder in dict.fromkeys([str(Path(json.__file__).parents[1]), *sys.path]):
        for path in sorted(Path(folder or ".").rglob("*.py")):
            text = path.read_text("utf-8", "replace")
            yield text
            read += len(text)
            if read >= most_bytes:
                return
