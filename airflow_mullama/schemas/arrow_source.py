"""From a :class:`pyarrow.Schema` to the JSON Schema whose answers fill it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from airflow_mullama.schemas.containers import pointer_segment
from airflow_mullama.schemas.instants import is_timestamp_storage
from airflow_mullama.schemas.json_source import MAX_ITEMS
from airflow_mullama.schemas.refusal import at, refuse
from airflow_mullama.schemas.values import FLOAT32_MAX, INTEGER_TYPES, integer_range


def describe_arrow_schema(schema: pa.Schema) -> tuple[dict[str, Any], dict[str, str]]:
    """The JSON Schema of a row of ``schema``, and the Arrow types that it alone would not give, by JSON pointer.

    Every field is required, so that a model is made to answer each; a nullable one may be answered with null.

    Raises:
        ConfigurationError: a field's type has no counterpart in JSON.
    """
    arrow_types: dict[str, str] = {}
    return _object(list(schema), "", "", arrow_types), arrow_types


def _object(fields: list[pa.Field], path: str, pointer: str, arrow_types: dict[str, str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in fields:
        if field.name in properties:
            raise refuse(path, f"has two fields of the name {field.name!r}", "rename one of them")
        inside, place = at(path, field.name), f"{pointer}/properties/{pointer_segment(field.name)}"
        properties[field.name] = _field(field, inside, place, arrow_types)
    return {"type": "object", "properties": properties, "required": list(properties)}


def _field(field: pa.Field, path: str, pointer: str, arrow_types: dict[str, str]) -> dict[str, Any]:
    schema = _type(field.type, path, pointer, arrow_types)
    if field.nullable and schema["type"] != "null":
        schema["type"] = [schema["type"], "null"]
    return schema


def _type(arrow_type: pa.DataType, path: str, pointer: str, arrow_types: dict[str, str]) -> dict[str, Any]:
    name = str(arrow_type)
    if name in INTEGER_TYPES:
        if name == "int64":
            return {"type": "integer"}
        arrow_types[pointer] = name
        least, greatest = integer_range(name)
        return {"type": "integer", "minimum": least, "maximum": greatest}
    if pa.types.is_float32(arrow_type):
        arrow_types[pointer] = "float32"
        return {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}
    if pa.types.is_timestamp(arrow_type) and is_timestamp_storage(name):
        if name != "timestamp[us, tz=UTC]":
            arrow_types[pointer] = name
        return {"type": "string", "format": "date-time"}
    if arrow_type.equals(pa.dictionary(pa.int32(), pa.string())):
        arrow_types[pointer] = "dictionary"
        return {"type": "string"}
    if pa.types.is_large_string(arrow_type):
        arrow_types[pointer] = "large_string"
        return {"type": "string"}
    if pa.types.is_struct(arrow_type):
        return _object(
            [arrow_type.field(position) for position in range(arrow_type.num_fields)], path, pointer, arrow_types
        )
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type) or pa.types.is_fixed_size_list(arrow_type):
        return _list(arrow_type, path, pointer, arrow_types)
    for plain, schema in (
        (pa.string(), {"type": "string"}),
        (pa.bool_(), {"type": "boolean"}),
        (pa.float64(), {"type": "number"}),
        (pa.date32(), {"type": "string", "format": "date"}),
        (pa.null(), {"type": "null"}),
    ):
        if arrow_type.equals(plain):
            return dict(schema)
    raise refuse(path, f"is of the Arrow type {name}, which is not supported", _remedy(arrow_type))


def _list(arrow_type: pa.DataType, path: str, pointer: str, arrow_types: dict[str, str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = _field(arrow_type.value_field, at(path, "items"), f"{pointer}/items", arrow_types)
    if pa.types.is_large_list(arrow_type):
        arrow_types[pointer] = "large_list"
    elif pa.types.is_fixed_size_list(arrow_type):
        if not 1 <= arrow_type.list_size <= MAX_ITEMS:
            raise refuse(path, f"is a list of {arrow_type.list_size} items", f"use 1 to {MAX_ITEMS}")
        arrow_types[pointer] = "fixed_size_list"
        schema["minItems"] = schema["maxItems"] = arrow_type.list_size
    return schema


def _remedy(arrow_type: pa.DataType) -> str:
    if pa.types.is_decimal(arrow_type):
        return "JSON has no exact decimals: use float64, or string and cast the column afterwards"
    if pa.types.is_dictionary(arrow_type):
        return "use pa.dictionary(pa.int32(), pa.string()), which Parquet gives back as it is"
    if pa.types.is_timestamp(arrow_type):
        return "Parquet has no whole seconds: use the unit ms, us or ns"
    if pa.types.is_date64(arrow_type):
        return "use date32"
    if pa.types.is_float16(arrow_type):
        return "use float32"
    if pa.types.is_map(arrow_type):
        return "use a struct with one field per key"
    return "use string and cast the column afterwards"
