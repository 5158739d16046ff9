"""One Parquet file as a stream of batches that have a bound in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.byte_bounds import READ_BUFFERS_BYTES
from airflow_mullama.storage.batch_rows import RowGroupWeights, leaf_numbers, refuse_heavy_pages
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.heavy_rows import heavy_rows
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.parquet.pages import HEADER_BYTES, STORE_BYTES, begin_of
from airflow_mullama.storage.stored_file import Range, StoredFile

# Column chunks are streamed through buffers instead of being read whole, so that a huge row group costs no memory.
SMALLEST_BUFFER_BYTES = 8 << 10
LARGEST_BUFFER_BYTES = 1 << 20
# Of a store, what is needed is fetched ahead of the buffers: this row group, and if both are small, the next.
STORE_BUFFER_BYTES = 64 << 10
GROUP_AHEAD_BYTES = READ_BUFFERS_BYTES // 2


class ParquetStream:
    """An open Parquet file; a context manager.

    Args:
        location: of the file.
        columns: the top-level names that batches are to have; ``None`` for all.
        int96_unit: in which INT96 timestamps are read.

    Attributes:
        metadata: the footer.
        schema: all columns, whichever are wanted.

    Raises:
        OSError, pyarrow.ArrowException: here and from each method, what Arrow says of the file.
    """

    def __init__(
        self, location: Location, columns: Sequence[str] | None = None, int96_unit: Unit = DEFAULT_UNIT
    ) -> None:
        self._location = location
        self._columns = None if columns is None else list(columns)
        self._at_once = HEADER_BYTES if location.is_local else STORE_BYTES
        with ExitStack() as stack:
            self._stored = None if location.is_local else stack.enter_context(StoredFile(location))
            source = (
                location.filesystem.open_input_file(location.path)
                if self._stored is None
                else pa.PythonFile(self._stored, mode="r")
            )
            self._source: pa.NativeFile = stack.enter_context(source)
            self.metadata: pq.FileMetaData = pq.read_metadata(self._source)
            buffers = max(1, self.metadata.num_columns if columns is None else len(columns))
            largest = LARGEST_BUFFER_BYTES if self._stored is None else STORE_BUFFER_BYTES
            size = min(largest, max(SMALLEST_BUFFER_BYTES, READ_BUFFERS_BYTES // buffers))
            self._file = pq.ParquetFile(
                self._source,
                metadata=self.metadata,
                pre_buffer=False,
                buffer_size=size,
                coerce_int96_timestamp_unit=int96_unit,
            )
            self.schema: pa.Schema = self._file.schema_arrow
            self._stack = stack.pop_all()

    def __enter__(self) -> ParquetStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def state(self) -> tuple[int | None, int | None]:
        """Size and time of the file, as :meth:`Location.info` says them: a store says so when a file is opened."""
        if self._stored is not None and (state := self._stored.state) is not None:
            return state
        info = self._location.info()
        return info.size, info.mtime_ns

    def footer(self) -> bytes:
        """The file's last bytes, where Parquet keeps offsets, sizes and statistics of every column chunk."""
        end = self._source.size()
        length = int.from_bytes(self._source.read_at(4, max(0, end - 8)), "little")
        start = max(0, end - 8 - length)
        return bytes(self._source.read_at(end - start, start))

    def refuse_heavy_pages(self) -> None:
        """Refuse a file that cannot be read within bounds, as far as the footer lets one suspect it.

        Raises:
            HeavyPageError: a page is too large to be unpacked.
        """
        refuse_heavy_pages(self.metadata, self._source, self._at_once)

    def row_group(self, number: int) -> Iterator[pa.RecordBatch]:
        """Stream one row group in batches that weigh no more than ``READ_BATCH_BYTES``, or are one row.

        For single rows this thread then has its turn with :data:`~airflow_mullama.storage.heavy_rows.heavy_rows`, until
        it ends it or has read all of them.

        Raises:
            HeavyPageError: a page is too large to be unpacked.
            ValueError: a page has no sound header.
        """
        if self._stored is None:
            yield from self._batches_of(number)
            return
        try:
            self._fetch(self._stored, number)
            yield from self._batches_of(number)
        finally:
            self._stored.release(number)

    def _fetch(self, stored: StoredFile, number: int) -> None:
        """Have what a row group's batches are made of fetched, and that of the next one, as far as it may be held."""
        parts = self._parts_of(number)
        if _bytes_of(parts) > GROUP_AHEAD_BYTES:
            stored.follow(number, parts, GROUP_AHEAD_BYTES)
            return
        stored.hold(number, parts)
        if number + 1 < self.metadata.num_row_groups:
            following = self._parts_of(number + 1)
            if _bytes_of(following) <= GROUP_AHEAD_BYTES:
                stored.hold(number + 1, following)

    def _parts_of(self, number: int) -> list[Range]:
        group = self.metadata.row_group(number)
        chunks = map(group.column, leaf_numbers(group, self._columns))
        return [(begin_of(chunk), begin_of(chunk) + chunk.total_compressed_size) for chunk in chunks]

    def _batches_of(self, number: int) -> Iterator[pa.RecordBatch]:
        rows = RowGroupWeights(self._file, self._source, number, self._columns, self._at_once).rows_at_once()
        # One row group at a time: a batch that spans two is not implemented in Arrow for nested dictionaries.
        batches = self._file.iter_batches(rows, row_groups=[number], columns=self._columns, use_threads=False)
        if rows > 1:
            yield from batches
            return
        try:
            while True:
                heavy_rows.take()
                batch = next(batches, None)
                if batch is None:
                    return
                one = [batch]
                del batch
                heavy_rows.release()
                yield one.pop()
        finally:
            heavy_rows.end()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream all row groups; the same errors."""
        for number in range(self.metadata.num_row_groups):
            yield from self.row_group(number)


def _bytes_of(parts: Sequence[Range]) -> int:
    return sum(stop - start for start, stop in parts)
