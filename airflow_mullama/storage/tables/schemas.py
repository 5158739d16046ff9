"""Whether rows fit into a table that is there."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError, OutputExistsError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.tables.table import TablePartition
from airflow_mullama.storage.tables.types import same_type


def refuse_other_keys(table: Location, keys: Sequence[str], values: HiveValues) -> None:
    """Refuse a partition that the table cannot have.

    Raises:
        ConfigurationError: the table is partitioned by something else.
    """
    if set(keys) != set(values):
        ours = ", ".join(values) or "nothing"
        theirs = ", ".join(keys) or "nothing"
        raise ConfigurationError(
            f"The table {table.url!r} is partitioned by {theirs}, and the input by {ours}; give another output_path."
        )


def refuse_other_types(table: Location, there: pa.Schema, wanted: pa.Schema) -> None:
    """Refuse rows of which a column has another type than the table's, or that lack one that must not be null.

    Raises:
        OutputExistsError: names the column.
    """
    for field in wanted:
        if field.name in there.names and not same_type(there.field(field.name).type, field.type):
            raise OutputExistsError(
                f"The table {table.url!r} has the column {field.name!r} as {there.field(field.name).type}, and it is "
                f"to be {field.type}; give another output_path, or an output_prefix."
            )
    for field in there:
        if not field.nullable and field.name not in wanted.names:
            raise OutputExistsError(
                f"The table {table.url!r} has the column {field.name!r}, which must not be null and which the input "
                "does not have; give another output_path."
            )


def file_identities(partition: TablePartition | None) -> list[str]:
    """What tells a state of a partition from others."""
    return [] if partition is None else [file.identity for file in partition.files]
