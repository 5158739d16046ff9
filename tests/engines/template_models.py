"""Tiny models with the chat templates and special tokens of well-known ones, to see what prompts become.

The templates in ``tests/data/chat_templates`` are written from what the models' makers publish of their prompt formats,
without tools. Weights are random; vocabularies are small, of the kind that each model has.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tiny_gguf import vocabulary

TEMPLATES = Path(__file__).parent.parent / "data" / "chat_templates"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
WIDTH, HEADS, FEED_FORWARD = 32, 2, 32
SCRIPTED_WIDTH = 512  # a place for each token
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a blank
WORDS = ("row", "user", "system", "Human", "Assistant", "be", "kind", "paragraphs", "bold", "INST", "more", "end")


@dataclass(frozen=True)
class TemplateModel:
    """What a tiny model has of a well-known one.

    Args:
        bos, eos: its tokens.
        specials: further tokens that the template writes.
        sentence_piece: its kind of vocabulary; otherwise byte-level BPE.
        space_prefix: whether a SentencePiece vocabulary puts a blank before a text.
        add_bos: whether its texts begin with a token of its own.
        special_type: of the further tokens.
        name: of the model, where llama.cpp looks at it.
        white_space: tokens of blanks and line ends that its makers added.
    """

    bos: str
    eos: str
    specials: tuple[str, ...] = ()
    sentence_piece: bool = False
    space_prefix: bool = True
    add_bos: bool = True
    special_type: int = CONTROL
    name: str = "tiny"
    white_space: tuple[str, ...] = ()


IM = ("<|im_start|>", "<|im_end|>")
GEMMA = {"sentence_piece": True, "space_prefix": False, "white_space": ("\n", "\n\n", "\n\n\n", BLANK * 2, BLANK * 3)}
MODELS = {
    "alpaca": TemplateModel("<s>", "</s>", sentence_piece=True),
    "baichuan2": TemplateModel("<s>", "</s>", ("<reserved_106>", "<reserved_107>"), sentence_piece=True, add_bos=False),
    "chatml": TemplateModel("<|endoftext|>", "<|im_end|>", IM, add_bos=False),
    "command-r": TemplateModel(
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "deepseek-coder": TemplateModel("<｜begin▁of▁sentence｜>", "<|EOT|>"),
    "deepseek-r1": TemplateModel(
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    ),
    "deepseek-v3.1": TemplateModel(
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    ),
    "deepseek-v2": TemplateModel("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "exaone-3.5": TemplateModel("[BOS]", "[|endofturn|]", ("[|system|]", "[|user|]", "[|assistant|]"), add_bos=False),
    "falcon3": TemplateModel("<|startoftext|>", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>")),
    "gemma": TemplateModel("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), **GEMMA),
    "gemma3": TemplateModel("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), special_type=USER_DEFINED, **GEMMA),
    "glm4": TemplateModel(
        "<|endoftext|>", "<|user|>", ("[gMASK]", "<sop>", "<|system|>", "<|assistant|>"), add_bos=False
    ),
    "gpt-oss": TemplateModel(
        "<|startoftext|>", "<|return|>", ("<|start|>", "<|end|>", "<|message|>", "<|channel|>"), add_bos=False
    ),
    "granite-3": TemplateModel("<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>")),
    "granite-3.3": TemplateModel("<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>")),
    "internlm2": TemplateModel("<s>", "</s>", IM, sentence_piece=True, special_type=USER_DEFINED),
    "llama2": TemplateModel("<s>", "</s>", sentence_piece=True),
    "llama3": TemplateModel("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "llama3.1": TemplateModel("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "magistral": TemplateModel(
        "<s>",
        "</s>",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
    ),
    "minicpm": TemplateModel("<s>", "</s>", ("<用户>", "<AI>"), sentence_piece=True, special_type=USER_DEFINED),
    "mistral-nemo": TemplateModel("<s>", "</s>", ("[INST]", "[/INST]")),
    "mistral-small": TemplateModel("<s>", "</s>", ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "mistral-v1": TemplateModel("<s>", "</s>", sentence_piece=True),
    "mistral-v3": TemplateModel("<s>", "</s>", ("[INST]", "[/INST]"), sentence_piece=True),
    "olmo2": TemplateModel("<|endoftext|>", "<|endoftext|>", add_bos=False),
    "openchat": TemplateModel("<s>", "<|end_of_turn|>", sentence_piece=True),
    "orion": TemplateModel("<s>", "</s>", sentence_piece=True, add_bos=False),
    "phi3": TemplateModel(
        "<s>",
        "<|endoftext|>",
        ("</s>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
        sentence_piece=True,
        name="Phi-3",
    ),
    "phi4": TemplateModel("<|endoftext|>", "<|im_end|>", ("<|im_start|>", "<|im_sep|>"), add_bos=False),
    "qwen2.5": TemplateModel("<|endoftext|>", "<|im_end|>", ("<|im_start|>",), add_bos=False),
    "qwen3": TemplateModel(
        "<|endoftext|>",
        "<|im_end|>",
        ("<|im_start|>", "<think>", "</think>"),
        add_bos=False,
        special_type=USER_DEFINED,
    ),
    "smollm2": TemplateModel("<|im_start|>", "<|im_end|>", add_bos=False),
    "solar": TemplateModel("<s>", "</s>", sentence_piece=True),
    "vicuna": TemplateModel("<s>", "</s>", sentence_piece=True),
    "zephyr": TemplateModel("<s>", "</s>", sentence_piece=True),
}


def write_template_model(path: Path, name: str, script: Sequence[str] = ()) -> Path:
    """Write the model that has a template of ``MODELS``.

    Args:
        path: of the file.
        name: of the template.
        script: tokens, none of them twice; the model writes each behind the one before it, and ends behind the last.
            Without it, its weights are random.
    """
    model = MODELS[name]
    tokens = _tokens(model)
    width = SCRIPTED_WIDTH if script else WIDTH
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(model.name)
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(1024)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_tokenizer_model("llama" if model.sentence_piece else "gpt2")
    writer.add_tokenizer_pre("default" if model.sentence_piece else "smollm")
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(tokens.values()))
    if model.sentence_piece:
        writer.add_token_scores([float(len(token)) for token in tokens])  # the longest merge goes first
        writer.add_add_space_prefix(model.space_prefix)
    else:
        writer.add_token_merges(vocabulary()[1])
    places = list(tokens)
    writer.add_bos_token_id(places.index(model.bos))
    writer.add_eos_token_id(places.index(model.eos))
    writer.add_add_bos_token(model.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template((TEMPLATES / f"{name}.jinja").read_text())
    tensors = _scripted_tensors(list(tokens), [*script, model.eos]) if script else _tensors(len(tokens))
    for tensor, values in tensors.items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_thinking_model(path: Path) -> Path:
    """Write a model that thinks "hm", in three tokens, before it says "yes"."""
    return write_template_model(path, "qwen3", ["Ċ", "<think>", "h", "m", "</think>", "y", "e", "s"])


def _tokens(model: TemplateModel) -> dict[str, int]:
    """Types by token, in order."""
    named = dict.fromkeys((model.bos, model.eos), CONTROL) | dict.fromkeys(model.specials, model.special_type)
    named |= dict.fromkeys(model.white_space, USER_DEFINED)
    if not model.sentence_piece:
        ordinary, _ = vocabulary()
        return named | dict.fromkeys((token for token in ordinary if token not in named), NORMAL)
    pieces = [BLANK, BLANK * 2, BLANK * 4, *string.printable[:95].replace(" ", "")]
    for word in WORDS:
        pieces += [prefix + word[:length] for prefix in ("", BLANK) for length in range(1, len(word) + 1)]
    tokens = {"<unk>": UNKNOWN} | named
    tokens |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    return tokens | dict.fromkeys((piece for piece in pieces if piece not in tokens), NORMAL)


def _shapes(count: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
    shapes |= {"ffn_gate": (FEED_FORWARD, width), "ffn_up": (FEED_FORWARD, width), "ffn_down": (width, FEED_FORWARD)}
    return {**{f"blk.0.{name}.weight": shape for name, shape in shapes.items()}, "token_embd.weight": (count, width)}


def _norms(width: int) -> dict[str, np.ndarray]:
    return {
        f"{name}.weight": np.ones(width, np.float32) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    }


def _tensors(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in _shapes(count, WIDTH).items()}
    return {**values, **_norms(WIDTH)}


def _scripted_tensors(tokens: list[str], script: Sequence[str]) -> dict[str, np.ndarray]:
    """Weights that look at the last token only: each token is a direction of its own, which gives the next one."""
    assert len(tokens) <= SCRIPTED_WIDTH
    assert len(set(script)) == len(script)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in _shapes(len(tokens), SCRIPTED_WIDTH).items()}
    tensors["token_embd.weight"][:, : len(tokens)] = np.eye(len(tokens))
    output = np.zeros((len(tokens), SCRIPTED_WIDTH), np.float32)
    for token, following in itertools.pairwise(script):
        output[tokens.index(following), tokens.index(token)] = 1
    return {**tensors, **_norms(SCRIPTED_WIDTH), "output.weight": output}
