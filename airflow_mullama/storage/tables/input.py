"""Streaming the rows of a table's partition: file after file, without deleted ones, as the table's columns."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from airflow_mullama.errors import InputChangedError
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.parquet.annotations import Annotations
from airflow_mullama.storage.parquet.input import InputFile, refuse_encrypted_columns, row_group_rows
from airflow_mullama.storage.parquet.int96 import NO_INT96, Int96, Unit
from airflow_mullama.storage.parquet.stream import ParquetStream
from airflow_mullama.storage.read_errors import reading
from airflow_mullama.storage.tables.table import (
    DataFile,
    Positions,
    Table,
    TableHandle,
    TablePartition,
    not_there,
    partition_of,
    require_table,
)

# Both formats keep microseconds, and old writers of them INT96.
INT96_UNIT: Unit = "us"


@dataclass(frozen=True)
class FileRows:
    """The rows of one data file.

    Args:
        file: which.
        schema: of its own columns.
        groups: rows of its row groups, deleted ones too.
        deleted: positions of the deleted ones.
    """

    file: DataFile
    schema: pa.Schema
    groups: tuple[int, ...]
    deleted: Positions

    @property
    def kept(self) -> tuple[int, ...]:
        """Rows of its row groups without the deleted ones."""
        ends = np.cumsum([0, *self.groups])
        gone = np.searchsorted(self.deleted, ends)
        return tuple(int(rows) for rows in np.diff(ends - gone))


class TableInput:
    """A partition of one state of a table, that can be read again and again.

    Args:
        schema: of the table.
        partition: of it.
    """

    def __init__(self, schema: pa.Schema, partition: TablePartition) -> None:
        self.schema = schema
        self._partition = partition

    @property
    def files(self) -> Sequence[InputFile]:
        """None that a path says anything of: what its rows are, the table says."""
        return ()

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the table's columns, and of the files and the rows deleted from them."""
        digest = hashlib.sha256(f"{self.schema}\n{self._partition.values}\n".encode())
        for file in self._partition.files:
            digest.update(f"{file.identity}\n".encode())
        return digest.hexdigest()

    @property
    def rows(self) -> int:
        """Rows of all files that are not deleted."""
        return sum(self.group_rows)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._partition.size

    @property
    def annotations(self) -> Annotations:
        """None: columns have the table's types."""
        return {}

    @property
    def int96(self) -> Int96:
        """Nothing: columns have the table's types."""
        return NO_INT96

    @property
    def promotions(self) -> Sequence[str]:
        """None: a table has one schema."""
        return ()

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """None: of a table, all or nothing can be read."""
        return {}

    @functools.cached_property
    def file_rows(self) -> Sequence[FileRows]:
        """The rows of each file: its footer says how many there are.

        Raises:
            InputNotFoundError, InputUnreadableError, StorageUnavailableError
        """
        return [_rows_of(file) for file in self._partition.files]

    @property
    def group_rows(self) -> Sequence[int]:
        """Rows of all row groups of all files, one after the other."""
        return [rows for one in self.file_rows for rows in one.kept]

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the rows from ``first_row`` on, in batches that have a bound in bytes.

        Args:
            columns: names of the table's columns; ``None`` reads all.
            first_row: row groups before it are not read.

        Raises:
            InputChangedError: a file vanished, or is another.
            InputUnreadableError: damaged data.
        """
        names = self.schema.names if columns is None else list(columns)
        for one in self.file_rows:
            groups = list(range(len(one.groups)))
            while groups and first_row >= one.kept[groups[0]]:
                first_row -= one.kept[groups.pop(0)]
            if groups:
                yield from _batches(one, groups, names, first_row)
                first_row = 0

    def group(self, number: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream one row group, as :attr:`group_rows` counts them; the same errors."""
        for one in self.file_rows:
            if number < len(one.groups):
                yield from _batches(one, [number], names)
                return
            number -= len(one.groups)


@dataclass(frozen=True)
class TableSource:
    """A partition of a table as it is now, or in the state that its address names.

    Args:
        handle: of the table.
        values: of the partition.
    """

    handle: TableHandle
    values: HiveValues

    def open(self) -> TableInput:
        """Ask the table for the partition's files.

        Raises:
            InputNotFoundError, TableFormatError, StorageUnavailableError
        """
        return self.open_in(require_table(self.handle))

    def open_in(self, table: Table) -> TableInput:
        """The same in a state of the table that is at hand, so that it is not asked for each of many partitions.

        Raises:
            InputNotFoundError, TableFormatError, StorageUnavailableError
        """
        partition = partition_of(table, self.values)
        if partition is None:
            raise not_there(self.handle.location, self.values)
        return TableInput(table.schema, partition)


def _rows_of(file: DataFile) -> FileRows:
    with reading(file.location), ParquetStream(file.location, int96_unit=INT96_UNIT) as parquet:
        refuse_encrypted_columns(parquet.metadata, parquet.footer(), file.location)
        groups = row_group_rows(parquet.metadata, file.location)
        parquet.refuse_heavy_pages()
        return FileRows(file, parquet.schema, groups, file.deleted())


def _batches(one: FileRows, groups: Sequence[int], names: Sequence[str], skip: int = 0) -> Iterator[pa.RecordBatch]:
    """Stream some row groups of a file, but for so many rows at their beginning."""
    location, columns = one.file.location, one.file.columns
    stored = columns.stored_names(one.schema, names) or one.schema.names[:1]
    with reading(location, changed=True), ParquetStream(location, stored, INT96_UNIT) as parquet:
        if parquet.metadata.num_rows != sum(one.groups):
            raise InputChangedError(
                f"The file {location.url!r} had {sum(one.groups)} rows and now has {parquet.metadata.num_rows}, though "
                "files of a table never change; run the task again."
            )
        for number in groups:
            first = sum(one.groups[:number])
            for batch in parquet.row_group(number):
                kept = _without(batch, one.deleted, first)
                first += batch.num_rows
                if skip >= kept.num_rows:
                    skip -= kept.num_rows
                    continue
                yield columns.as_of_table(kept.slice(skip), one.schema, names)
                skip = 0


def _without(batch: pa.RecordBatch, deleted: Positions, first: int) -> pa.RecordBatch:
    """A batch that begins at row ``first`` of its file, without the deleted rows."""
    low, high = np.searchsorted(deleted, [first, first + batch.num_rows])
    if low == high:
        return batch
    kept = np.ones(batch.num_rows, bool)
    kept[deleted[low:high] - first] = False
    return batch.filter(pa.array(kept))
