"""What the readers of JSON Lines and CSV have in common: their bounds, and what a first reading finds out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location

LARGEST_ROW_BYTES = 16 * MIB
"""The largest line of JSON Lines."""

MOST_FIELDS = 10_000
"""Columns of a text file, and fields in them."""

MOST_UNREADABLE_ROWS = 1000
"""In one file. With more of them it is the file that is not readable."""


class UnreadableRows:
    """The rows of one file that cannot be read: why, by position in the file.

    Args:
        location: of the file.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self.reasons: dict[int, str] = {}

    def add(self, row: int, reason: str) -> None:
        """Note one.

        Raises:
            InputUnreadableError: there are too many.
        """
        self.reasons[row] = reason
        if len(self.reasons) > MOST_UNREADABLE_ROWS:
            first = self.reasons[min(self.reasons)]
            raise InputUnreadableError(
                f"The input file {self._location.url!r} has more than {MOST_UNREADABLE_ROWS} rows that cannot be read, "
                f"so that it is hardly what its name says; the first: {first}."
            )


@dataclass(frozen=True)
class FirstReading:
    """What reading a whole file once has found out, besides the types of its columns.

    Args:
        rows: how many, unreadable ones among them.
        unreadable: why, by position in the file.
        digest: of its bytes.
        columns: those that it has, where all rows have the same.
    """

    rows: int
    unreadable: Mapping[int, str]
    digest: str
    columns: tuple[str, ...] = ()


class TextFormat(Protocol):
    """Reads the files of one partition: all of them once for their types, then rows."""

    def first_reading(self, location: Location, check_stopped: Callable[[], None]) -> FirstReading:
        """Read a whole file; its columns and types are remembered.

        Args:
            location: of the file.
            check_stopped: called often; raises to give up.

        Raises:
            InputUnreadableError: it holds no table.
            OSError, ValueError, pyarrow.ArrowException: it is damaged.
        """
        ...

    def schema(self) -> pa.Schema:
        """Of all files that were read."""
        ...

    def batches(
        self, location: Location, reading: FirstReading, columns: Sequence[str], first_row: int
    ) -> Iterator[pa.RecordBatch]:
        """Stream a file's rows again from ``first_row`` on, those that cannot be read as nulls.

        Args:
            location: of a file that was read before.
            reading: what was found out then.
            columns: of the schema; at least one.
            first_row: position in the file.

        Raises:
            OSError, ValueError, pyarrow.ArrowException: it is damaged, or no longer what it was.
        """
        ...


def refuse_other_content(digest: str, reading: FirstReading) -> None:
    """Raise ``ValueError`` where a file is not what its first reading found."""
    if digest != reading.digest:
        raise ValueError("its content changed while it was read")
