"""Outcomes as rows of a chunk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.rows import STATUS_OF_ERROR_TYPE, ResultColumns, Status
from airflow_mullama.schemas import OutputSchema, typed_columns
from airflow_mullama.worker.protocol import ANSWER

_ERROR_TYPES = pa.array(list(STATUS_OF_ERROR_TYPE))
_STATUSES = pa.array(list(STATUS_OF_ERROR_TYPE.values()))


def chunk_schema(columns: ResultColumns) -> pa.Schema:
    """What a staged chunk holds: ``row: int64`` and the added columns."""
    return pa.schema([pa.field("row", pa.int64(), nullable=False), *columns.fields])


def contract_batch(
    outcomes: pa.RecordBatch, schema: pa.Schema, output_schema: OutputSchema | None = None
) -> pa.RecordBatch:
    """Outcomes as rows of a chunk: status added, columns in order, types as stored.

    Args:
        outcomes: final outcomes; columns that are absent are null.
        schema: of the chunk.
        output_schema: names the typed columns, whose values the worker has read from the answers.
    """
    error_type = outcomes.column("error_type")
    places = pc.index_in(error_type, _ERROR_TYPES)
    status = pc.fill_null(pc.take(_STATUSES, places), Status.SUCCESS.value)
    names = set(outcomes.schema.names)
    typed = _typed(outcomes, output_schema) if output_schema is not None else {}
    arrays = []
    for column in schema:
        if column.name in typed:
            arrays.append(typed[column.name])
        elif column.name == "status":
            arrays.append(status)
        elif column.name not in names:
            arrays.append(pa.nulls(outcomes.num_rows, column.type))
        else:
            array = outcomes.column(column.name)
            arrays.append(array if array.type == column.type else _cast(array, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _typed(outcomes: pa.RecordBatch, output_schema: OutputSchema) -> dict[str, pa.Array]:
    """The typed columns by name; of rows that never reached the engine, nulls."""
    if ANSWER in outcomes.schema.names:
        arrays = outcomes.column(ANSWER).flatten()
    else:
        arrays = typed_columns([None] * outcomes.num_rows, output_schema)
    return dict(zip((field.name for field in output_schema.fields), arrays, strict=True))


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(target) and pa.types.is_float16(target.value_type):
        valid = array.is_valid()
        values = array.values.slice(array.offset * target.list_size, len(array) * target.list_size)
        half = pa.array(values.to_numpy(zero_copy_only=False).astype(np.float16))
        return pa.FixedSizeListArray.from_arrays(half, target.list_size, mask=pc.invert(valid))
    return array.cast(target)
