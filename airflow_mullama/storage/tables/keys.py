"""Partitions of tables as segments of an address: ``/ds=2026-01-31/region=eu``, escaped as Hive's paths are."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Mapping
from urllib.parse import quote

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError, UnsupportedColumnError
from airflow_mullama.storage.addresses import split_pin, table_format
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import NULL_VALUE, HiveValues, hive_values, is_hive_segment

# What stands in a segment as it is; so do letters, digits and "_.-~".
PLAIN = " :,+@"


def split_address(location: Location) -> tuple[Location, dict[str, str | None]]:
    """The table that an address names, and the values of the partition or partitions of it.

    Args:
        location: of a table, behind which segments of partitions may stand.
    """
    segments = []
    while is_hive_segment(location.name):
        segments.append(location.name)
        location = location.parent
    return location, hive_values("/".join(reversed(segments)))


def with_values(table: Location, values: HiveValues) -> Location:
    """The address of a table's partition."""
    return table.join(*key_segments(values)) if values else table


def key_segments(values: HiveValues) -> list[str]:
    """The segments that say these values."""
    return [
        f"{quote(key, safe=PLAIN)}={NULL_VALUE if value is None else quote(value, safe=PLAIN)}"
        for key, value in values.items()
    ]


def is_pinned(location: Location) -> bool:
    """Whether an address names one state of its table."""
    return table_format(location.address) is not None and split_pin(location.address)[1] is not None


def value_text(key: str, value: object) -> str | None:
    """A partition's value as an address writes it.

    Raises:
        UnsupportedColumnError: an address cannot hold such a value.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise UnsupportedColumnError(
        f"The table is partitioned by {key!r}, whose values are {type(value).__name__}, and a partition has no name "
        "then; partition the table by text, numbers or dates."
    )


def normalised(values: HiveValues, schema: pa.Schema) -> dict[str, str | None]:
    """The values as a table with these columns writes them: ``03`` is ``3`` in a column of numbers.

    Raises:
        ConfigurationError: one is none of its column's type.
    """
    written = dict(values)
    for key in values.keys() & set(schema.names):
        kind = schema.field(key).type
        try:
            written[key] = value_text(key, pa.scalar(values[key], pa.string()).cast(kind).as_py())
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"The partition {described(values)} is to go to a table whose column {key!r} is {kind}, and "
                f"{values[key]!r} is none; give another output_path."
            ) from error
    return written


def described(values: Mapping[str, str | None]) -> str:
    """A partition, for people."""
    return "/".join(key_segments(values))
