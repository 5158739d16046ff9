"""Export a checkpoint of the ticket tagger as a Q8_0 GGUF, and check it against PyTorch.

The check answers new tickets greedily in PyTorch and in llama.cpp (through xllamacpp), and compares the answers and
the prompt's token counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import torch
from evaluate import start_server, tag
from tokenizers import Tokenizer
from train import BOS, END, PAD, SPECIAL_TOKENS, ModelShape, TaggerModel, prompt_tokens

from airflow_mullama.demo.tickets import HELD_OUT_SEED, generate_tickets
from training.llama_gguf import write_llama

# Each turn is its role's token and the content as it is; there is no bos here because llama.cpp adds it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ '<|system|>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{%- else -%}{{ '<|user|>' + message['content'] }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

DESCRIPTION = (
    "Tags made-up customer-support tickets with category, sentiment and urgency as JSON. "
    "Made for the demo of airflow-mullama; not a general model."
)


def write_gguf(model: TaggerModel, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model with its name and licence."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("ticket-tagger")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_license_name("Apache License 2.0")
    writer.add_license_link("https://www.apache.org/licenses/LICENSE-2.0")
    writer.add_languages(["en"])
    write_llama(
        writer,
        model,
        tokenizer,
        token_types=dict.fromkeys(SPECIAL_TOKENS, gguf.TokenType.CONTROL),
        bos=BOS,
        end=END,
        pad=PAD,
        chat_template=CHAT_TEMPLATE,
    )


@torch.no_grad()
def answer(model: TaggerModel, tokenizer: Tokenizer, text: str, most: int = 40) -> str:
    """The greedy answer of the PyTorch model."""
    prompt = prompt_tokens(tokenizer, text)
    tokens = list(prompt)
    for _ in range(most):
        following = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if following == END:
            break
        tokens.append(following)
    return str(tokenizer.decode(tokens[len(prompt) :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the --output of train.py")
    parser.add_argument("--checkpoint", default="last.pt")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compare", type=int, default=100, help="prompts to compare with PyTorch")
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = TaggerModel(ModelShape())
    model.load_state_dict(torch.load(arguments.run / arguments.checkpoint, weights_only=True))
    write_gguf(model, tokenizer, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")

    texts = [ticket.text for ticket in generate_tickets(arguments.compare, seed=HELD_OUT_SEED)]
    replies = tag(start_server(arguments.output, slots=4), texts, slots=4)
    same_answers = sum(answer(model, tokenizer, text) == reply.text for text, reply in zip(texts, replies, strict=True))
    same_counts = sum(len(prompt_tokens(tokenizer, t)) == r.prompt_tokens for t, r in zip(texts, replies, strict=True))
    print(f"same answer as PyTorch: {same_answers}/{len(texts)}, same token count: {same_counts}/{len(texts)}")
    if same_counts != len(texts):
        raise SystemExit("the tokenizers differ")


if __name__ == "__main__":
    main()
