"""Where a partition's output goes, whatever keeps it there: a Parquet file, or one partition of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.staging.stage import Stage


@dataclass(frozen=True, kw_only=True)
class NewOutput:
    """What a partition's output is made of, and what is asked on the way.

    Args:
        source: the input, read again for all its columns.
        chunks: the outcomes of all rows, in order: ``row`` and the added columns.
        columns: the added columns.
        output_prefix: put before their names.
        temporary: on the filesystem of the output, where a file may lie before it is published.
        manifest: called after the last row.
        check_stopped: called between batches; raises to give up, and nothing is published.
        replaces: the version of what it may replace (:meth:`PartitionOutput.version`); ``None``: there may be nothing.
    """

    source: PartitionInput
    chunks: Iterable[pa.Table]
    columns: ResultColumns
    output_prefix: str
    temporary: Location
    manifest: Callable[[], PartitionManifest]
    check_stopped: Callable[[], None]
    replaces: str | None


class OutputRows(Protocol):
    """The rows of a published output, open to be read in any order; they lie in groups."""

    @property
    def group_rows(self) -> Sequence[int]:
        """How many rows each group has, in order."""
        ...

    def group(self, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one group, as they are stored."""
        ...

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns of all rows, in order."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class PublishedOutput(Protocol):
    """A partition that an earlier run published."""

    @property
    def manifest(self) -> PartitionManifest:
        """As it was published."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of all its columns."""
        ...

    @property
    def keeps_order(self) -> bool:
        """Whether its rows are where the run that published them put them."""
        ...

    def has_columns(self, columns: ResultColumns, output_prefix: str) -> bool:
        """Whether it has the columns that a job adds."""
        ...

    def outcomes(self, columns: ResultColumns, output_prefix: str) -> Iterator[pa.RecordBatch]:
        """Stream the added columns, without prefix, in row order."""
        ...

    def rows(self, int96_unit: Unit = DEFAULT_UNIT) -> OutputRows:
        """Open it; its timestamps of the type INT96 are read in a unit."""
        ...


class PartitionOutput(Protocol):
    """The place of one partition's output."""

    @property
    def location(self) -> Location:
        """What people call it."""
        ...

    def exists(self) -> bool:
        """Whether there is anything.

        Raises:
            OutputExistsError: something is there that can never be an output.
        """
        ...

    def version(self) -> str | None:
        """What tells what is there from whatever was, or will be, there; ``None`` if there is nothing.

        Raises:
            StorageUnavailableError: it cannot be found out.
        """
        ...

    def published(self) -> PublishedOutput | None:
        """What is there, if this package published it; ``None`` for anything else.

        Raises:
            StorageUnavailableError: it cannot be read, so that nothing can be said of it.
        """
        ...

    def require_writable(self, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> None:
        """Find out whether the rows of a partition, and the columns that a job adds, can be written here.

        Raises:
            UnsupportedColumnError: a column cannot be written as it is.
            OutputExistsError: what is there has other columns.
        """
        ...

    def tidy(self) -> None:
        """Remove what killed attempts may have left here besides a stage.

        Raises:
            StorageUnavailableError: it cannot be looked for.
        """
        ...

    def stage(self, fingerprint: str, schema: pa.Schema) -> Stage:
        """Where chunks are made durable before they are published; nothing is created."""
        ...

    def write(self, new: NewOutput) -> int:
        """Write the partition's output and publish it whole, in the place of what it may replace.

        Returns:
            Bytes that were written.

        Raises:
            AccountingError: outcomes and input rows do not match.
            StageVanishedError: outcomes are missing, or what was written was removed.
            OutputChangedError: there is something else than it may replace; it is left so.
            OutputNotWritableError: the place refuses to be written.
            OutputUnreadableError: what was written cannot be read back.
        """
        ...
