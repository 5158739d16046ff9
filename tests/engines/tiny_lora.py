"""A LoRA adapter with random weights for the model of ``tiny_gguf``, and what it adds to that model's weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import FEED_FORWARD, LAYERS, WIDTH

RANK, ALPHA = 4, 2.0
NAMES = tuple(f"blk.{layer}.{name}.weight" for layer in range(LAYERS) for name in ("attn_q", "attn_v", "ffn_up"))


def write_tiny_lora(
    path: Path,
    *,
    architecture: str = "llama",
    kind: str = "lora",
    names: tuple[str, ...] = NAMES,
    width: int = WIDTH,
    rank_of_b: int = RANK,
    without: str = "",
    seed: int = 1,
) -> Path:
    """Write the adapter.

    Args:
        path: of the file.
        architecture: of the model that it says it is for.
        kind: of adapter.
        names: of the tensors that it changes.
        width: of the model that it is for.
        rank_of_b: of the second matrix of each pair.
        without: leave this tensor out.
        seed: of its weights.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, kind)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for name in names:
        a, b = _matrices(name, width, seed)
        for end, matrix in ((".lora_a", a), (".lora_b", b[:, :rank_of_b])):
            if name + end != without:
                writer.add_tensor(name + end, np.ascontiguousarray(matrix))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(scale: float = 1.0, seed: int = 1) -> dict[str, np.ndarray]:
    """What the adapter adds to the tensors of the model, by name."""
    matrices = {name: _matrices(name, WIDTH, seed) for name in NAMES}
    return {name: (scale * ALPHA / RANK * b @ a).astype(np.float32) for name, (a, b) in matrices.items()}


def _matrices(name: str, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, sum(name.encode())])
    rows = FEED_FORWARD if "ffn" in name else width
    return (
        random.standard_normal((RANK, width)).astype(np.float32),
        random.standard_normal((rows, RANK)).astype(np.float32),
    )
