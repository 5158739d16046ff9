"""How a data file of an Iceberg table has the table's columns: by the ids of its fields, as pyiceberg projects them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mullama.storage.tables.types import TableTypes

ICEBERG_TYPES = TableTypes("Iceberg", {pa.int8(): pa.int32(), pa.int16(): pa.int32()}, has_times=True)


def arrow_schema(schema: Any) -> pa.Schema:
    """An Iceberg schema as Arrow has it, with texts and lists of the common size.

    Raises:
        UnsupportedColumnError: a column has a type that Arrow has not.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    return pa.schema(
        [
            pa.field(one.name, ICEBERG_TYPES.of(one.name, one.type), one.nullable)
            for one in schema_to_pyarrow(schema, include_field_ids=False)
        ]
    )


@dataclass(frozen=True)
class IcebergColumns:
    """How the columns of one data file become the table's.

    Args:
        schema: the table's, as pyiceberg has it.
        arrow: the same, as Arrow has it.
        file: the data file, as pyiceberg has it.
        metadata: the table's.
    """

    schema: Any
    arrow: pa.Schema
    file: Any
    metadata: Any

    def stored_names(self, file_schema: pa.Schema, names: Sequence[str]) -> list[str]:
        """The file's columns that are needed for some of the table's."""
        return [column.name for column in self._needed(file_schema, tuple(names)).columns]

    def as_of_table(self, batch: pa.RecordBatch, file_schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
        """Rows of the file with the table's columns."""
        from pyiceberg.io.pyarrow import _to_requested_schema

        if not names:
            return batch.select([])
        needed = self._needed(file_schema, tuple(names))
        projected = _to_requested_schema(
            self._wanted(tuple(names)),
            needed,
            batch.select([column.name for column in needed.columns]) if needed.columns else batch,
            downcast_ns_timestamp_to_us=self._downcasts,
            projected_missing_fields=self._of_partition(self._wanted(tuple(names)), needed),
            allow_timestamp_tz_mismatch=True,
        )
        arrays = []
        for name in names:
            column, kind = projected.column(name), self.arrow.field(name).type
            column = column.storage if isinstance(column, pa.ExtensionArray) else column
            arrays.append(column if column.type.equals(kind) else column.cast(kind))
        fields = [self.arrow.field(name).with_nullable(True) for name in names]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    @property
    def _downcasts(self) -> bool:
        return bool(self.metadata.format_version <= 2)

    def _wanted(self, names: tuple[str, ...]) -> Any:
        return self.schema.select(*names)

    def _needed(self, file_schema: pa.Schema, names: tuple[str, ...]) -> Any:
        from pyiceberg.schema import prune_columns
        from pyiceberg.types import ListType, MapType

        wanted = self._wanted(names)
        ids = {one for one in wanted.field_ids if not isinstance(wanted.find_type(one), (MapType, ListType))}
        return prune_columns(self._file_schema(file_schema), ids, select_full_types=False)

    def _file_schema(self, file_schema: pa.Schema) -> Any:
        from pyiceberg.io.pyarrow import pyarrow_to_schema

        return pyarrow_to_schema(
            file_schema,
            self.metadata.name_mapping(),
            downcast_ns_timestamp_to_us=self._downcasts,
            format_version=self.metadata.format_version,
        )

    def _of_partition(self, wanted: Any, needed: Any) -> Any:
        """Values that the file lacks because the table is partitioned by them."""
        from pyiceberg.io.pyarrow import _get_column_projection_values

        spec = self.metadata.specs()[self.file.spec_id]
        return _get_column_projection_values(self.file, wanted, self.schema, spec, needed.field_ids)


@functools.cache
def projects_as_expected() -> bool:
    """Whether the installed pyiceberg has what is used of it here beyond its public face."""
    try:
        from pyiceberg.io.pyarrow import _get_column_projection_values, _read_deletes, _to_requested_schema
    except ImportError:
        return False
    return all(map(callable, (_get_column_projection_values, _read_deletes, _to_requested_schema)))
