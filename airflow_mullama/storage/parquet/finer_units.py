"""Timestamps and durations that the finer unit of another file would not count, as far as footers tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.unified_schema import column_keys
from airflow_mullama.storage.read_errors import reading

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def refuse_uncountable(
    files: Sequence[tuple[Location, pa.Schema]], schema: pa.Schema, check_stopped: Callable[[], None]
) -> None:
    """Look at the smallest and largest values of columns whose unit gets finer; without statistics they pass.

    Args:
        files: each with its own schema.
        schema: that all are read as.
        check_stopped: called for each file; raises to give up.

    Raises:
        InputUnreadableError: a value is out of reach.
    """
    unified = dict(zip(column_keys(schema.names), schema.types, strict=True))
    for location, own in files:
        finer = {
            name: (kind, unified[name, number], _PER_SECOND[unified[name, number].unit] // _PER_SECOND[kind.unit])
            for (name, number), kind in zip(column_keys(own.names), own.types, strict=True)
            if _has_unit(kind) and kind != unified[name, number]
        }
        if not finer:
            continue
        check_stopped()
        with reading(location):
            extremes = list(_extremes(pq.read_metadata(location.path, filesystem=location.filesystem)))
        for name, value in extremes:
            if name in finer and abs(value) * finer[name][2] >= 1 << 63:
                raise InputUnreadableError(not_held(location, name, *finer[name][:2], "it is too far from 1970"))


def not_held(location: Location, column: str, own: pa.DataType, unified: pa.DataType, reason: str) -> str:
    """What is said of a value that the type of the whole partition does not hold."""
    return (
        f"In the input file {location.url!r}, column {column!r} is {own}, and with the other files of the partition it "
        f"would be {unified}, which does not hold every value ({reason}); write them with one type, or process them as "
        "partitions of their own."
    )


def _has_unit(kind: pa.DataType) -> bool:
    return bool(types.is_timestamp(kind) or types.is_duration(kind))


def _extremes(footer: pq.FileMetaData) -> Iterator[tuple[str, int]]:
    """The smallest and largest integers of top-level columns of 64 bits, where row groups tell them."""
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for number in range(group.num_columns):
            chunk = group.column(number)
            # Arrow ends the process where it is asked for statistics of a chunk of another type than the column's.
            if chunk.physical_type != "INT64" or footer.schema.column(number).physical_type != "INT64":
                continue
            if chunk.is_stats_set and chunk.statistics.has_min_max:
                yield chunk.path_in_schema, chunk.statistics.min_raw
                yield chunk.path_in_schema, chunk.statistics.max_raw
