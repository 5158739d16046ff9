"""The schema in the form that llama.cpp can hold a model to.

llama.cpp compiles a JSON Schema to a grammar, either by its own converter or, where it was built with it (as
xllamacpp's wheels are), by llguidance. Both leave the output unconstrained, without an error, where they do not
understand the schema. What the grammar cannot promise is left out here and checked on the answer. Measured with
xllamacpp 2026.10.11549; llama.cpp's own converter by its source, ``common/json-schema-to-grammar.cpp``.
"""

from __future__ import annotations

from typing import Any

from airflow_mullama.schemas.output_schema import OutputSchema

# llguidance computes with doubles: 2**53 + 1 becomes 2**53, and a number's bound of 1e18 is refused with the whole
# schema. llama.cpp's own converter ignores the bounds of numbers.
_EXACT = 2**53
# Integers always get bounds: without them a grammar allows endless digits. ±2**63 is refused by llguidance.
MOST_INTEGER = 9 * 10**18
# llama.cpp's grammar parser refuses longer repetitions (MAX_REPETITION_THRESHOLD).
MOST_REPETITIONS = 2000


def llama_cpp_schema(schema: OutputSchema) -> dict[str, Any]:
    """What to give llama.cpp as ``json_schema``.

    Never narrower than the schema, but for properties that it does not name, and integers beyond ±9·10^18.
    White space between tokens is ruled out: llguidance otherwise allows any amount of it, and a small model fills its
    ``max_tokens`` with line breaks (``x-guidance`` is llguidance's own keyword; others ignore it).
    """
    return {**_constraint(schema.closed_json_schema), "x-guidance": {"whitespace_flexible": False}}


def _constraint(schema: dict[str, Any]) -> dict[str, Any]:
    constraint = dict(schema)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "properties" in schema:
        constraint["properties"] = {name: _constraint(value) for name, value in schema["properties"].items()}
    if "items" in schema:
        constraint["items"] = _constraint(schema["items"])
    if "integer" in kinds and "enum" not in schema:
        _bound_integers(constraint)
    if "number" in kinds:
        for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            if not 1e-9 <= abs(constraint.get(keyword, 1)) <= _EXACT and constraint[keyword] != 0:
                del constraint[keyword]
    if constraint.get("minLength", 0) > MOST_REPETITIONS:
        constraint["minLength"] = MOST_REPETITIONS
    if constraint.get("maxLength", 0) > MOST_REPETITIONS:
        del constraint["maxLength"]
    return constraint


def _bound_integers(constraint: dict[str, Any]) -> None:
    minimum, maximum = constraint.pop("minimum", -MOST_INTEGER), constraint.pop("maximum", MOST_INTEGER)
    if minimum > MOST_INTEGER or maximum < -MOST_INTEGER:
        return
    constraint["minimum"] = minimum if abs(minimum) <= _EXACT else -MOST_INTEGER
    constraint["maximum"] = maximum if abs(maximum) <= _EXACT else MOST_INTEGER
