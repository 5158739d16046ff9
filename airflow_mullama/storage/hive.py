"""What names in a lake mean, by the convention of Hive, Spark and Arrow.

A folder ``key=value``, a hive segment, says that of every row below it. A name that begins with ``.``, or with
``_`` and is no hive segment, is not data. What a file's format is, is told by the end of its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from urllib.parse import unquote

NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how a null is written into a path
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
CSV_SUFFIXES = (".csv", ".csv.gz")

HiveValues = Mapping[str, str | None]
"""Values of a path's hive keys; ``None`` stands for Hive's null."""

_SEGMENT = re.compile(r"[^/=]+=[^/]*")


def is_data(name: str) -> bool:
    """Whether a file or folder of this name is data."""
    return not name.startswith(".") and (not name.startswith("_") or "=" in name)


def is_parquet(name: str) -> bool:
    """Whether a name, or a path's last one, is that of a Parquet file."""
    return name.lower().endswith(PARQUET_SUFFIXES)


class DataFormat(Enum):
    """How a file holds its rows."""

    PARQUET = "Parquet"
    JSON_LINES = "JSON Lines"
    CSV = "CSV"


SUFFIXES: Mapping[DataFormat, tuple[str, ...]] = {
    DataFormat.PARQUET: PARQUET_SUFFIXES,
    DataFormat.JSON_LINES: JSON_LINES_SUFFIXES,
    DataFormat.CSV: CSV_SUFFIXES,
}
DATA_SUFFIXES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)


def data_format(name: str) -> DataFormat | None:
    """The format that a file's name, or a path's last one, tells; ``None`` where it tells none that is read."""
    for format_, suffixes in SUFFIXES.items():
        if name.lower().endswith(suffixes):
            return format_
    return None


def as_parquet_name(name: str) -> str:
    """The name of the Parquet file that is made of a file or directory of this name."""
    if is_parquet(name):
        return name
    for suffix in DATA_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return f"{name}.parquet"


def is_hive_segment(name: str) -> bool:
    """Whether a folder of this name says a key's value."""
    return _SEGMENT.fullmatch(name) is not None


def hive_run(segments: Sequence[str]) -> list[str]:
    """The unbroken run of hive segments at the end of a folder's path."""
    first = len(segments)
    while first > 0 and is_hive_segment(segments[first - 1]):
        first -= 1
    return list(segments[first:])


def hive_values(path: str) -> dict[str, str | None]:
    """What all hive segments of a path say, as before escaping; the last one counts where a key occurs twice."""
    values: dict[str, str | None] = {}
    for segment in path.split("/"):
        if is_hive_segment(segment):
            key, _, value = segment.partition("=")
            values[unquote(key)] = None if value == NULL_VALUE else unquote(value)
    return values
