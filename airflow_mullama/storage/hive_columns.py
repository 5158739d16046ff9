"""A hive key that is also a column of the files: fine while both say the same.

Hive keys stay where they are: in the path of the input and of the output. They never become columns of an output, and
a template reads columns only. A file may repeat its key as a column, as some writers do. If the two contradict each
other, readers would not agree (some take the path, some the file, some refuse), so that is refused before anything is
spent.

They are the same if what the path says, read as the column's type, is the column's value, or if the two are one number
or point in time as :mod:`airflow_mullama.storage.hive_filter` compares them: ``day=01`` is the integer 1, ``ok=True``
is true, ``p=0.1`` is 0.1 as ``float32`` too, and ``ds=2026-01-31`` is any time of that day. A null in the column says
nothing, as does an empty text below ``__HIVE_DEFAULT_PARTITION__``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import NULL_VALUE, hive_values
from airflow_mullama.storage.hive_filter import compare_values, kind_of
from airflow_mullama.storage.parquet.input import read_footer
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.read_errors import reading
from airflow_mullama.storage.text.input import TextFile, TextInput

COMPACT_DATE = re.compile("[0-9]{8}")


def refuse_contradicted_keys(source: PartitionInput, check_stopped: Callable[[], None] = lambda: None) -> None:
    """Compare hive keys with columns of the same name: the statistics of footers, and the values of text files.

    Args:
        source: whose files lie below the keys.
        check_stopped: called often; raises to give up.

    Raises:
        InputUnreadableError: a file holds other values than its path says.
    """
    for file in source.files:
        values = hive_values(file.location.parent.path)
        check_stopped()
        for key in values.keys() & set(source.schema.names):
            kind = source.schema.types[source.schema.names.index(key)]
            if isinstance(source, TextInput) and isinstance(file, TextFile):
                ranges = list(_ranges_of_text(source, file, key, check_stopped))
            else:
                with reading(file.location):
                    ranges = list(_ranges(read_footer(file.location), key))
            _compare(file.location, key, values[key], kind, ranges)


def _compare(
    location: Location, key: str, value: str | None, kind: pa.DataType, ranges: Sequence[tuple[object, object]]
) -> None:
    for low, high in ranges:
        texts = _text(low), _text(high)
        if None in texts or (agrees(low, kind, value) and agrees(high, kind, value)):
            continue
        held = texts[0] if texts[0] == texts[1] else f"{texts[0]} … {texts[1]}"
        raise InputUnreadableError(
            f"The file {location.url!r} lies below {key}={NULL_VALUE if value is None else value} and its column "
            f"{key!r} holds {held}, so readers would not agree which counts; move the rows to the directory they "
            "belong to, or rename the column."
        )


def agrees(held: object, kind: pa.DataType, value: str | None) -> bool:
    """Whether a value of a column is what a path says.

    Args:
        held: the value, not null.
        kind: the column's type.
        value: as it stands in the path, before escaping; ``None`` for Hive's null.
    """
    if value is None:
        return held == ""  # which Spark and Hive write there too
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    try:
        if pa.array([value]).cast(kind)[0] == pa.scalar(held, kind):
            return True
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pass  # it is no value of this type
    text = _text(held)
    return text is not None and not contradicts(text, value)


def _ranges_of_text(
    source: TextInput, file: TextFile, column: str, check_stopped: Callable[[], None]
) -> Iterator[tuple[object, object]]:
    """The smallest and largest value of a column in each batch of it."""
    if pa.types.is_nested(source.schema.field(column).type):
        return
    for batch in source.batches_of(file, [column]):
        check_stopped()
        extremes = pc.min_max(batch.column(0)).as_py()
        if extremes["min"] is not None:
            yield extremes["min"], extremes["max"]


def _ranges(footer: pq.FileMetaData, column: str) -> Iterator[tuple[object, object]]:
    """The smallest and largest value of a top-level column in each row group that says so."""
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            if chunk.path_in_schema != column:
                continue
            if chunk.physical_type != footer.schema.column(index).physical_type:
                # Arrow ends the process where it is asked for statistics of such a chunk.
                raise ValueError(f"its footer contradicts itself: column {column!r} has two types")
            if not chunk.is_stats_set or not chunk.statistics.has_min_max:
                continue
            try:
                low, high = chunk.statistics.min, chunk.statistics.max
            except (ValueError, OverflowError, pa.ArrowException):
                continue  # such as a date beyond the year 9999: it cannot be compared
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
