"""Joining input rows and their outcomes into one Parquet file, and reading back what an earlier run published."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama.errors import AccountingError, OutputExistsError, StageVanishedError, StorageUnavailableError
from airflow_mullama.manifest import FOOTER_KEY, PartitionManifest
from airflow_mullama.rows import ResultColumns
from airflow_mullama.steps import reached
from airflow_mullama.storage.commit import publish_file, writing
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet_input import BATCH_ROWS, ParquetInput
from airflow_mullama.storage.unpublished import remove_left_behind, unpublished_file
from airflow_mullama.storage.vector_columns import from_stored, is_vector, stored_type, to_stored

ROW_GROUP_ROWS = 25_000
ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class PublishedOutput:
    """A partition that an earlier run published.

    Args:
        location: of the Parquet file.
        manifest: from its footer.
    """

    location: Location
    manifest: PartitionManifest

    def outcomes(self, columns: ResultColumns, output_prefix: str) -> Iterator[pa.RecordBatch]:
        """Stream the added columns, without prefix, in row order."""
        names = [output_prefix + field.name for field in columns.fields]
        with pq.ParquetFile(self.location.path, filesystem=self.location.filesystem, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                arrays = [
                    from_stored(batch.column(name), kind)
                    for name, kind in zip(names, columns.schema.types, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=columns.schema)


def read_published(location: Location) -> PublishedOutput | None:
    """The output that is there, if this package published it; ``None`` for anything else.

    Raises:
        StorageUnavailableError: it cannot be read, so that nothing can be said of it.
    """
    if not output_exists(location):
        return None
    try:
        with pq.ParquetFile(location.path, filesystem=location.filesystem, pre_buffer=False) as file:
            metadata = file.metadata
            stored = (metadata.metadata or {}).get(FOOTER_KEY)
        if stored is None:
            return None
        # A file cannot hold its own size.
        manifest = replace(PartitionManifest.from_json(json.loads(stored)), bytes_out=location.info().size or 0)
    except OSError as error:
        # Arrow says so of a footer that is no footer; anything else may pass, and must not look like a foreign file.
        if error.errno is None and "thrift" in str(error).lower():
            return None
        raise StorageUnavailableError(f"The output {location.url!r} is there and cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    if manifest.rows != metadata.num_rows:
        return None
    return PublishedOutput(location, manifest)


def write_output(
    *,
    source: ParquetInput,
    chunks: Iterable[pa.Table],
    columns: ResultColumns,
    output_prefix: str,
    target: Location,
    temporary: Location,
    manifest: Callable[[], PartitionManifest],
    check_stopped: Callable[[], None],
) -> int:
    """Write the partition's output and publish it whole.

    Args:
        source: the input, read again for all its columns.
        chunks: the outcomes of all rows, in order: ``row`` and the added columns.
        columns: the added columns.
        output_prefix: put before their names.
        target: the final place.
        temporary: on the target's filesystem, where the file may lie before it is published.
        manifest: called after the last row; its result goes into the footer.
        check_stopped: called between batches; raises to give up, and nothing is published.

    Returns:
        The published file's size in bytes.

    Raises:
        AccountingError: outcomes and input rows do not match.
        StageVanishedError: outcomes are missing, or the unpublished file was removed.
        OutputNotWritableError: the place refuses to be written.
    """
    added = [field.with_name(output_prefix + field.name).with_type(stored_type(field.type)) for field in columns.fields]
    schema = pa.schema([*source.schema, *added], metadata=source.schema.metadata)
    if target.is_local:
        local_path, mode = temporary.path, 0o666
        with writing(target):
            os.makedirs(temporary.parent.path, exist_ok=True)
    else:
        local_path, mode = os.path.join(tempfile.gettempdir(), temporary.name), 0o600
    remove_left_behind(os.path.dirname(local_path))
    with writing(target), _present(local_path), unpublished_file(local_path, mode) as file:
        with pq.ParquetWriter(file, schema, **_encodings(schema)) as writer:
            for table in _row_groups(_joined(source, chunks, columns, schema, check_stopped), schema):
                reached("write")
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            writer.add_key_value_metadata({FOOTER_KEY: manifest().to_footer()})
        file.flush()
        reached("publish")
        size = os.fstat(file.fileno()).st_size
        publish_file(local_path, target, staging=None if target.is_local else temporary)
    return size


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How columns are encoded.

    Vectors never repeat, so a dictionary only costs; with the bytes of their floats split by place they take a tenth
    less space and are read three times faster (measured with 384 floats).
    """
    vectors = {
        f"{field.name}.list.element": pa.types.is_float32(field.type.value_type)
        for field in schema
        if is_vector(field.type)
    }
    if not vectors:
        return {"compression": "zstd"}
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(empty.getvalue()).schema
    paths = [leaves.column(number).path for number in range(len(leaves))]
    return {
        "compression": "zstd",
        "use_dictionary": [path for path in paths if path not in vectors],
        "use_byte_stream_split": [path for path, is_float in vectors.items() if is_float] or False,
    }


@contextlib.contextmanager
def _present(local_path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StageVanishedError(f"The unpublished file {local_path!r} is gone.") from error


def _joined(
    source: ParquetInput,
    chunks: Iterable[pa.Table],
    columns: ResultColumns,
    schema: pa.Schema,
    check_stopped: Callable[[], None],
) -> Iterator[pa.Table]:
    outcomes = _Rows(chunks)
    names = [field.name for field in columns.fields]
    start = 0
    for batch in source.batches():
        check_stopped()
        table = outcomes.take(start, batch.num_rows)
        start += batch.num_rows
        arrays = [*batch.columns, *(to_stored(table.column(name)) for name in names)]
        yield pa.table(arrays, schema=schema)
    if start != source.rows or outcomes.left():
        raise AccountingError(f"The input had {source.rows} rows and {start} were read again; nothing was published.")


class _Rows:
    """Cuts a stream of chunk tables to the borders of the input's batches."""

    def __init__(self, chunks: Iterable[pa.Table]) -> None:
        self._chunks = iter(chunks)
        self._table: pa.Table | None = None

    def take(self, start: int, count: int) -> pa.Table:
        """The outcomes of rows ``[start, start + count)``."""
        parts: list[pa.Table] = []
        wanted = count
        while wanted:
            if self._table is None or self._table.num_rows == 0:
                self._table = next(self._chunks, None)
                if self._table is None:
                    raise StageVanishedError(f"The staged outcome of row {start + count - wanted} is gone.")
                continue
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


def _row_groups(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather batches to row groups of a sound size."""
    gathered: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        gathered.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield pa.concat_tables(gathered)


def refuse_directory(location: Location) -> None:
    """Raise OutputExistsError if a directory lies where the output file is to go."""
    if location.is_local and location.info().type == pafs.FileType.Directory:
        raise OutputExistsError(
            f"The output {location.url!r} is a directory and a Parquet file is to go there; remove it, or give another "
            "output_path."
        )


def output_exists(location: Location) -> bool:
    """Whether anything lies at the output's path."""
    return bool(location.info().type != pafs.FileType.NotFound)
