"""A projector with random weights for the model of ``tiny_gguf.py``: a small CLIP encoder with LLaVA's two layers."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import WIDTH

IMAGE, PATCH, ENCODER_WIDTH, FEED_FORWARD, HEADS, LAYERS = 28, 14, 32, 32, 2, 2
PICTURE_TOKENS = (IMAGE // PATCH) ** 2


def write_tiny_mmproj(path: Path, *, seed: int = 1, width: int = WIDTH, vision: bool = True) -> Path:
    """Write the projector.

    Args:
        path: of the file.
        seed: of its weights.
        width: of the model that it is for.
        vision: whether it says that it has an encoder for pictures.
    """
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny projector")
    writer.add_bool("clip.has_vision_encoder", vision)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    for name, value in (
        ("image_size", IMAGE),
        ("patch_size", PATCH),
        ("embedding_length", ENCODER_WIDTH),
        ("feed_forward_length", FEED_FORWARD),
        ("projection_dim", width),
        ("block_count", LAYERS),
        ("attention.head_count", HEADS),
    ):
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    for name, values in _tensors(seed, width).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(seed: int, width: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    def linear(name: str, out: int, inside: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(out, inside), f"{name}.bias": np.zeros(out, np.float32)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": np.ones(ENCODER_WIDTH, np.float32),
            f"{name}.bias": np.zeros(ENCODER_WIDTH, np.float32),
        }

    tensors = {
        "v.class_embd": normal(ENCODER_WIDTH),
        "v.patch_embd.weight": normal(ENCODER_WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": normal(PICTURE_TOKENS + 1, ENCODER_WIDTH),
        **norm("v.pre_ln"),
        **norm("v.post_ln"),
        **linear("mm.0", width, ENCODER_WIDTH),
        **linear("mm.2", width, width),
    }
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors |= linear(f"{block}.{part}", ENCODER_WIDTH, ENCODER_WIDTH)
        tensors |= {**norm(f"{block}.ln1"), **norm(f"{block}.ln2")}
        tensors |= linear(f"{block}.ffn_up", FEED_FORWARD, ENCODER_WIDTH)
        tensors |= linear(f"{block}.ffn_down", ENCODER_WIDTH, FEED_FORWARD)
    return tensors
