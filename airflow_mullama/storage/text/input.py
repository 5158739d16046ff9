"""Streaming a partition's JSON Lines or CSV: read once for the types of its columns, then like Parquet."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from airflow_mullama.errors import InputNotFoundError, InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.hive import DataFormat
from airflow_mullama.storage.parquet.annotations import Annotations
from airflow_mullama.storage.parquet.int96 import NO_INT96, Int96
from airflow_mullama.storage.parquet.unified_schema import SchemaDrift, shortened
from airflow_mullama.storage.read_errors import reading
from airflow_mullama.storage.text.csv_rows import Csv
from airflow_mullama.storage.text.format import FirstReading, TextFormat
from airflow_mullama.storage.text.json_lines import JsonLines

# Counts in the identity: another rule for types gives other values of the same bytes.
TYPE_RULES = 1

MOST_KEPT = 1024


@dataclass(frozen=True)
class TextFile:
    """One text file as it was when the partition was opened.

    Args:
        location: where it lies.
        size: its bytes, as they are stored.
        contents: what was found out by reading it.
    """

    location: Location
    size: int
    contents: FirstReading

    @property
    def rows(self) -> int:
        """All of them, unreadable ones too."""
        return self.contents.rows


@dataclass(frozen=True)
class TextInput:
    """A partition of text files, all of one format, that can be read again and again.

    Args:
        files: in the order in which their rows count.
        schema: of all of them together; a column that a file lacks is null in its rows.
        identity: hash of the files' names and bytes, and of the schema.
        format: JSON Lines or CSV.
    """

    files: tuple[TextFile, ...]
    schema: pa.Schema
    identity: str
    format: DataFormat
    _reader: TextFormat

    @property
    def rows(self) -> int:
        """Rows of all files, unreadable ones too."""
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files, as they are stored."""
        return sum(file.size for file in self.files)

    @property
    def annotations(self) -> Annotations:
        """None: this is a matter of Parquet."""
        return {}

    @property
    def int96(self) -> Int96:
        """Nothing: this is a matter of Parquet."""
        return NO_INT96

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """Rows that could not be read, all of whose columns are null, and why; by position in the partition."""
        found: dict[int, str] = {}
        start = 0
        for file in self.files:
            for row, reason in file.contents.unreadable.items():
                found[start + row] = f"{file.location.name}: {reason}" if len(self.files) > 1 else reason
            start += file.rows
        return found

    @property
    def promotions(self) -> tuple[str, ...]:
        """Columns that not every header of CSV has; an object of JSON Lines may lack any."""
        headers = [file.contents.columns for file in self.files]
        if len(set(headers)) <= 1:
            return ()
        absent = {name: sum(name not in header for header in headers) for name in self.schema.names}
        said = [
            f"{name!r} is null where it is absent, in {count} of {len(headers)} files"
            for name, count in absent.items()
            if count
        ]
        return shortened(said or [f"the order of columns is that of {self.files[0].location.name!r}"])

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """Stream the rows from ``first_row`` on, in batches that have a bound in bytes.

        Args:
            columns: names to read, each a top-level column; ``None`` reads all.
            first_row: rows before it are passed over; files before it are not read.

        Raises:
            InputChangedError: a file vanished.
            InputUnreadableError: damaged data, or other content than before.
        """
        start = 0
        for file in self.files:
            if start + file.rows > first_row:
                yield from self.batches_of(file, columns, max(0, first_row - start))
            start += file.rows

    def batches_of(
        self, file: TextFile, columns: Sequence[str] | None = None, first_row: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of one file; the same errors."""
        wanted = self.schema.names if columns is None else list(columns)
        # Without any column Arrow would not know how many rows a batch has.
        with reading(file.location, changed=True, format_name=self.format.value):
            for batch in self._reader.batches(file.location, file.contents, wanted or self.schema.names[:1], first_row):
                yield batch.select(wanted)


_opened: OrderedDict[tuple[object, ...], TextInput] = OrderedDict()


def open_text_input(
    files: Sequence[Location],
    format_: DataFormat,
    *,
    schema_drift: SchemaDrift = "promote",
    check_stopped: Callable[[], None] = lambda: None,
) -> TextInput:
    """Read a partition's files once, from beginning to end, if that was not done since they last changed.

    Args:
        files: in the order in which their rows count.
        format_: JSON Lines or CSV.
        schema_drift: what to do about files of CSV whose headers differ.
        check_stopped: called often; raises to give up.

    Raises:
        InputNotFoundError: a file is not there.
        InputUnreadableError: damaged, without columns, with a column of which no type holds all values, or with headers
            that are not to differ.
    """
    infos = [location.info() for location in files]
    for location, info in zip(files, infos, strict=True):
        if info.type != pafs.FileType.File:
            raise InputNotFoundError(f"The input file {location.url!r} is not there.")
    state = tuple(
        (location.address, location.path, info.size, info.mtime_ns) for location, info in zip(files, infos, strict=True)
    )
    key = (format_, *state)
    if key in _opened:
        _opened.move_to_end(key)
        opened = _opened[key]
    else:
        opened = _read_once(files, [info.size or 0 for info in infos], format_, check_stopped)
        if all(info.mtime_ns is not None for info in infos):
            _opened[key] = opened
            while len(_opened) > MOST_KEPT:
                _opened.popitem(last=False)
    if schema_drift == "refuse":
        _refuse_other_headers(opened.files)
    return opened


def _refuse_other_headers(files: Sequence[TextFile]) -> None:
    first = files[0]
    for file in files:
        if file.contents.columns != first.contents.columns:
            raise InputUnreadableError(
                f"The files {first.location.name!r} and {file.location.name!r} of one partition have different headers "
                "and schema_drift='refuse'; write them with one header, process them as partitions of their own, or "
                "set schema_drift='promote'."
            )


def _read_once(
    files: Sequence[Location], sizes: Sequence[int], format_: DataFormat, check_stopped: Callable[[], None]
) -> TextInput:
    reader: TextFormat = JsonLines() if format_ is DataFormat.JSON_LINES else Csv()
    opened = []
    identity = hashlib.sha256(f"{format_.value}|{TYPE_RULES}\n".encode())
    for location, size in zip(files, sizes, strict=True):
        with reading(location, format_name=format_.value):
            contents = reader.first_reading(location, check_stopped)
        opened.append(TextFile(location, size, contents))
        identity.update(f"{location.name}|{contents.digest}\n".encode())
    schema = reader.schema()
    if not schema.names:
        reasons = [reason for file in opened for reason in file.contents.unreadable.values()]
        raise InputUnreadableError(
            f"The input file {files[0].url!r} holds no row with a column, so what the columns are is not known"
            + (f"; {reasons[0]}" if reasons else "")
            + "."
        )
    identity.update(str(schema).encode())
    return TextInput(tuple(opened), schema, identity.hexdigest(), format_, reader)
