"""The tiny model of ``tiny_gguf.py`` computed with NumPy, to have vectors that no engine made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from tiny_gguf import BOS, HEADS, LAYERS, SPECIALS, WIDTH, vocabulary
from tokenizers import Tokenizer, models, pre_tokenizers

Matrix = npt.NDArray[np.float64]
HEAD_WIDTH = WIDTH // HEADS
ROPE_BASE = 10_000.0
NORM_EPSILON = 1e-5


def tokenizer() -> Tokenizer:
    """The model's, for plain text."""
    tokens, merges = vocabulary()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, pairs))
    digits_apart = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits_apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert len(SPECIALS) < len(tokens)
    return made


def last_token_vectors(model: Path, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Hidden state of each text's last token, scaled to length 1: ``float32[texts, WIDTH]``."""
    tensors = {tensor.name: np.asarray(tensor.data, np.float64) for tensor in gguf.GGUFReader(model).tensors}
    encode = tokenizer().encode
    vectors = np.stack([_hidden(tensors, [BOS, *encode(text).ids])[-1] for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _hidden(tensors: dict[str, Matrix], tokens: list[int]) -> Matrix:
    state = tensors["token_embd.weight"][tokens]
    causal = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in range(LAYERS):
        weights = {name.split(".", 2)[2]: value for name, value in tensors.items() if name.startswith(f"blk.{layer}.")}
        normed = _norm(state, weights["attn_norm.weight"])
        query, key, value = (
            (normed @ weights[f"attn_{part}.weight"].T).reshape(len(tokens), HEADS, HEAD_WIDTH) for part in "qkv"
        )
        scores = np.einsum("ihd,jhd->hij", _rotated(query), _rotated(key)) / np.sqrt(HEAD_WIDTH) + causal
        attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", attention, value).reshape(len(tokens), WIDTH)
        state = state + mixed @ weights["attn_output.weight"].T
        normed = _norm(state, weights["ffn_norm.weight"])
        gate = normed @ weights["ffn_gate.weight"].T
        gated = gate / (1.0 + np.exp(-gate)) * (normed @ weights["ffn_up.weight"].T)
        state = state + gated @ weights["ffn_down.weight"].T
    return _norm(state, tensors["output_norm.weight"])


def _norm(values: Matrix, weight: Matrix) -> Matrix:
    return values / np.sqrt((values**2).mean(axis=-1, keepdims=True) + NORM_EPSILON) * weight


def _rotated(values: Matrix) -> Matrix:
    """Rotary positions on neighbouring pairs, as llama.cpp has them for this architecture."""
    frequencies = ROPE_BASE ** (-np.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    angles = np.arange(len(values))[:, None, None] * frequencies
    even, odd = values[..., 0::2], values[..., 1::2]
    turned = np.empty_like(values)
    turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return turned
