"""Streaming a partition's Parquet files: one schema, rows in order, only the columns that are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama.errors import InputChangedError, InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.filesystems import Location

# Small enough that a batch of long texts is no burden, large enough that a batch's overhead is none.
BATCH_ROWS = 4096
# Column chunks are streamed through a buffer instead of being read whole, so that a huge row group costs no memory.
READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """One Parquet file as it was when the partition was opened."""

    location: Location
    rows: int
    size: int
    row_group_rows: tuple[int, ...]


@dataclass(frozen=True)
class ParquetInput:
    """A partition that can be read again and again.

    Args:
        files: in the order in which their rows count.
        schema: of every file, with the first one's metadata.
        identity: hash of what tells this state of the files from any other: names, sizes, modification times and
            Parquet footers.
    """

    files: tuple[InputFile, ...]
    schema: pa.Schema
    identity: str

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the rows from ``first_row`` on.

        Args:
            columns: names to read, each a top-level column; ``None`` reads all.
            first_row: row groups before it are not read.

        Raises:
            InputChangedError: a file vanished or has other rows than before.
            InputUnreadableError: damaged data.
        """
        start = 0
        for file in self.files:
            if start + file.rows > first_row:
                yield from _file_batches(file, columns, max(0, first_row - start))
            start += file.rows


def open_input(files: Sequence[Location]) -> ParquetInput:
    """Read the footers of a partition's files.

    Raises:
        InputNotFoundError: a file is not there.
        InputUnreadableError: not Parquet, damaged, or two files with different columns.
    """
    opened: list[InputFile] = []
    schema: pa.Schema | None = None
    identity = hashlib.sha256()
    for location in files:
        info = location.info()
        if info.type != pafs.FileType.File:
            raise InputNotFoundError(f"The input file {location.url!r} is not there.")
        with _reading(location), ExitStack() as stack:
            file = stack.enter_context(_parquet_file(location))
            file_schema = file.schema_arrow
            metadata = file.metadata
            groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        if schema is None:
            schema = file_schema
            _refuse_repeated_names(schema, location)
        elif not file_schema.equals(schema):
            raise InputUnreadableError(_schema_difference(files[0], schema, location, file_schema))
        opened.append(InputFile(location, metadata.num_rows, info.size or 0, groups))
        identity.update(f"{location.name}|{info.size}|{info.mtime_ns}|{_footer_digest(location, info.size)}\n".encode())
    if schema is None:
        raise InputNotFoundError("The partition has no files.")
    return ParquetInput(tuple(opened), schema, identity.hexdigest())


def read_footer(location: Location) -> pq.FileMetaData:
    """What a file says of itself: rows, row groups, columns and their statistics.

    Raises:
        InputNotFoundError, InputUnreadableError
    """
    with _reading(location), _parquet_file(location) as file:
        return file.metadata


def _file_batches(file: InputFile, columns: Sequence[str] | None, skip: int) -> Iterator[pa.RecordBatch]:
    groups: list[int] = []
    for number, rows in enumerate(file.row_group_rows):
        if not groups and skip >= rows:
            skip -= rows
        else:
            groups.append(number)
    with _reading(file.location, changed=True), ExitStack() as stack:
        parquet = stack.enter_context(_parquet_file(file.location))
        if parquet.metadata.num_rows != file.rows:
            raise InputChangedError(
                f"The input file {file.location.url!r} had {file.rows} rows and now has {parquet.metadata.num_rows}: "
                "it was replaced while it was read; run the task again."
            )
        names = list(columns) if columns is not None else None
        # One row group at a time: a batch that spans two is not implemented in Arrow for nested dictionaries.
        for group in groups:
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                yield batch.slice(skip) if skip else batch
                skip = 0


def _parquet_file(location: Location) -> pq.ParquetFile:
    return pq.ParquetFile(
        location.path, filesystem=location.filesystem, pre_buffer=False, buffer_size=READ_BUFFER_BYTES
    )


@contextmanager
def _reading(location: Location, *, changed: bool = False) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if changed:
            raise InputChangedError(f"The input file {location.url!r} vanished while it was read.") from error
        raise InputNotFoundError(f"The input file {location.url!r} is not there.") from error
    except PermissionError as error:
        raise InputUnreadableError(f"The input file {location.url!r} may not be read by this user: {error}.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise InputUnreadableError(
            f"The input file {location.url!r} is not a readable Parquet file: {reason}; write it again, or take it out "
            "of the input."
        ) from error


def _footer_digest(location: Location, size: int | None) -> str:
    """Hash of the file's last bytes, where Parquet keeps offsets, sizes and statistics of every column chunk."""
    with _reading(location), location.filesystem.open_input_file(location.path) as file:
        end = size or 0
        file.seek(max(0, end - 8))
        footer_bytes = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - 8 - footer_bytes))
        return hashlib.sha256(file.read()).hexdigest()


def _refuse_repeated_names(schema: pa.Schema, location: Location) -> None:
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise InputUnreadableError(
            f"The input file {location.url!r} has several columns named {', '.join(map(repr, repeated))}; give each "
            "its own name."
        )


def _schema_difference(first: Location, schema: pa.Schema, other: Location, other_schema: pa.Schema) -> str:
    ours = {field.name: str(field.type) for field in schema}
    theirs = {field.name: str(field.type) for field in other_schema}
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        detail = f"column {name!r} is {ours.get(name, 'absent')} in one and {theirs.get(name, 'absent')} in the other"
    else:
        detail = "their columns have another order or nullability"
    return (
        f"The files {first.name!r} and {other.name!r} of one partition have different columns ({detail}); write them "
        "with one schema, or process them as partitions of their own."
    )
