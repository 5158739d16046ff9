"""Which folder knows a table's format."""

from __future__ import annotations

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.storage.addresses import table_format
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.tables.keys import is_pinned
from airflow_mullama.storage.tables.output import TableWriter
from airflow_mullama.storage.tables.table import TableHandle


def open_table(location: Location) -> TableHandle:
    """A table that is read.

    Raises:
        DependencyMissingError: the package for its format is not installed.
    """
    if table_format(location.address) == "iceberg":
        from airflow_mullama.storage.iceberg.table import IcebergHandle

        return IcebergHandle(location)
    from airflow_mullama.storage.delta.table import DeltaHandle

    return DeltaHandle(location)


def open_table_writer(location: Location) -> TableWriter:
    """A table that is written to; it need not be there yet.

    Raises:
        ConfigurationError: the address names an older state of it.
        DependencyMissingError: the package for its format is not installed.
    """
    if is_pinned(location):
        raise ConfigurationError(
            f"output_path {location.url!r} names a state of the table, and what is written makes a new one; leave it "
            "out."
        )
    if table_format(location.address) == "iceberg":
        from airflow_mullama.storage.iceberg.output import IcebergWriter

        return IcebergWriter(location)
    from airflow_mullama.storage.delta.output import DeltaWriter

    return DeltaWriter(location)
