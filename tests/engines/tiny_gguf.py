"""A llama-shaped model with random weights and a real tokenizer, small enough to be built in a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ("<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
BOS, END, USER, ASSISTANT, SYSTEM = 1, 2, 3, 4, 5
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\nQ: {{ m['content'] }}"
    "{% elif m['role'] == 'system' %}<|system|>{{ m['content'] }}{% else %}<|assistant|>{{ m['content'] }}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "Question: the quick brown fox jumps over the lazy dog. Answer: a parcel that never came, and a refund for it.",
    "hello world, hello row number one, two, three, four, five; say it again and again, please",
]
WIDTH, LAYERS, HEADS, FEED_FORWARD = 64, 2, 4, 128
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1


def write_tiny_gguf(
    path: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    special_type: int = CONTROL,
    context_length: int = 512,
    ascii_only: bool = True,
    without_tensor: str | None = None,
    vocabulary_only: bool = False,
    add_bos: bool = True,
    pooling: int | None = None,
    splitter: str = "smollm",
    added: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write the model.

    Args:
        path: of the file.
        chat_template: Jinja; ``None`` for a model without.
        special_type: token type of the special tokens.
        context_length: tokens it says it was trained for.
        ascii_only: give no weight to tokens that are parts of characters, so that every answer is text.
        without_tensor: leave this one out, so that the header is sound and the model is not.
        vocabulary_only: leave all of them out.
        add_bos: whether its texts begin with a token of its own.
        pooling: llama.cpp's number of the pooling it declares.
        splitter: how text is split before it is tokenized, by llama.cpp's name.
        added: to tensors, by name.
    """
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(context_length)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types([special_type] * len(SPECIALS) + [NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.add_add_eos_token(False)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, values in _tensors(tokens, ascii_only).items():
        if name != without_tensor and not vocabulary_only:
            writer.add_tensor(name, values + (added or {}).get(name, np.float32(0)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> tuple[list[str], list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, [" ".join(merge) for merge in model["merges"]]


def _tensors(tokens: list[str], ascii_only: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.5).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    output = normal(len(tokens), WIDTH)
    if ascii_only:
        printable = np.array([token.replace("Ġ", " ").isascii() and token not in SPECIALS for token in tokens])
        output[~printable] *= 0.01
    tensors = {
        "token_embd.weight": normal(len(tokens), WIDTH),
        "output.weight": output,
        "output_norm.weight": ones,
    }
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        tensors |= {prefix + "attn_norm.weight": ones, prefix + "ffn_norm.weight": ones}
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{prefix}{name}.weight"] = normal(WIDTH, WIDTH)
        tensors[prefix + "ffn_gate.weight"] = normal(FEED_FORWARD, WIDTH)
        tensors[prefix + "ffn_up.weight"] = normal(FEED_FORWARD, WIDTH)
        tensors[prefix + "ffn_down.weight"] = normal(WIDTH, FEED_FORWARD)
    return tensors
