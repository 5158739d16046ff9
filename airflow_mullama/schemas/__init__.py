"""Output schemas: what an answer must look like, and the typed Parquet columns it becomes.

One schema has two faces, each derived from the other: a JSON Schema (for engines that constrain decoding, for the
manifest and the footer) and Arrow fields (for the output). It comes from a JSON Schema, a Pydantic model class or a
:class:`pyarrow.Schema`, through :func:`load_output_schema`, and anything it cannot promise is refused there, before
the run: llama.cpp ignores a schema it does not understand, without an error, and leaves the output unconstrained.

Supported: objects of strings (``minLength``, ``maxLength``, ``format`` ``date`` and ``date-time``), integers and
numbers (``minimum``, ``maximum`` and their exclusive forms), booleans, nulls, ``enum`` and ``const`` of one type,
arrays (``items``, ``minItems``, ``maxItems``), nested objects, local ``$ref`` without recursion, and null as the one
alternative to a type.
"""

from __future__ import annotations

from airflow_mullama.schemas.answers import Violation, parse_answer
from airflow_mullama.schemas.columns import typed_columns
from airflow_mullama.schemas.gbnf import gbnf_grammar
from airflow_mullama.schemas.llama_cpp import llama_cpp_schema
from airflow_mullama.schemas.output_schema import OutputSchema
from airflow_mullama.schemas.sources import load_output_schema

__all__ = [
    "OutputSchema",
    "Violation",
    "gbnf_grammar",
    "llama_cpp_schema",
    "load_output_schema",
    "parse_answer",
    "typed_columns",
]
