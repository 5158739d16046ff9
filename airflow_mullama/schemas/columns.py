"""From parsed answers to Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from airflow_mullama.schemas.output_schema import OutputSchema
from airflow_mullama.schemas.values import ChoiceValue, StringValue, Value


def typed_columns(parsed: Sequence[Mapping[str, Any] | None], schema: OutputSchema) -> list[pa.Array]:
    """One array per field of ``schema``, of exactly its type and as long as ``parsed``.

    Args:
        parsed: what :func:`airflow_mullama.schemas.parse_answer` made of each row; ``None`` for a row without result,
            which is null in every column.
        schema: the schema the answers were parsed with.
    """
    return [
        _column([None if answer is None else answer[name] for answer in parsed], value)
        for name, value in schema.root.properties
    ]


def _column(values: list[Any], value: Value) -> pa.Array:
    if isinstance(value, ChoiceValue) and isinstance(value.kind, StringValue):
        # Every label in the schema's order, not those that this chunk happens to hold: a label has one code everywhere.
        codes = {label: code for code, label in enumerate(value.choices)}
        indices = pa.array([None if label is None else codes[label] for label in values], pa.int32())
        return pa.DictionaryArray.from_arrays(indices, pa.array(value.choices, pa.string()))
    return pa.array(values, type=value.arrow_type)
