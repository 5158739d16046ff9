"""INT96 timestamps: an old physical type of Parquet that Spark and Hive still write by default.

It has room for every nanosecond of five million years. Arrow's timestamps have 64 bits: counted in nanoseconds they end
in 2262, and what lies beyond comes out as another date without a word. So they are read in microseconds, unless a value
has digits below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mullama.errors import UnsupportedColumnError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.read_errors import reading

Unit = Literal["us", "ns"]
DEFAULT_UNIT: Unit = "us"
MOST_MICROSECONDS = (2**63 - 1) // 1000  # that nanoseconds can count
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Int96:
    """What a file, or a partition, has of this type.

    Args:
        leaves: the dotted paths of its columns.
        only: no timestamp is of another type, so that an output can have them all in this one again.
        unit: in which they are read.
    """

    leaves: tuple[str, ...] = ()
    only: bool = True
    unit: Unit = DEFAULT_UNIT

    @property
    def is_kept(self) -> bool:
        """Whether an output has the type again: readers then find just what they found in the input."""
        return bool(self.leaves) and self.only


NO_INT96 = Int96()


def find_int96(schema: pq.ParquetSchema) -> Int96:
    """The columns of this type in a file."""
    columns = [schema.column(place) for place in range(len(schema))]
    return Int96(
        leaves=tuple(column.path for column in columns if column.physical_type == "INT96"),
        only=not any(str(column.logical_type).startswith("Timestamp") for column in columns),
    )


def int96_of_all(files: Sequence[Int96], unit: Unit) -> Int96:
    """The same of several files: one that has none says nothing against the others."""
    leaves = tuple(dict.fromkeys(leaf for file in files for leaf in file.leaves))
    return Int96(leaves, all(file.only for file in files), unit)


def unit_that_holds(files: Sequence[tuple[Location, Int96]], check_stopped: Callable[[], None] = lambda: None) -> Unit:
    """The unit in which no value of these files changes. The columns are read for it.

    Args:
        files: with what :func:`find_int96` found in each.
        check_stopped: called often; raises to give up.

    Raises:
        UnsupportedColumnError: a column has digits below the microsecond and dates that nanoseconds cannot count.
        InputChangedError, InputUnreadableError, StorageUnavailableError: a file cannot be read.
    """
    digits: set[str] = set()
    beyond: set[str] = set()
    for location, leaf in ((location, leaf) for location, int96 in files for leaf in int96.leaves):
        both = zip(_values(location, leaf, "us"), _values(location, leaf, "ns"), strict=True)
        with reading(location, changed=True):
            for microseconds, nanoseconds in both:
                check_stopped()
                # What is left of a wrapped number is still right in its last digits.
                if np.any(nanoseconds != microseconds * 1000):
                    digits.add(leaf)
                if np.any(np.abs(microseconds) > MOST_MICROSECONDS):
                    beyond.add(leaf)
    if digits and beyond:
        named = sorted(digits & beyond) or sorted(digits | beyond)
        raise UnsupportedColumnError(
            f"The INT96 timestamps of {', '.join(map(repr, named))} have digits below the microsecond and dates beyond "
            "2262, and no timestamp of Arrow holds both; write one of the two as another type."
        )
    return "ns" if digits else DEFAULT_UNIT


def _values(location: Location, leaf: str, unit: Unit) -> Iterator[npt.NDArray[np.int64]]:
    with pq.ParquetFile(
        location.path, filesystem=location.filesystem, pre_buffer=False, coerce_int96_timestamp_unit=unit
    ) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=[leaf], use_threads=False):
            for column in batch.columns:
                for timestamps in _timestamps(column):
                    yield pc.fill_null(timestamps.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)


def _timestamps(array: pa.Array) -> Iterator[pa.Array]:
    """The timestamps inside of an array; those of null structs and lists too."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        yield array
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from _timestamps(array.field(place))
    elif pa.types.is_map(kind):
        yield from _timestamps(array.keys)
        yield from _timestamps(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _timestamps(array.values)
