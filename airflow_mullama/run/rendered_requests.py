"""The rows of a batch as requests, or the error of a row that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from airflow_mullama.byte_bounds import LARGEST_ROW_BYTES, MIB
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.rows import ErrorType, RowError


def rendered(
    template: RequestTemplate, batch: pa.RecordBatch, rows: Sequence[int], unreadable: Mapping[int, str]
) -> list[str | RowError]:
    """One request for each row, or why it has none. Never raises for what a row holds.

    Args:
        template: renders a row.
        batch: the template's columns.
        rows: their positions in the partition.
        unreadable: rows that could not be read, and why.
    """
    too_large = _too_large(template, batch)
    if too_large:
        kept = [row for row in range(batch.num_rows) if row not in too_large]
        texts = iter(template.render(batch.take(pa.array(kept, pa.int64()))))
        requests = [too_large[row] if row in too_large else next(texts) for row in range(batch.num_rows)]
    else:
        requests = list(template.render(batch))
    lengths = [len(text) if isinstance(text, str) else 0 for text in requests]
    if max(lengths, default=0) > LARGEST_ROW_BYTES:  # numbers are longer as texts
        for place, length in enumerate(lengths):
            if length > LARGEST_ROW_BYTES:
                requests[place] = _row_too_large("its prompt has", length)
    if unreadable:
        for place, row in enumerate(rows):
            if row in unreadable:
                requests[place] = RowError(ErrorType.UNREADABLE_ROW, unreadable[row])
    return requests


def _too_large(template: RequestTemplate, batch: pa.RecordBatch) -> dict[int, RowError]:
    """Rows that are not even rendered."""
    columns = [batch.column(name) for name in template.columns]
    if sum(column.nbytes for column in columns) <= LARGEST_ROW_BYTES:
        return {}
    weights = [sum(_bytes_of_row(column, row) for column in columns) for row in range(batch.num_rows)]
    return {
        row: _row_too_large("the columns of its prompt hold", weight)
        for row, weight in enumerate(weights)
        if weight > LARGEST_ROW_BYTES
    }


def _bytes_of_row(column: pa.Array, row: int) -> int:
    value = column.slice(row, 1)
    return int((value.dictionary_decode() if isinstance(value, pa.DictionaryArray) else value).nbytes)


def _row_too_large(what: str, size: int) -> RowError:
    return RowError(
        ErrorType.ROW_TOO_LARGE, f"{what} {size / MIB:,.1f} MiB, and {LARGEST_ROW_BYTES // MIB} MiB is the most"
    )
