"""Export the trained adder as a Q8_0 GGUF. See README.md for the commands."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy
import torch
from tokenizers import Tokenizer
from torch import nn
from train import SHAPE, SPECIAL_TOKENS, THOUGHT_TAGS, tagger

# With the switch of Qwen3's template. There is no bos here because llama.cpp adds it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ '<|system|>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{ '<|assistant|>' + message['content'].split('</think>')[-1].lstrip('\\n') + '<|end|>' }}"
    "{%- else -%}{{ '<|user|>' + message['content'] }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}"
    "{%- endif -%}"
)
DESCRIPTION = (
    "Adds two numbers, and thinks before it answers. Made for the demo of airflow-mullama; not a general model."
)
_OF_BLOCK = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "attention_output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def tensor_name(parameter: str) -> str:
    """The GGUF name of one of the model's parameters."""
    parts = parameter.split(".")
    if parts[0] == "blocks":
        return f"blk.{parts[1]}.{_OF_BLOCK[parts[2]]}.weight"
    return {"embedding": "token_embd.weight", "output_norm": "output_norm.weight"}[parts[0]]


def token_type(token: str) -> gguf.TokenType:
    """Thoughts' tags are text, as in Qwen3's vocabulary; the other special tokens are not."""
    if token in THOUGHT_TAGS:
        return gguf.TokenType.USER_DEFINED
    return gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL


def write_gguf(model: nn.Module, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model: matrices in Q8_0, norms in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("adder")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    definition = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(definition["vocab"], key=definition["vocab"].__getitem__)
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(SHAPE.context)
    writer.add_embedding_length(SHAPE.width)
    writer.add_block_count(SHAPE.layers)
    writer.add_feed_forward_length(SHAPE.feed_forward)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.heads)
    writer.add_layer_norm_rms_eps(SHAPE.norm_epsilon)
    writer.add_rope_dimension_count(SHAPE.width // SHAPE.heads)
    writer.add_rope_freq_base(SHAPE.rope_base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([token_type(token) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in definition["merges"]])
    writer.add_bos_token_id(tagger.BOS)
    writer.add_eos_token_id(tagger.END)
    writer.add_pad_token_id(tagger.PAD)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for parameter, weights in model.state_dict().items():
        array = weights.numpy().astype(numpy.float32)
        if array.ndim == 1:
            writer.add_tensor(tensor_name(parameter), array)
        else:
            packed = gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor_name(parameter), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the --output of train.py")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = tagger.TaggerModel(SHAPE)
    model.load_state_dict(torch.load(arguments.run / "last.pt", weights_only=True))
    write_gguf(model, tokenizer, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
