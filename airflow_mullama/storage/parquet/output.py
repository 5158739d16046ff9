"""Joining input rows and their outcomes into one Parquet file, and reading back what an earlier run published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama.background import begin
from airflow_mullama.errors import (
    AccountingError,
    OutputChangedError,
    OutputExistsError,
    StageVanishedError,
    StorageUnavailableError,
)
from airflow_mullama.fail_points import reached
from airflow_mullama.manifest import FOOTER_KEY, PartitionManifest
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.heavy_rows import heavy_rows
from airflow_mullama.storage.links import kind_of_file
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.parquet.output_format import OutputFormat
from airflow_mullama.storage.parquet.stream import ParquetStream
from airflow_mullama.storage.parquet.vector_columns import from_stored, may_be_stored_as, to_stored
from airflow_mullama.storage.parquet.whole_file import whole_file
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_output import NewOutput
from airflow_mullama.storage.staging.replacing import replace_file
from airflow_mullama.storage.staging.stage import Stage
from airflow_mullama.storage.staging.versions import version_of


@dataclass(frozen=True)
class PublishedFile:
    """A partition that an earlier run published.

    Args:
        location: of the Parquet file.
        manifest: from its footer.
        schema: of all its columns.
    """

    location: Location
    manifest: PartitionManifest
    schema: pa.Schema

    @property
    def keeps_order(self) -> bool:
        """A file is written whole."""
        return True

    def has_columns(self, columns: ResultColumns, output_prefix: str) -> bool:
        """Whether it has the columns that a job adds: its footer may have been put on another file."""
        return has_columns(self.schema, columns, output_prefix)

    def rows(self, int96_unit: Unit = DEFAULT_UNIT) -> FileRows:
        """Open it."""
        return FileRows(self.location, int96_unit)

    def outcomes(self, columns: ResultColumns, output_prefix: str) -> Iterator[pa.RecordBatch]:
        """Stream the added columns, without prefix, in row order."""
        names = [output_prefix + field.name for field in columns.fields]
        with ParquetStream(self.location, names) as file:
            for batch in file.batches():
                arrays = [
                    from_stored(batch.column(name), kind)
                    for name, kind in zip(names, columns.schema.types, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=columns.schema)


class FileRows:
    """The rows of a Parquet file, whose groups are its row groups."""

    def __init__(self, location: Location, int96_unit: Unit) -> None:
        self._location, self._int96_unit = location, int96_unit
        self._file = pq.ParquetFile(
            location.path, filesystem=location.filesystem, pre_buffer=False, coerce_int96_timestamp_unit=int96_unit
        )
        metadata = self._file.metadata
        self.group_rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    def group(self, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one group."""
        return self._file.read_row_group(number, columns=list(names), use_threads=False)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns of all rows."""
        with ParquetStream(self._location, names, self._int96_unit) as stream:
            yield from stream.batches()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class FileOutput:
    """A Parquet file as the output of a partition.

    Args:
        location: of the file.
    """

    location: Location

    def exists(self) -> bool:
        """Whether anything lies there; it must be a file."""
        refuse_what_is_no_file(self.location)
        return output_exists(self.location)

    def version(self) -> str | None:
        """See :func:`~airflow_mullama.storage.staging.versions.version_of`."""
        return version_of(self.location)

    def published(self) -> PublishedFile | None:
        """See :func:`read_published`."""
        return read_published(self.location)

    def require_writable(self, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> None:
        """Try whether the columns can be written to Parquet."""
        OutputFormat.of(source, columns, output_prefix)

    def tidy(self) -> None:
        """Nothing: whatever lies beside a file, lies in its stage."""

    def stage(self, fingerprint: str, schema: pa.Schema) -> Stage:
        """In a folder beside the file."""
        return Stage(self.location, fingerprint, schema)

    def write(self, new: NewOutput) -> int:
        """Write the file beside its place, then put it there."""
        output_format = OutputFormat.of(new.source, new.columns, new.output_prefix)
        made: list[PartitionManifest] = []

        def notes() -> dict[bytes, bytes]:
            made.append(new.manifest())
            return {FOOTER_KEY: made[-1].to_footer()}

        with whole_file(
            target=self.location,
            temporary=new.temporary,
            tables=joined(new, output_format.schema),
            schema=output_format.schema,
            options=output_format.options_for,
            rows=lambda: new.source.rows,
            notes=notes,
            finish=output_format.finish,
        ) as file:
            reached("publish")
            try:
                replace_file(file.path, self.location, staging=new.temporary, version=new.replaces)
            except (OutputChangedError, StageVanishedError):
                if not self._is_of(made[-1].attempt):
                    raise
        return file.size

    def _is_of(self, attempt: str) -> bool:
        """Whether this attempt's own output is there: a store may take it, and its answer be lost on the way."""
        there = self.published()
        return there is not None and there.manifest.attempt == attempt != ""


def has_columns(schema: pa.Schema, columns: ResultColumns, output_prefix: str) -> bool:
    """Whether an output of this schema has the columns that a job adds."""
    return all(
        schema.names.count(output_prefix + field.name) == 1
        and may_be_stored_as(schema.field(output_prefix + field.name).type, field.type)
        for field in columns.fields
    )


def read_published(location: Location) -> PublishedFile | None:
    """The output that is there, if this package published it; ``None`` for anything else.

    Raises:
        StorageUnavailableError: it cannot be read, so that nothing can be said of it.
    """
    try:
        with (
            location.filesystem.open_input_file(location.path) as source,
            pq.ParquetFile(source, pre_buffer=False) as file,
        ):
            metadata, schema = file.metadata, file.schema_arrow
            stored = (metadata.metadata or {}).get(FOOTER_KEY)
            size = source.size()
        if stored is None:
            return None
        # A file cannot hold its own size.
        manifest = replace(PartitionManifest.from_footer(stored), bytes_out=size)
    except FileNotFoundError:
        return None
    except OSError as error:
        # So Arrow says of a footer that is not one; anything else may pass, and must not look like a foreign file.
        if error.errno is None and "thrift" in str(error).lower():
            return None
        raise StorageUnavailableError(f"The output {location.url!r} is there and cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    if manifest.rows_of_output != metadata.num_rows:
        return None
    return PublishedFile(location, manifest, schema)


def joined(new: NewOutput, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a partition with their outcomes beside them.

    Args:
        new: what the output is made of.
        schema: of the whole.

    Raises:
        AccountingError: outcomes and input rows do not match.
        StageVanishedError: outcomes are missing.
    """
    source = new.source
    outcomes = OutcomeRows(new.chunks)
    names = [field.name for field in new.columns.fields]
    start = 0
    batches = source.batches()
    try:
        # Not before there is an outcome to put beside it: whoever waits for one must not hold rows that may be heavy.
        while outcomes.wait(start, source.rows) and (batch := next(batches, None)) is not None:
            new.check_stopped()
            table = outcomes.take(start, batch.num_rows)
            start += batch.num_rows
            tables = [pa.table([*batch.columns, *(to_stored(table.column(name)) for name in names)], schema=schema)]
            del batch
            yield tables.pop()
            heavy_rows.end()
    finally:
        heavy_rows.end()
    if start != source.rows or outcomes.left():
        raise AccountingError(f"The input had {source.rows} rows and {start} were read again; nothing was published.")


class OutcomeRows:
    """Cuts a stream of chunk tables to the borders of the input's batches."""

    def __init__(self, chunks: Iterable[pa.Table]) -> None:
        self._chunks = iter(chunks)
        self._table: pa.Table | None = None

    def wait(self, start: int, rows: int) -> bool:
        """Wait for the outcome of the row ``start`` of so many, if it is one of them; always true.

        Raises:
            StageVanishedError: there is none.
        """
        while start < rows and (self._table is None or self._table.num_rows == 0):
            self._table = next(self._chunks, None)
            if self._table is None:
                raise StageVanishedError(f"The staged outcome of row {start} is gone.")
        return True

    def take(self, start: int, count: int) -> pa.Table:
        """The outcomes of rows ``[start, start + count)``."""
        parts: list[pa.Table] = []
        wanted = count
        while wanted:
            self.wait(start + count - wanted, start + count)
            assert self._table is not None
            parts.append(self._table.slice(0, wanted))
            self._table = self._table.slice(wanted)
            wanted -= parts[-1].num_rows
        table = pa.concat_tables(parts)
        rows = table.column("row")
        if rows[0].as_py() != start or rows[-1].as_py() != start + count - 1:
            raise AccountingError(f"The outcomes of rows {start} to {start + count} are out of order.")
        return table

    def left(self) -> bool:
        """Whether outcomes remain that no input row asked for."""
        return bool(self._table is not None and self._table.num_rows) or next(self._chunks, None) is not None


def refuse_what_is_no_file(location: Location) -> None:
    """Refuse an output at whose place there is something else than a file.

    Raises:
        OutputExistsError: a directory, or a pipe that would be waited for without end.
    """
    kind = location.info().type if location.is_local else pafs.FileType.NotFound
    if kind in (pafs.FileType.Directory, pafs.FileType.Unknown):
        what = "a directory" if kind == pafs.FileType.Directory else kind_of_file(os.stat(location.path).st_mode)
        raise OutputExistsError(
            f"The output {location.url!r} is {what} and a Parquet file is to go there; remove it, or give another "
            "output_path."
        )


def output_exists(location: Location) -> bool:
    """Whether anything lies at the output's path: of a store, an object of this name or some below it."""
    if location.has_folders:
        return bool(location.info().type != pafs.FileType.NotFound)
    below = pafs.FileSelector(location.path, allow_not_found=True)
    listing = begin(partial(location.filesystem.get_file_info, below), "mullama-look")
    try:
        return location.is_file() or bool(listing.result())
    except (OSError, pa.ArrowException) as error:
        raise StorageUnavailableError(f"{location.url!r} cannot be looked up: {error}.") from error
