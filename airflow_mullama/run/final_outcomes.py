"""Batches of final outcomes, as the window hands them on: what the worker brought, and errors that are made here."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from airflow_mullama.rows import ErrorType


def error_batch(
    rows: Sequence[int], error_type: ErrorType, messages: Sequence[str], attempts: Sequence[int]
) -> pa.RecordBatch:
    """Final outcomes of rows without a result; columns that such a row leaves null may be absent."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(rows, pa.int64()),
            pa.array([error_type.value] * len(rows), pa.string()),
            pa.array(messages, pa.string()),
            pa.array(attempts, pa.int32()),
        ],
        names=["row", "error_type", "error", "attempts"],
    )


def with_attempts(batch: pa.RecordBatch, attempts: Sequence[int]) -> pa.RecordBatch:
    """The worker's outcomes, with the number of tries that each took."""
    return pa.RecordBatch.from_arrays(
        [*batch.columns, pa.array(attempts, pa.int32())], names=[*batch.schema.names, "attempts"]
    )


def refused(batch: pa.RecordBatch, places: Sequence[int]) -> pa.RecordBatch:
    """The batch with the errors at some places made those of the row itself: ``request_refused``, for good."""
    if not places:
        return batch
    error_types = batch.column("error_type").to_pylist()
    for place in places:
        error_types[place] = ErrorType.REQUEST_REFUSED.value
    column = batch.schema.get_field_index("error_type")
    return batch.set_column(column, batch.schema.field(column), pa.array(error_types, batch.schema.field(column).type))


def joined(batch: pa.RecordBatch | None, errors: pa.RecordBatch | None) -> pa.RecordBatch | None:
    """The outcomes of a batch and after them errors, whose absent columns become null."""
    if batch is None or errors is None:
        return errors if batch is None else batch
    columns = [
        errors.column(field.name) if field.name in errors.schema.names else pa.nulls(errors.num_rows, field.type)
        for field in batch.schema
    ]
    return pa.concat_batches([batch, pa.RecordBatch.from_arrays(columns, schema=batch.schema)])
