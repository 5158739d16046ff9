"""What the mullama bindings 0.1.0 really do, one fact to a line: the double behaves by this table.

Read from the source of https://github.com/Skelf-Research/mullama (commit 965eb9d): ``lib.rs`` is
``bindings/python/src/lib.rs``, the others lie in ``src/``. What llama.cpp does below it is its release b7542's doing.
``MULLAMA_DOUBLE_MENDED`` names facts (or ``all``) that do not hold: how a build would be that had mended them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One behaviour that would hurt a row, or a run, if nobody saw to it.

    Args:
        name: what it is called in the double and in the tests.
        says: what happens.
        source: where it is to be read.
    """

    name: str
    says: str
    source: str


FACTS = tuple(
    Fact(*line)
    for line in (
        ("cache_kept", "a call goes on where the call before it ended", "context.rs: generate_with_params"),
        ("overflow_stays", "after an overflow every call fails until the cache is cleared", "context.rs: decode"),
        ("overflow_loses", "prompt and max_tokens beyond n_ctx raise, and the answer is lost", "context.rs: decode"),
        ("n_ctx_padded", "n_ctx is rounded up to a multiple of 256", "llama.cpp: llama_context"),
        ("n_ctx_zero_is_all", "n_ctx=0 allocates for the whole training context", "lib.rs: Context.new"),
        ("n_batch_zero_aborts", "n_batch=0 ends the process", "llama.cpp: llama_context"),
        ("temperature_0_is_1", "temperature=0 skips the stage, and so samples at 1", "sampling.rs: build_chain"),
        ("seed_is_fixed", "a seed left out is 0: all rows draw alike", "lib.rs: SamplerParams.new"),
        ("accepts_twice", "the sampler takes note of each token twice", "context.rs: generate_with_params"),
        ("text_is_plain", "a prompt that is a str loses its control tokens", "lib.rs: generate"),
        ("special_is_parsed", "special=True makes control tokens of whatever spells them", "model.rs: tokenize"),
        ("user_defined_parsed", "special=False leaves user-defined tokens to be matched", "llama.cpp: tokenizer"),
        ("template_guessed", "apply_chat_template takes the most similar of a list, ChatML without one", "model.rs"),
        (
            "first_space_stripped",
            "generate strips the answer's first space and counts nothing",
            "model.rs: detokenize",
        ),
        ("answers_do_not_stop", "there are no stop texts", "lib.rs: generate"),
        ("characters_break", "a character of several tokens becomes U+FFFD", "model.rs: token_to_str"),
        ("long_piece_raises", "a token of over 128 bytes raises, and the row is lost", "model.rs: token_to_str"),
        ("nul_raises", "a NUL character in a text raises", "model.rs: tokenize"),
        ("surrogate_raises", "a lone surrogate in a text raises", "PyO3: str to &str"),
        ("empty_raises", "a prompt without tokens raises", "context.rs: generate_with_params"),
        ("path_rejected", "a path must be a str", "lib.rs: Model.load"),
        ("minus_one_is_none", "n_gpu_layers=-1 puts no layer on the GPU", "model.rs: load_with_params"),
        ("layers_need_gpu", "n_gpu_layers > 0 without a GPU does not load", "llama.cpp: main_gpu"),
        ("encoder_babbles", "generate on an encoder gives random tokens", "context.rs: generate_with_params"),
        ("vocabulary_crashes", "a model without weights ends the process", "llama.cpp: llama_decode"),
        ("generator_is_stale", "EmbeddingGenerator gives what is in an unfilled buffer", "lib.rs: embed"),
        ("pooled_is_stale", "Context(embeddings=True) too, where the model declares a pooling", "context.rs"),
        ("first_row_only", "without pooling, the vector is the first token's of the last call", "context.rs"),
        ("encoder_aborts", "an encoder ends the process above 512 tokens", "llama.cpp: encode"),
        ("pooled_in_parts", "beyond 512 tokens a pooled vector is that of the last part", "llama.cpp: decode"),
        ("empty_is_previous", "decoding no token leaves the text before's vector", "context.rs: decode"),
        ("gil_is_held", "no call releases the interpreter lock or sees a signal", "lib.rs"),
    )
)
NAMES = frozenset(fact.name for fact in FACTS)


def holds(name: str) -> bool:
    """Whether the installed bindings, as this double plays them, are so."""
    assert name in NAMES, name
    mended = os.environ.get("MULLAMA_DOUBLE_MENDED", "").split(",")
    return "all" not in mended and name not in mended
