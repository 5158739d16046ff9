"""Holding an answer to the output schema: by llguidance, which xllamacpp's wheels have, or by llama.cpp's own grammars.

llguidance takes a token's text from llama.cpp without the blank that it begins with, where the vocabulary puts one
before every text, as Llama 2's and its kin do (``common/llguidance.cpp``, ``llama_vocab::impl::detokenize``). It then
takes ``▁red`` for ``red``, or gives up in the middle of an answer and lets the model write what it likes. Whatever the
way, neither says so: it is tried before the first row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.llamacpp.completions import Written
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.rows import RowError
from airflow_mullama.schemas import OutputSchema, gbnf_grammar, llama_cpp_schema

# Enough to see the first property's name, or the beginning of it.
TRIAL_TOKENS = 16
# So that nothing but a constraint keeps the answer in shape.
TRIAL_SAMPLING = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
NOT_HELD = (
    "llama.cpp does not hold this model to the output schema (tried before the first row): answers are checked, and "
    "rows that break it are asked again"
)

Ask = Callable[[Mapping[str, Any]], Written | RowError]
"""Asks for a completion of a short prompt."""


@dataclass(frozen=True)
class Constraint:
    """How answers are held to the schema.

    Args:
        fields: of each request for an answer.
        held: whether a trial answer was held to it.
        notes: for the task's log.
    """

    fields: Mapping[str, Any]
    held: bool
    notes: tuple[str, ...] = ()


def find_constraint(schema: OutputSchema, header: GgufHeader, ask: Ask) -> Constraint:
    """Try what llama.cpp has, the quicker first, and take what holds.

    Args:
        schema: of the job.
        header: the model's.
        ask: the server.
    """
    for fields in _ways(schema, header):
        answer = ask({**TRIAL_SAMPLING, **fields, "max_tokens": TRIAL_TOKENS})
        if isinstance(answer, Written) and begins_as_asked(answer.text, schema):
            return Constraint(fields, held=True)
    return Constraint({}, held=False, notes=(NOT_HELD,))


def begins_as_asked(text: str, schema: OutputSchema) -> bool:
    """Whether a text, which may be cut anywhere, begins as an answer with one of the schema's names does."""
    properties = schema.json_schema["properties"]
    begins = "".join(text.replace("\ufffd", "").split())
    names = ["".join(json.dumps(name, ensure_ascii=False).split()) for name in properties]
    openings = [f"{{{name}:" for name in names]
    if not schema.json_schema.get("required"):
        openings.append("{}")
    return len(begins) > 1 and any(begins.startswith(one) or one.startswith(begins) for one in openings)


def _ways(schema: OutputSchema, header: GgufHeader) -> Iterator[Mapping[str, Any]]:
    if not _puts_a_blank_first(header):
        yield {"json_schema": llama_cpp_schema(schema)}
    yield {"grammar": gbnf_grammar(schema)}


def _puts_a_blank_first(header: GgufHeader) -> bool:
    by_default = header.metadata.get("tokenizer.ggml.model") == "llama"
    return bool(header.metadata.get("tokenizer.ggml.add_space_prefix", by_default))
