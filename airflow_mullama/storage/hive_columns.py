"""A hive key that is also a column of the files: fine while both say the same.

Hive keys stay where they are: in the path of the input and of the output. They never become columns of an output, and
a template reads columns only. A file may repeat its key as a column, as some writers do. If the two contradict each
other, readers would not agree (some take the path, some the file, some refuse), so that is refused before anything is
spent.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

import pyarrow.parquet as pq

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import compare_values, hive_values, kind_of
from airflow_mullama.storage.parquet_input import ParquetInput, read_footer

COMPACT_DATE = re.compile("[0-9]{8}")


def refuse_contradicted_keys(source: ParquetInput) -> None:
    """Compare hive keys with columns of the same name, by the statistics of the footers: no data is read.

    Raises:
        InputUnreadableError: a file holds other values than its path says.
    """
    for file in source.files:
        values = hive_values(file.location.parent.path)
        for key in values.keys() & set(source.schema.names):
            _compare(file.location, key, values[key])


def _compare(location: Location, key: str, value: str | None) -> None:
    if value is None:  # the path says null, and null counts are in no footer for certain
        return
    for low, high in _ranges(read_footer(location), key):
        if contradicts(low, value) or contradicts(high, value):
            held = low if low == high else f"{low} … {high}"
            raise InputUnreadableError(
                f"The file {location.url!r} lies below {key}={value} and its column {key!r} holds {held}, so readers "
                "would not agree which counts; move the rows to the directory they belong to, or rename the column."
            )


def _ranges(footer: pq.FileMetaData, column: str) -> Iterator[tuple[str, str]]:
    """The smallest and largest value of a top-level column in each row group that says so."""
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            if chunk.path_in_schema != column or not chunk.is_stats_set or not chunk.statistics.has_min_max:
                continue
            low, high = _text(chunk.statistics.min), _text(chunk.statistics.max)
            if low is not None and high is not None:
                yield low, high


def contradicts(held: str, value: str) -> bool:
    """Whether a column's value and a path's mean different things. ``20260131`` may mean a date."""
    if kind_of(held) == "moment":
        value = _written_out(value)
    elif kind_of(value) == "moment":
        held = _written_out(held)
    return compare_values(held, value) != 0


def _written_out(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if COMPACT_DATE.fullmatch(date) else date


def _text(value: object) -> str | None:
    """As a path would write it; ``None`` for what no path can hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return None if isinstance(value, bytes) else str(value)
