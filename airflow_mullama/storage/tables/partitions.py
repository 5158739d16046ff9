"""The partitions of a table, as units of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import HiveValues
from airflow_mullama.storage.hive_filter import HiveFilter
from airflow_mullama.storage.listing import KeysSeen
from airflow_mullama.storage.tables.formats import open_table
from airflow_mullama.storage.tables.input import TableSource
from airflow_mullama.storage.tables.keys import described, split_address, with_values
from airflow_mullama.storage.tables.output import TableOutput, TableWriter
from airflow_mullama.storage.tables.table import not_there, require_table


@dataclass(frozen=True)
class FoundPartition:
    """A partition of a table that was found.

    Args:
        location: its address.
        table: the address of the table.
        values: of the table's partition keys.
        source: what it is read from.
        size: bytes of its files.
    """

    location: Location
    table: Location
    values: HiveValues
    source: TableSource
    size: int


def table_partitions(location: Location, where: HiveFilter | None, seen: KeysSeen) -> Iterator[FoundPartition]:
    """The partitions that an address of a table stands for, in the order of their names.

    Args:
        location: of a table, behind which segments of partitions may stand.
        where: leaves out what it rules out.
        seen: is told of what was found; where nothing is wanted, of all that is there.

    Raises:
        InputNotFoundError: there is no such table, or it has no partition of the values in its address.
        DependencyMissingError: the package for its format is not installed.
        TableFormatError, InputUnreadableError, StorageUnavailableError: it cannot be read.
    """
    root, values = split_address(location)
    handle = open_table(root)
    table = require_table(handle)
    found = table.partitions(where, values)
    there = found or table.partitions(values=values)  # what there is, for a message
    if not there:
        raise not_there(root, values)
    seen.reached_files = True
    for partition in there:
        for key, value in partition.values.items():
            seen.values.setdefault(key, set()).add(value)
    for partition in found:
        source = TableSource(handle, partition.values)
        yield FoundPartition(with_values(root, partition.values), root, partition.values, source, partition.size)


def partition_output(writer: TableWriter, output: Location, values: HiveValues) -> TableOutput:
    """Where a partition of the input goes in a table.

    Args:
        writer: of the table.
        output: the table's address, behind which segments of a partition may stand.
        values: of the input's hive keys, or of its table's partition keys.

    Raises:
        ConfigurationError: the two name different partitions.
    """
    root, given = split_address(output)
    merged = {**values, **given}
    if any(merged[key] != value for key, value in values.items()):
        raise ConfigurationError(
            f"The input's partition {described(values)} is to go to {output.url!r}, which is another one; leave the "
            "partition out of output_path."
        )
    return TableOutput(writer, with_values(root, merged), merged)
