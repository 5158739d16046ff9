"""Filling a fresh stage with what an earlier output already knows, so that only the rest is asked of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mullama.prompts import PromptTemplate
from airflow_mullama.reuse import PreviousOutcomes, reusable_chunks
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, ResultColumns
from airflow_mullama.storage.parquet_input import ParquetInput
from airflow_mullama.storage.parquet_output import PublishedOutput
from airflow_mullama.storage.stage import Chunk, Stage
from airflow_mullama.storage.vector_columns import may_be_stored_as


def stage_good_rows(
    stage: Stage,
    chunks: Sequence[Chunk],
    published: PublishedOutput,
    columns: ResultColumns,
    output_prefix: str,
    check_stopped: Callable[[], None],
) -> int:
    """Stage the rows of an output of the same fingerprint that need no repair.

    Returns:
        How many rows were staged. Chunks that are staged already are left alone: a repair was under way.
    """
    staged = stage.staged()
    retryable = pa.array(RETRYABLE_ERROR_TYPES)
    outcomes = published.outcomes(columns, output_prefix)
    rest: pa.Table = columns.schema.empty_table()
    count = 0
    for chunk in chunks:
        while rest.num_rows < chunk.rows:
            rest = pa.concat_tables([rest, pa.Table.from_batches([next(outcomes)])])
        table = rest.slice(0, chunk.rows).add_column(0, "row", pa.array(range(chunk.start, chunk.stop), pa.int64()))
        rest = rest.slice(chunk.rows)
        check_stopped()
        if (chunk.start, chunk.stop) not in staged:
            good = table.filter(pc.invert(pc.is_in(table.column("error_type"), retryable)))
            stage.write(chunk, good)
            count += good.num_rows
    return count


def stage_reused_rows(
    stage: Stage,
    chunks: Sequence[Chunk],
    published: PublishedOutput,
    source: ParquetInput,
    template: PromptTemplate,
    columns: ResultColumns,
    output_prefix: str,
    check_stopped: Callable[[], None],
) -> int:
    """Stage the rows of a changed input whose request an output of the same model, template and settings answers.

    Returns:
        How many rows were staged; 0 where the output does not fit (its columns are others).
    """
    needed = {*template.distinct_columns, *(output_prefix + field.name for field in columns.fields)}
    schema = pq.read_schema(published.location.path, filesystem=published.location.filesystem)
    fits = needed <= set(schema.names) and all(
        may_be_stored_as(schema.field(output_prefix + field.name).type, field.type) for field in columns.fields
    )
    if not fits:
        return 0
    staged = stage.staged()
    count = 0
    previous = PreviousOutcomes(published.location, template, columns, output_prefix)
    try:
        for chunk, table in reusable_chunks(previous, source, template, chunks):
            check_stopped()
            if (chunk.start, chunk.stop) not in staged:
                stage.write(chunk, table)
                count += table.num_rows
    finally:
        previous.close()
    return count
