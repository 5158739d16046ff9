"""From parsed answers to Arrow columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from airflow_mullama.schemas.containers import ArrayValue, ObjectValue
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
    # Built level by level: given the whole type at once, `pa.array` makes an invalid array of a struct whose dictionary
    # field is all null (PyArrow 26: an index 0 into an empty dictionary).
    if isinstance(value, ObjectValue):
        return _structs(values, value)
    if isinstance(value, ArrayValue):
        return _lists(values, value)
    if isinstance(value, ChoiceValue) and isinstance(value.kind, StringValue):
        # Every label in the schema's order, not those that this chunk happens to hold: a label has one code everywhere.
        codes = {label: code for code, label in enumerate(value.choices)}
        indices = pa.array([None if label is None else codes[label] for label in values], pa.int32())
        return pa.DictionaryArray.from_arrays(indices, pa.array(value.choices, pa.string()))
    if pa.types.is_dictionary(value.arrow_type):
        return pa.array(values, type=pa.string()).dictionary_encode()
    return pa.array(values, type=value.arrow_type)


def _structs(values: list[Any], value: ObjectValue) -> pa.Array:
    children = [
        _column([None if answer is None else answer[name] for answer in values], inside)
        for name, inside in value.properties
    ]
    absent = pa.array([answer is None for answer in values], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(value.fields), mask=absent)


def _lists(values: list[Any], value: ArrayValue) -> pa.Array:
    arrow_type = value.arrow_type
    absent = pa.array([items is None for items in values], pa.bool_())
    if pa.types.is_fixed_size_list(arrow_type):
        # A null list still takes up the space of its items.
        flat = [item for items in values for item in items or [None] * arrow_type.list_size]
        return pa.FixedSizeListArray.from_arrays(_column(flat, value.items), type=arrow_type, mask=absent)
    flat = [item for items in values for item in items or ()]
    ends = list(itertools.accumulate((len(items or ()) for items in values), initial=0))
    if pa.types.is_large_list(arrow_type):
        offsets = pa.array(ends, pa.int64())
        return pa.LargeListArray.from_arrays(offsets, _column(flat, value.items), type=arrow_type, mask=absent)
    offsets = pa.array(ends, pa.int32())
    return pa.ListArray.from_arrays(offsets, _column(flat, value.items), type=arrow_type, mask=absent)
