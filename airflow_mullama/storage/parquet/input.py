"""Streaming a partition's Parquet files: one schema, rows in order, only the columns that are asked for."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from airflow_mullama.background import map_ahead
from airflow_mullama.errors import InputChangedError, InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.annotations import (
    TAIL_BYTES,
    Annotations,
    may_need_annotations,
    read_annotations,
)
from airflow_mullama.storage.parquet.dictionary_columns import wide_schema
from airflow_mullama.storage.parquet.finer_units import not_held, refuse_uncountable
from airflow_mullama.storage.parquet.footer_notes import Notes, shared_notes
from airflow_mullama.storage.parquet.int96 import (
    DEFAULT_UNIT,
    NO_INT96,
    Int96,
    Unit,
    find_int96,
    int96_of_all,
    unit_that_holds,
)
from airflow_mullama.storage.parquet.promoted_arrays import promoted
from airflow_mullama.storage.parquet.shared_annotations import AnnotatedFile, shared_annotations
from airflow_mullama.storage.parquet.stream import ParquetStream
from airflow_mullama.storage.parquet.unified_schema import ColumnKey, SchemaDrift, column_keys, unify
from airflow_mullama.storage.places import SOURCE_FOLDER
from airflow_mullama.storage.read_errors import reading

# A nonce and a tag of AES-GCM behind the footer (https://github.com/apache/parquet-format/blob/master/Encryption.md).
SIGNATURE_BYTES = 28
# Of a store, each file costs a few requests, which files of a partition make side by side.
FOOTERS_AT_ONCE = 16
FILES_AHEAD = 4


@dataclass(frozen=True)
class InputFile:
    """One Parquet file as it was when the partition was opened; ``schema`` is its own."""

    location: Location
    rows: int
    size: int
    row_group_rows: tuple[int, ...]
    int96: Int96
    schema: pa.Schema


@dataclass(frozen=True)
class ParquetInput:
    """A partition that can be read again and again.

    Args:
        files: in the order in which their rows count.
        schema: that every file is read as, with the notes that all their footers share as its metadata.
        identity: hash of what distinguishes this state of the files from others: names, sizes, modification times and
            Parquet footers; and the schema, where they do not all have the same.
        annotations: logical types of the columns that Arrow does not know.
        int96: what it has of this old type of timestamps.
        schema_drift: what to do about files whose schemas differ.
        promotions: what of them was made equal, for people.
    """

    files: tuple[InputFile, ...]
    schema: pa.Schema
    identity: str
    annotations: Annotations = field(default_factory=dict)
    int96: Int96 = NO_INT96
    schema_drift: SchemaDrift = "promote"
    promotions: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """None: of Parquet, all or nothing can be read."""
        return {}

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the rows from ``first_row`` on, in batches that have a bound in bytes.

        Args:
            columns: names to read, each a top-level column; ``None`` reads all.
            first_row: row groups before it are not read.

        Raises:
            InputChangedError: a file vanished or has other rows than before.
            InputUnreadableError: damaged data.
        """
        keys = dict(zip(column_keys(self.schema.names), self.schema, strict=True))
        wanted = keys if columns is None else {(name, 0): keys[name, 0] for name in columns}
        starts = itertools.accumulate((file.rows for file in self.files), initial=0)
        unread = [
            (file, start) for file, start in zip(self.files, starts, strict=False) if start + file.rows > first_row
        ]
        at_once = 1 if all(file.location.is_local for file, _ in unread) else FILES_AHEAD
        streams = map_ahead(partial(self._stream, columns), (file for file, _ in unread), at_once, "mullama-open")
        for (file, start), stream in zip(unread, streams, strict=True):
            for batch in _file_batches(file, stream, max(0, first_row - start)):
                yield _as_wanted(batch, wanted, file)

    def _stream(self, columns: Sequence[str] | None, file: InputFile) -> ParquetStream:
        names = None if columns is None else [name for name in columns if name in set(file.schema.names)]
        with reading(file.location, changed=True):
            return ParquetStream(file.location, names, self.int96.unit)


def _as_wanted(batch: pa.RecordBatch, wanted: Mapping[ColumnKey, pa.Field], file: InputFile) -> pa.RecordBatch:
    """A file's batch with the columns and types of the partition's schema."""
    if not wanted:
        return batch
    there = dict(zip(column_keys(batch.schema.names), batch.columns, strict=True))
    arrays = []
    for key, field_ in wanted.items():
        array = there[key] if key in there else pa.nulls(batch.num_rows)
        try:
            arrays.append(promoted(array, field_.type))
        except pa.ArrowInvalid as error:
            raise InputUnreadableError(not_held(file.location, key[0], array.type, field_.type, str(error))) from error
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(list(wanted.values())))


def open_input(
    files: Sequence[Location],
    int96_unit: Unit = DEFAULT_UNIT,
    *,
    schema_drift: SchemaDrift = "promote",
    check_stopped: Callable[[], None] = lambda: None,
) -> ParquetInput:
    """Read the footers of a partition's files.

    Args:
        files: in the order in which their rows count.
        int96_unit: in which INT96 timestamps are read; :func:`with_exact_timestamps` finds it out.
        schema_drift: what to do about files whose schemas differ: find one that holds them all, or refuse them.
        check_stopped: called for each file; raises to give up.

    Raises:
        InputNotFoundError: a file is not there.
        InputUnreadableError: not Parquet, damaged, or two files that do not fit together.
    """
    opened: list[InputFile] = []
    notes: list[Notes] = []
    annotations: list[Annotations] = []
    schema: pa.Schema | None = None
    identity = hashlib.sha256()
    at_once = 1 if all(location.is_local for location in files) else FOOTERS_AT_ONCE
    for footer in map_ahead(partial(_read_input_footer, int96_unit), files, at_once, "mullama-footer"):
        check_stopped()
        notes.append(footer.file.schema.metadata or {})
        annotations.append(footer.annotations)
        # One object for all files of one schema: thousands of them may have thousands of columns each.
        same = schema is not None and schema.equals(footer.file.schema)
        schema = schema if same else footer.file.schema.remove_metadata()
        opened.append(replace(footer.file, schema=schema))
        identity.update(footer.identity)
    if not opened:
        raise InputNotFoundError("The partition has no files.")
    schemas = [(file.location, file.schema) for file in opened]
    unified = unify(schemas, schema_drift)
    if unified.differences:
        refuse_uncountable(schemas, unified.schema, check_stopped)
    annotated = [
        AnnotatedFile(file.location.name, file.schema, of_file)
        for file, of_file in zip(opened, annotations, strict=True)
    ]
    if unified.differences:
        identity.update(f"read as {unified.schema.to_string(show_field_metadata=False)}\n".encode())
    return ParquetInput(
        tuple(opened),
        unified.schema.with_metadata(shared_notes(notes, one_schema=not unified.differences)),
        identity.hexdigest(),
        shared_annotations(annotated, unified.schema),
        int96_of_all([file.int96 for file in opened], int96_unit),
        schema_drift,
        unified.differences,
    )


@dataclass(frozen=True)
class _InputFooter:
    """What a file says of itself; the file's schema has the notes of its footer."""

    file: InputFile
    annotations: Annotations
    identity: bytes


def _read_input_footer(int96_unit: Unit, location: Location) -> _InputFooter:
    info = location.info() if location.has_folders else None
    if info is not None and info.type != pafs.FileType.File:
        raise InputNotFoundError(f"The input file {location.url!r} is not there.")
    with reading(location), ExitStack() as stack:
        file = stack.enter_context(ParquetStream(location, int96_unit=int96_unit))
        size, changed = file.state() if info is None else (info.size, info.mtime_ns)
        footer = file.footer()
        refuse_encrypted_columns(file.metadata, footer, location)
        schema = wide_schema(file.schema)
        groups = row_group_rows(file.metadata, location)
        int96 = find_int96(file.metadata.schema)
        needed = may_need_annotations(file.metadata.schema)
        annotations = read_annotations(footer[:-TAIL_BYTES]) if needed else {}
        file.refuse_heavy_pages()
    digest = hashlib.sha256(footer).hexdigest()
    # Rows that a function returned are written again by each run: their folder is named after their content.
    time_ = "" if SOURCE_FOLDER in location.path.split("/") else changed
    identity = f"{location.name}|{size}|{time_}|{digest}\n".encode()
    return _InputFooter(InputFile(location, sum(groups), size or 0, groups, int96, schema), annotations, identity)


def with_exact_timestamps(source: ParquetInput, check_stopped: Callable[[], None] = lambda: None) -> ParquetInput:
    """An input with its INT96 timestamps in a unit that changes none of them. Without any it is the same.

    Raises:
        UnsupportedColumnError: there is no such unit.
        InputUnreadableError, InputChangedError, StorageUnavailableError
    """
    if not source.int96.leaves:
        return source
    unit = unit_that_holds([(file.location, file.int96) for file in source.files], check_stopped)
    if unit == source.int96.unit:
        return source
    exact = open_input([file.location for file in source.files], unit, schema_drift=source.schema_drift)
    # Of the same files: in which unit their timestamps are read is no state of theirs.
    return replace(exact, identity=source.identity)


def row_group_rows(metadata: pq.FileMetaData, location: Location) -> tuple[int, ...]:
    """The rows of each row group, if the file does not contradict itself: some writers leave such files behind."""
    groups = []
    schema = metadata.schema
    # In a column without lists every row is a value, a null included.
    flat = [place for place in range(len(schema)) if schema.column(place).max_repetition_level == 0]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in flat:
            values = group.column(place).num_values
            if values != group.num_rows:
                raise InputUnreadableError(
                    f"The input file {location.url!r} contradicts itself: row group {number} has {group.num_rows} rows "
                    f"and {values} values of {schema.column(place).path!r}; write it again."
                )
        groups.append(group.num_rows)
    if sum(groups) != metadata.num_rows:
        raise InputUnreadableError(
            f"The input file {location.url!r} contradicts itself: its footer says {metadata.num_rows} rows and its row "
            f"groups hold {sum(groups)}, so that some readers see other rows than others; write it again."
        )
    return tuple(groups)


def read_footer(location: Location) -> pq.FileMetaData:
    """What a file says of itself: rows, row groups, columns and their statistics.

    Raises:
        InputNotFoundError, InputUnreadableError
    """
    with reading(location):
        return pq.read_metadata(location.path, filesystem=location.filesystem)


def _file_batches(file: InputFile, stream: ParquetStream, skip: int) -> Iterator[pa.RecordBatch]:
    groups: list[int] = []
    for number, rows in enumerate(file.row_group_rows):
        if not groups and skip >= rows:
            skip -= rows
        else:
            groups.append(number)
    with reading(file.location, changed=True), ExitStack() as stack:
        parquet = stack.enter_context(stream)
        if parquet.metadata.num_rows != file.rows:
            raise InputChangedError(
                f"The input file {file.location.url!r} had {file.rows} rows and now has {parquet.metadata.num_rows}: "
                "it was replaced while it was read; run the task again."
            )
        if not wide_schema(parquet.schema).equals(file.schema):
            raise InputChangedError(
                f"The input file {file.location.url!r} has other columns than before: it was replaced while it was "
                "read; run the task again."
            )
        for group in groups:
            held = 0
            for batch in parquet.row_group(group):
                held += batch.num_rows
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                    continue
                yield batch.slice(skip) if skip else batch
                skip = 0
            if held != file.row_group_rows[group]:
                raise InputUnreadableError(
                    f"The input file {file.location.url!r} contradicts itself: its footer says "
                    f"{file.row_group_rows[group]} rows for row group {group}, which holds {held}; write it again."
                )


def refuse_encrypted_columns(metadata: pq.FileMetaData, footer: bytes, location: Location) -> None:
    """A footer in the clear is signed where columns are encrypted; to look at such a column would end this process."""
    if len(footer) - TAIL_BYTES - metadata.serialized_size == SIGNATURE_BYTES:
        raise InputUnreadableError(
            f"The input file {location.url!r} has encrypted columns, and this package has no keys; decrypt it first, "
            "or take it out of the input."
        )
