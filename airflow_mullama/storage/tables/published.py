"""A table's partition that an earlier run published, read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.errors import StorageUnavailableError
from airflow_mullama.manifest import FOOTER_KEY, PartitionManifest
from airflow_mullama.rows import ResultColumns
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.tables.input import TableInput
from airflow_mullama.storage.tables.table import DataFile
from airflow_mullama.storage.tables.types import TableTypes, from_table, same_type


class PartitionRows:
    """The rows of a partition, whose groups are the row groups of its files."""

    def __init__(self, source: TableInput) -> None:
        self._source = source
        self.group_rows = source.group_rows

    def group(self, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one group."""
        fields = [self._source.schema.field(name) for name in names]
        return pa.Table.from_batches(self._source.group(number, names), pa.schema(fields))

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns of all rows."""
        yield from self._source.batches(names)

    def close(self) -> None:
        """Nothing is open between two calls."""


@dataclass(frozen=True)
class PublishedPartition:
    """A partition that this package published.

    Args:
        manifest: as it was published.
        keeps_order: whether its rows are where they were put; not, if somebody has written its files anew since.
        source: its rows.
        types: of the format.
    """

    manifest: PartitionManifest
    keeps_order: bool
    source: TableInput
    types: TableTypes

    @property
    def schema(self) -> pa.Schema:
        """Of the table."""
        return self.source.schema

    def has_columns(self, columns: ResultColumns, output_prefix: str) -> bool:
        """Whether the table has the columns that a job adds."""
        return all(
            output_prefix + field.name in self.schema.names
            and same_type(
                self.schema.field(output_prefix + field.name).type,
                self.types.of(field.name, field.type),
            )
            for field in columns.fields
        )

    def outcomes(self, columns: ResultColumns, output_prefix: str) -> Iterator[pa.RecordBatch]:
        """Stream the added columns, without prefix, in row order."""
        names = [output_prefix + field.name for field in columns.fields]
        for batch in self.source.batches(names):
            arrays = [
                from_table(column, kind) for column, kind in zip(batch.columns, columns.schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=columns.schema)

    def rows(self, int96_unit: Unit = DEFAULT_UNIT) -> PartitionRows:
        """Open it; a table's timestamps are microseconds."""
        return PartitionRows(self.source)


def manifest_in(file: DataFile) -> PartitionManifest | None:
    """The manifest in the footer of a data file; ``None`` where there is none, or one that contradicts it.

    Raises:
        StorageUnavailableError: it cannot be read now.
    """
    location = file.location
    try:
        metadata = pq.read_metadata(location.path, filesystem=location.filesystem)
        stored = (metadata.metadata or {}).get(FOOTER_KEY)
        manifest = None if stored is None else PartitionManifest.from_footer(stored)
    except OSError as error:
        raise StorageUnavailableError(f"The file {location.url!r} is there and cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    if manifest is None or manifest.rows_of_output != metadata.num_rows:
        return None
    return replace(manifest, bytes_out=file.size)
