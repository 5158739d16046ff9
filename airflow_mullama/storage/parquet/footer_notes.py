"""What other writers noted in a Parquet footer, and what of it is true of an output.

A footer carries notes of whoever wrote the file, as keys and values. Some describe the columns, and readers believe
them over the columns that are there: Spark does not see a column that its note leaves out, pandas fails over names that
do not fit. An output has more columns than its input, so the notes of Spark and pandas are rewritten, other schemas of
the whole file are dropped, and all else is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from airflow_mullama.manifest import FOOTER_KEY

Notes = Mapping[bytes, bytes]

PANDAS_KEY = b"pandas"
SPARK_KEY = b"org.apache.spark.sql.parquet.row.metadata"
# Schemas of the whole file, in other words than Parquet's, and the manifest of an input that is itself an output.
DROPPED_KEYS = frozenset(
    {
        FOOTER_KEY,
        b"avro.schema",
        b"iceberg.schema",
        b"parquet.avro.schema",
        b"parquet.proto.class",
        b"parquet.proto.descriptor",
        b"pig.schema",
        b"thrift.class",
        b"thrift.descriptor",
        b"writer.model.name",  # says in which of these the file is to be read
    }
)
# The kinds of column names that pandas can put a plain text beside.
TEXT_NAMES = ("unicode", "string", "mixed", "mixed-integer")

# As StructType.json() writes them (https://spark.apache.org/docs/latest/sql-ref-datatypes.html).
SPARK_TYPES = {
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.binary(): "binary",
}


def shared_notes(files: Sequence[Notes], *, one_schema: bool = True) -> dict[bytes, bytes]:
    """The notes of a partition of several files: those that all of them have, with the same content.

    Those of pandas differ by the numbers of their rows alone, and are merged; of columns that differ they say nothing.

    Args:
        files: of each file.
        one_schema: whether all files have the same columns; else Spark's note, which is of all columns, is left out.
    """
    first, *others = files
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    if others and all(PANDAS_KEY in notes for notes in files):
        merged = _merged_pandas([_parsed(notes[PANDAS_KEY]) for notes in files])
        shared.pop(PANDAS_KEY, None)
        if merged is not None:
            shared[PANDAS_KEY] = json.dumps(merged).encode()
    if not one_schema:
        shared.pop(SPARK_KEY, None)
    return shared


def output_notes(input_schema: pa.Schema, added: Sequence[pa.Field]) -> dict[bytes, bytes]:
    """The notes that an output keeps of its input's, made true of the columns that are added.

    Args:
        input_schema: with the notes as its metadata.
        added: the columns that follow the input's.
    """
    notes = {key: value for key, value in (input_schema.metadata or {}).items() if key not in DROPPED_KEYS}
    for key, rewrite in ((PANDAS_KEY, _pandas_note), (SPARK_KEY, _spark_note)):
        if (found := notes.pop(key, None)) is not None:
            rewritten = rewrite(_parsed(found), input_schema, added)
            if rewritten is not None:
                notes[key] = json.dumps(rewritten).encode()
    return notes


def _parsed(note: bytes) -> dict[str, Any]:
    """A note as JSON; empty where it is something else, which is then not understood."""
    try:
        value = json.loads(note)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_pandas_note(note: Mapping[str, Any]) -> bool:
    columns, index, names = note.get("columns"), note.get("index_columns"), note.get("column_indexes", [])
    return all(isinstance(part, list) for part in (columns, index, names)) and all(
        isinstance(column, dict) and "name" in column for column in [*(columns or ()), *names]
    )


def _merged_pandas(notes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One note for several files; ``None`` where they do not fit together.

    A range of row numbers is one file's. A column that the files describe in different ways is left undescribed.
    """
    if not all(map(_is_pandas_note, notes)):
        return None
    stored = [[name for name in note["index_columns"] if isinstance(name, str)] for note in notes]
    if any(names != stored[0] for names in stored[1:]):
        return None
    described = [{_field_name(column): column for column in note["columns"]} for note in notes]
    columns = []
    for name, column in described[0].items():
        same = [other.get(name, {}) for other in described[1:]]
        compared = ["pandas_type", "numpy_type", *(["metadata"] if column.get("pandas_type") == "decimal" else [])]
        if all(one.get(key) == column.get(key) for one in same for key in compared):
            columns.append(column)
        elif name in stored[0]:
            return None
    return {**notes[0], "index_columns": stored[0], "columns": columns}


def _field_name(column: Mapping[str, Any]) -> str:
    return str(column.get("field_name") or column["name"])


def _pandas_note(note: dict[str, Any], input_schema: pa.Schema, added: Sequence[pa.Field]) -> dict[str, Any] | None:
    """https://pandas.pydata.org/docs/development/developer.html"""
    if not _is_pandas_note(note):
        return None
    columns = [*note["columns"], *map(_pandas_column, added)]
    names = note.get("column_indexes", [])
    if names and (len(names) > 1 or names[0].get("pandas_type") not in TEXT_NAMES):
        # Names that were numbers, dates or tuples stand as texts in the file; ours can be nothing else.
        names = [{**names[0], "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}]
    return {**note, "columns": columns, "column_indexes": names}


def _pandas_column(field: pa.Field) -> dict[str, Any]:
    """Of a type that pandas has none for, ``object``: then it takes what the file says."""
    kind = field.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        pandas_type = numpy_type = np.dtype(kind.to_pandas_dtype()).name
    else:
        pandas_type, numpy_type = ("unicode" if pa.types.is_string(kind) else "object"), "object"
    return {
        "name": field.name,
        "field_name": field.name,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": None,
    }


def _spark_note(note: dict[str, Any], input_schema: pa.Schema, added: Sequence[pa.Field]) -> dict[str, Any] | None:
    """Spark keeps types there that Parquet has none for (intervals, its user-defined types), and comments."""
    fields = note.get("fields")
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        return None
    if [field.get("name") for field in fields] != input_schema.names:
        return None
    ours = []
    for field in added:
        kind = _spark_type(field.type)
        if kind is None:
            return None
        ours.append({"name": field.name, "type": kind, "nullable": True, "metadata": {}})
    return {**note, "fields": [*fields, *ours]}


def _spark_type(kind: pa.DataType) -> str | dict[str, Any] | None:
    """The type as which Spark reads a column that has no note; ``None`` where this is not known."""
    if pa.types.is_dictionary(kind):
        return _spark_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            return None
        return "timestamp" if kind.tz else "timestamp_ntz"
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        element = _spark_type(kind.value_type)
        return element and {"type": "array", "elementType": element, "containsNull": True}
    if pa.types.is_struct(kind):
        fields = [(field.name, _spark_type(field.type)) for field in kind]
        if any(found is None for _, found in fields):
            return None
        return {
            "type": "struct",
            "fields": [{"name": name, "type": found, "nullable": True, "metadata": {}} for name, found in fields],
        }
    return SPARK_TYPES.get(kind)
