"""Export the trained adder as a Q8_0 GGUF. See README.md for the commands."""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer
from torch import nn
from train import SHAPE, SPECIAL_TOKENS, THOUGHT_TAGS, tagger

from training.llama_gguf import write_llama

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
# Thoughts' tags are text, as in Qwen3's vocabulary; the other special tokens are not.
TOKEN_TYPES = {
    **dict.fromkeys(SPECIAL_TOKENS, gguf.TokenType.CONTROL),
    **dict.fromkeys(THOUGHT_TAGS, gguf.TokenType.USER_DEFINED),
}


def write_gguf(model: nn.Module, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model with its name and licence."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("adder")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    write_llama(
        writer,
        model,
        tokenizer,
        token_types=TOKEN_TYPES,
        bos=tagger.BOS,
        end=tagger.END,
        pad=tagger.PAD,
        chat_template=CHAT_TEMPLATE,
    )


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
