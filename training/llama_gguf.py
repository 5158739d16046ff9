"""What the exported models have in common: llama's tensors in Q8_0, a tokenizer as SmolLM's, tied embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gguf
import numpy
from tokenizers import Tokenizer

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


def write_llama(
    writer: gguf.GGUFWriter,
    model: Any,
    tokenizer: Tokenizer,
    *,
    token_types: Mapping[str, gguf.TokenType],
    bos: int,
    end: int,
    pad: int,
    chat_template: str,
) -> None:
    """Write a `TaggerModel` and close its file: matrices in Q8_0, norms in F32, no `output.weight`.

    Args:
        writer: has been told what the model is called and what may be done with it.
        model: its `shape` is written too.
        tokenizer: byte-level BPE.
        token_types: of the tokens that are not normal text.
        bos, end, pad: ids of tokens.
        chat_template: begins without the first, which llama.cpp adds.
    """
    shape = model.shape
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
    writer.add_token_types([token_types.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in definition["merges"]])
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(chat_template)

    for parameter, weights in model.state_dict().items():
        array = weights.numpy().astype(numpy.float32)
        if array.ndim == 1:
            writer.add_tensor(_tensor_name(parameter), array)
            continue
        packed = gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(_tensor_name(parameter), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensor_name(parameter: str) -> str:
    parts = parameter.split(".")
    if parts[0] == "blocks":
        return f"blk.{parts[1]}.{_BLOCK_TENSORS[parts[2]]}.weight"
    return {"embedding": "token_embd.weight", "output_norm": "output_norm.weight"}[parts[0]]
