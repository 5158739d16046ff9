"""What was written is read back before it is published: an output that nobody can read must not appear."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.errors import OutputUnreadableError
from airflow_mullama.storage.filesystems import Location

READ_BUFFER_BYTES = 1 << 20


def require_readable(
    file: BinaryIO, target: Location, schema: pa.Schema, rows: int, notes: Mapping[bytes, bytes]
) -> None:
    """Read a finished file's footer and one value of each column.

    Args:
        file: what was written, on a handle that may also be read.
        target: where it is to be published, for the message.
        schema: it was written with.
        rows: that were written.
        notes: that were put into its footer.

    Raises:
        OutputUnreadableError: it cannot be read, or says something else.
    """
    try:
        # On some filesystems the file's lock goes with the first of its handles that is closed: this one stays open.
        reader = os.fdopen(file.fileno(), "rb", closefd=False)
        with pq.ParquetFile(reader, pre_buffer=False, buffer_size=READ_BUFFER_BYTES) as parquet:
            metadata = parquet.metadata
            held = {name: value for name, value in (metadata.metadata or {}).items() if name in notes}
            if (metadata.num_rows, parquet.schema_arrow.names, held) != (rows, schema.names, dict(notes)):
                raise OutputUnreadableError(
                    f"The output for {target.url!r} says other rows, columns or notes than were written ({rows} rows); "
                    "it was not published."
                )
            if rows:
                next(parquet.iter_batches(1, row_groups=[0], use_threads=False))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OutputUnreadableError(
            f"The output for {target.url!r} was written and cannot be read back, so it was not published: {error}."
        ) from error
