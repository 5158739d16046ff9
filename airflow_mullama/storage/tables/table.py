"""What a table is to this package, whichever format keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mullama.errors import InputNotFoundError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.tables.keys import described

Positions = npt.NDArray[np.int64]
NO_POSITIONS: Positions = np.empty(0, np.int64)
ANY: HiveValues = {}


class StoredColumns(Protocol):
    """How a data file's columns become the table's."""

    def stored_names(self, file_schema: pa.Schema, names: Sequence[str]) -> list[str]:
        """The file's columns that are needed for some of the table's."""
        ...

    def as_of_table(self, batch: pa.RecordBatch, file_schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        """Rows of the file with the table's columns, in the order of ``names``."""
        ...


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a table.

    Args:
        location: where it lies.
        size: its bytes.
        identity: what tells this state of it from others, the rows that are deleted from it too.
        columns: makes the table's columns of its own.
        deleted: positions of the rows that are deleted from it, ascending.
    """

    location: Location
    size: int
    identity: str
    columns: StoredColumns
    deleted: Callable[[], Positions] = lambda: NO_POSITIONS


@dataclass(frozen=True)
class TablePartition:
    """The data files of one partition of a table, in the order of their paths.

    Args:
        values: of the table's partition keys, in their order; empty for a table without any.
        files: its data files.
    """

    values: HiveValues
    files: Sequence[DataFile]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def is_wanted(self, where: HiveFilter | None, values: HiveValues) -> bool:
        """Whether a filter lets it pass, and it has these values."""
        return values.items() <= self.values.items() and (where is None or where.matches(self.values))


class Table(Protocol):
    """One state of a table."""

    @property
    def schema(self) -> pa.Schema:
        """All columns, those that it is partitioned by too."""
        ...

    @property
    def state(self) -> str:
        """Which state this is, for people: ``version 12``."""
        ...

    def partitions(self, where: HiveFilter | None = None, values: HiveValues = ANY) -> Sequence[TablePartition]:
        """Its partitions, in the order of their names.

        Args:
            where: leaves out those that it rules out.
            values: leaves out those that do not have them.

        Raises:
            TableFormatError: the table has something that cannot be read.
            StorageUnavailableError: what says so cannot be read now.
        """
        ...


class TableHandle(Protocol):
    """A table, whatever its state."""

    @property
    def location(self) -> Location:
        """Of the table."""
        ...

    def current(self) -> Table | None:
        """The table as it is now, or in the state that its address names; ``None`` where there is none.

        Raises:
            TableFormatError, StorageUnavailableError, ConfigurationError
        """
        ...


def require_table(handle: TableHandle) -> Table:
    """The table as it is now.

    Raises:
        InputNotFoundError: there is none.
    """
    table = handle.current()
    if table is None:
        raise InputNotFoundError(f"There is no table at {handle.location.url!r}.")
    return table


def partition_of(table: Table, values: HiveValues) -> TablePartition | None:
    """The partition that has these values."""
    return next((one for one in table.partitions(values=values) if one.values == values), None)


def not_there(location: Location, values: HiveValues) -> InputNotFoundError:
    """The error for a partition that is gone, or never was."""
    if not values:
        return InputNotFoundError(f"The table {location.url!r} has no rows.")
    return InputNotFoundError(f"The table {location.url!r} has no partition {described(values)}.")
