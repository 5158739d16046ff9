"""Export a checkpoint of the ticket tagger as a Q8_0 GGUF, and check it against PyTorch.

The check answers new tickets greedily in PyTorch and in llama.cpp (through xllamacpp), and compares the answers and
the prompt's token counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy
import torch
from evaluate import start_server, tag
from tokenizers import Tokenizer
from train import BOS, END, PAD, SPECIAL_TOKENS, ModelShape, TaggerModel, prompt_tokens

from airflow_mullama.demo.tickets import HELD_OUT_SEED, generate_tickets

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

_BLOCK_TENSORS = {
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
    """The GGUF name of one parameter of `TaggerModel`."""
    parts = parameter.split(".")
    if parts[0] == "blocks":
        return f"blk.{parts[1]}.{_BLOCK_TENSORS[parts[2]]}.weight"
    return {"embedding": "token_embd.weight", "output_norm": "output_norm.weight"}[parts[0]]


def write_gguf(model: TaggerModel, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model: matrices in Q8_0, norms in F32, no `output.weight` because the embeddings are tied."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("ticket-tagger")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_license_name("Apache License 2.0")
    writer.add_license_link("https://www.apache.org/licenses/LICENSE-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)

    definition = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(definition["vocab"], key=definition["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # single digits, as trained; `default` splits numbers differently
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in definition["merges"]])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    for parameter, weights in model.state_dict().items():
        array = weights.numpy().astype(numpy.float32)
        if array.ndim == 1:
            writer.add_tensor(tensor_name(parameter), array)
            continue
        packed = gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(tensor_name(parameter), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
