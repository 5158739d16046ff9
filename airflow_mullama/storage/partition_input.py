"""A partition's rows, whatever format its files have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import DataFormat, data_format
from airflow_mullama.storage.parquet.annotations import Annotations
from airflow_mullama.storage.parquet.input import ParquetInput, open_input, read_footer
from airflow_mullama.storage.parquet.input import with_exact_timestamps as parquet_with_exact_timestamps
from airflow_mullama.storage.parquet.int96 import Int96
from airflow_mullama.storage.parquet.unified_schema import SchemaDrift
from airflow_mullama.storage.text.input import open_text_input


class InputFile(Protocol):
    """One file of a partition."""

    @property
    def location(self) -> Location:
        """Where it lies."""
        ...


class PartitionInput(Protocol):
    """A partition that can be read again and again."""

    @property
    def files(self) -> Sequence[InputFile]:
        """In the order in which their rows count."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of all files."""
        ...

    @property
    def identity(self) -> str:
        """Hash of what distinguishes this state of the files from others."""
        ...

    @property
    def rows(self) -> int:
        """Rows of all files."""
        ...

    @property
    def size(self) -> int:
        """Bytes of all files."""
        ...

    @property
    def annotations(self) -> Annotations:
        """Logical types of Parquet that Arrow does not know."""
        ...

    @property
    def int96(self) -> Int96:
        """What it has of this old type of timestamps."""
        ...

    @property
    def promotions(self) -> Sequence[str]:
        """What of its files' schemas was made equal, for people; empty where they are the same."""
        ...

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """Rows that could not be read, all of whose columns are null, and why; by position in the partition."""
        ...

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the rows from ``first_row`` on, in batches that have a bound in bytes; ``None`` reads all columns."""
        ...


class PartitionSource(Protocol):
    """What a partition is read from, if it is not files."""

    def open(self) -> PartitionInput:
        """As it is now.

        Raises:
            InputNotFoundError, InputUnreadableError, StorageUnavailableError
        """
        ...


def open_partition(
    files: Sequence[Location],
    *,
    schema_drift: SchemaDrift = "promote",
    check_stopped: Callable[[], None] = lambda: None,
) -> PartitionInput:
    """Open a partition: read the footers of Parquet, and all of what has none.

    Args:
        files: in the order in which their rows count.
        schema_drift: what to do about files whose schemas differ.
        check_stopped: called often; raises to give up.

    Raises:
        InputNotFoundError: a file is not there.
        InputUnreadableError: damaged, files of several formats, or files that do not fit together.
    """
    format_ = format_of(files)
    if format_ is DataFormat.PARQUET:
        return open_input(files, schema_drift=schema_drift, check_stopped=check_stopped)
    return open_text_input(files, format_, schema_drift=schema_drift, check_stopped=check_stopped)


def with_exact_timestamps(source: PartitionInput, check_stopped: Callable[[], None] = lambda: None) -> PartitionInput:
    """An input with its INT96 timestamps, if it has any, in a unit that changes none of them.

    Raises:
        UnsupportedColumnError: there is no such unit.
        InputUnreadableError, InputChangedError, StorageUnavailableError
    """
    return parquet_with_exact_timestamps(source, check_stopped) if isinstance(source, ParquetInput) else source


def count_rows(files: Sequence[Location]) -> int:
    """The rows of a partition. Parquet's footers say it, all else is read.

    Raises:
        InputNotFoundError, InputUnreadableError: see :func:`open_partition`.
    """
    if format_of(files) is DataFormat.PARQUET:
        return sum(read_footer(file).num_rows for file in files)
    return open_partition(files).rows


def format_of(files: Sequence[Location]) -> DataFormat:
    """The one format of a partition's files; Parquet, where a name tells none.

    Raises:
        InputUnreadableError: there are several.
    """
    by_format = {data_format(file.name) or DataFormat.PARQUET: file for file in files}
    if len(by_format) > 1:
        names = " and ".join(sorted(f"{file.name!r} ({format_.value})" for format_, file in by_format.items()))
        raise InputUnreadableError(
            f"The partition {files[0].parent.url!r} holds files of several formats, {names}; move those of one format "
            "to a directory of their own."
        )
    return next(iter(by_format), DataFormat.PARQUET)
