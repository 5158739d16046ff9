"""Models of a few kilobytes as sentence-transformers writes them: a BERT, with random weights, and what may follow it.

A character is a token, so that lengths can be chosen.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

WIDTH, LAYERS, HEADS, FEED_FORWARD, POSITIONS = 32, 2, 2, 64, 512
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
VOCABULARY = [*SPECIAL, *CHARACTERS, *(f"##{one}" for one in CHARACTERS)]
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}


def bert_config(**more: Any) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": len(VOCABULARY),
        **more,
    }


def tokenizer() -> dict[str, Any]:
    """A WordPiece ``tokenizer.json`` whose pieces are single characters."""
    ids = {token: place for place, token in enumerate(VOCABULARY)}
    added = [
        {"id": ids[token], "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token in SPECIAL
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", ids["[SEP]"]], "cls": ["[CLS]", ids["[CLS]"]]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100_000,
            "vocab": ids,
        },
    }


def bert_weights(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    chance = np.random.default_rng(seed)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, npt.NDArray[np.float32]]:
        weight = chance.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)).astype(np.float32)
        return {f"{name}.weight": weight, f"{name}.bias": chance.normal(0, 0.1, outputs).astype(np.float32)}

    def norm(name: str) -> dict[str, npt.NDArray[np.float32]]:
        return {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}

    tables = {"word": len(VOCABULARY), "position": POSITIONS, "token_type": 2}
    weights = {
        f"embeddings.{name}_embeddings.weight": chance.normal(0, 1, (rows, WIDTH)).astype(np.float32)
        for name, rows in tables.items()
    }
    weights |= norm("embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            weights |= linear(f"{layer}.{name}", WIDTH, WIDTH)
        weights |= linear(f"{layer}.intermediate.dense", WIDTH, FEED_FORWARD)
        weights |= linear(f"{layer}.output.dense", FEED_FORWARD, WIDTH)
        weights |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
    return weights


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_plain_folder(folder: Path, *, seed: int = 0, padding_side: str = "right", **config: Any) -> Path:
    """What transformers alone writes: it does not say how token vectors become one."""
    write_json(folder / "config.json", bert_config(**config))
    write_json(folder / "tokenizer.json", tokenizer())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizerFast",
            "model_max_length": POSITIONS,
            "padding_side": padding_side,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        },
    )
    save_file(bert_weights(seed), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_folder(
    folder: Path,
    *,
    pooling: str = "mean",
    dense: int | None = None,
    max_seq_length: int = 256,
    include_prompt: bool = True,
    settings: dict[str, Any] | None = None,
    **plain: Any,
) -> Path:
    """What sentence-transformers writes: a BERT, a pooling, and if asked for a dense layer."""
    write_plain_folder(folder, **plain)
    modules = [TRANSFORMER, {**TRANSFORMER, "idx": 1, "path": "1_Pooling", "name": "1"}]
    modules[1]["type"] = "sentence_transformers.models.Pooling"
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    modes = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken", "max": "max_tokens"}
    write_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": WIDTH,
            "include_prompt": include_prompt,
            **{f"pooling_mode_{name}": mode == pooling for mode, name in modes.items()},
        },
    )
    if dense is not None:
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        activation = "torch.nn.modules.activation.Tanh"
        write_json(
            folder / "2_Dense/config.json",
            {"in_features": WIDTH, "out_features": dense, "bias": True, "activation_function": activation},
        )
        chance = np.random.default_rng(1)
        tensors = {"linear.weight": (dense, WIDTH), "linear.bias": (dense,)}
        values = {name: chance.normal(0, 0.3, shape).astype(np.float32) for name, shape in tensors.items()}
        save_file(values, folder / "2_Dense/model.safetensors")
    write_json(folder / "modules.json", modules)
    if settings is not None:
        write_json(folder / "config_sentence_transformers.json", settings)
    return folder


def write_static_folder(folder: Path, dimensions: int = 16) -> Path:
    """A table of vectors, one for each token."""
    kind = "sentence_transformers.models.StaticEmbedding"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": kind}])
    write_json(folder / "0_StaticEmbedding/tokenizer.json", tokenizer())
    table = np.random.default_rng(2).normal(0, 1, (len(VOCABULARY), dimensions)).astype(np.float32)
    save_file({"embedding.weight": table}, folder / "0_StaticEmbedding/model.safetensors")
    return folder
