"""CSV as RFC 4180 has it: commas, double quotes, line breaks inside of them; the first row names the columns.

An empty field is null, and an empty text where it is quoted. All other fields are values: ``NA`` is one too.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pacsv

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.batch_rows import BATCH_ROWS
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.text.csv_quotes import QuoteCheck, damaged_rows
from airflow_mullama.storage.text.csv_types import CsvType
from airflow_mullama.storage.text.format import (
    MOST_FIELDS,
    MOST_UNREADABLE_ROWS,
    FirstReading,
    UnreadableRows,
    refuse_other_content,
)
from airflow_mullama.storage.text.stream import TextStream

# Also the block that Arrow reads at once, of which it holds several, each many times over.
LARGEST_ROW_BYTES = 4 * MIB


class Csv:
    """The files of one partition; see :class:`airflow_mullama.storage.text.format.TextFormat`."""

    def __init__(self) -> None:
        self._types: dict[str, CsvType] = {}

    def first_reading(self, location: Location, check_stopped: Callable[[], None]) -> FirstReading:
        names = _column_names(location)
        quotes = QuoteCheck()
        types_before = copy.deepcopy(self._types)
        found = self._read_once(location, names, {}, quotes, check_stopped)
        if quotes.is_passed:
            return found
        damaged = damaged_rows(location, LARGEST_ROW_BYTES, check_stopped)
        if not damaged:
            return found
        self._types = types_before  # without the values of rows that do not count
        return self._read_once(location, names, damaged, quotes, check_stopped)

    def _read_once(
        self,
        location: Location,
        names: Sequence[str],
        damaged: Mapping[int, str],
        quotes: QuoteCheck,
        check_stopped: Callable[[], None],
    ) -> FirstReading:
        types = [self._types.setdefault(name, CsvType()) for name in names]
        unreadable = UnreadableRows(location)
        for row, reason in damaged.items():
            unreadable.add(row, reason)
        rows = 0
        last_value: object = None
        with TextStream(location, quotes.add) as stream:
            for batch in _bytes_of(stream, names, location, unreadable):
                check_stopped()
                for row in _not_utf8(batch):
                    unreadable.add(rows + row, f"row {rows + row + 1} is not UTF-8")
                texts = _without(batch, rows, unreadable.reasons)
                for type_, column in zip(types, texts.columns, strict=True):
                    type_.add(column.cast(pa.string()))
                rows += batch.num_rows
                last_value = batch.column(batch.num_columns - 1)[batch.num_rows - 1].as_py()
            # The line break that was added would not be part of a value whose quotes are closed.
            ends_with_quote = stream.last_bytes.rstrip(b"\r\n").endswith(b'"')
            if isinstance(last_value, bytes) and last_value.endswith(b"\n") and not ends_with_quote:
                raise InputUnreadableError(_open_quote(location))
            return FirstReading(rows, unreadable.reasons, stream.digest(), tuple(names))

    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, type_.arrow_type()) for name, type_ in self._types.items()])

    def batches(
        self, location: Location, reading: FirstReading, columns: Sequence[str], first_row: int
    ) -> Iterator[pa.RecordBatch]:
        types = {name: self._types[name].arrow_type() for name in columns}
        schema = pa.schema(list(types.items()))
        there = reading.columns
        wanted = [name for name in columns if name in there] or there[:1]
        row = 0
        with TextStream(location) as stream:
            for batch in _bytes_of(stream, wanted, location, UnreadableRows(location)):
                start, row = row, row + batch.num_rows
                if row <= first_row:
                    continue
                texts = _without(batch, start, reading.unreadable)
                arrays = [
                    texts.column(name).cast(pa.string()).cast(types[name])
                    if name in there
                    else pa.nulls(batch.num_rows, types[name])
                    for name in columns
                ]
                whole = pa.RecordBatch.from_arrays(arrays, schema=schema)
                for offset in range(max(0, first_row - start), batch.num_rows, BATCH_ROWS):
                    yield whole.slice(offset, BATCH_ROWS)
            refuse_other_content(stream.digest(), reading)


def _options(columns: Sequence[str]) -> pacsv.ConvertOptions:
    return pacsv.ConvertOptions(
        column_types={name: pa.binary() for name in columns},
        include_columns=list(columns),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def _column_names(location: Location) -> list[str]:
    """The fields of the first row.

    Raises:
        InputUnreadableError: there is none, or a name occurs twice.
    """
    with (
        TextStream(location) as stream,
        _rows_within_bound(location),
        pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(use_threads=False, block_size=LARGEST_ROW_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip"),
        ) as reader,
    ):
        names: list[str] = reader.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise InputUnreadableError(
            f"The input file {location.url!r} has several columns named {', '.join(map(repr, repeated))}; give each "
            "its own name."
        )
    if len(names) > MOST_FIELDS:
        raise InputUnreadableError(f"The input file {location.url!r} has {len(names)} columns; {MOST_FIELDS} are read.")
    return names


def _bytes_of(
    stream: TextStream, columns: Sequence[str], location: Location, unreadable: UnreadableRows
) -> Iterator[pa.RecordBatch]:
    """All rows, with their fields as bytes; one with too few or too many fields as a row of nulls."""
    ahead: deque[int] = deque()
    reasons: list[tuple[int, str]] = []
    open_quote = False

    def on_invalid_row(row: pacsv.InvalidRow) -> str:
        nonlocal open_quote
        open_quote = open_quote or ("\n" in row.text and row.text.count('"') % 2 == 1)
        if len(reasons) <= MOST_UNREADABLE_ROWS:  # with one more, nothing of this block is used
            place = row.number - 2  # the first row is the header's, and Arrow counts from one
            fields = f"{row.actual_columns} field{'s' if row.actual_columns > 1 else ''}"
            ahead.append(place)
            reasons.append((place, f"row {place + 1} has {fields} and the header has {row.expected_columns}"))
        return "skip"

    start = 0
    with (
        _rows_within_bound(location),
        pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(use_threads=False, block_size=LARGEST_ROW_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_invalid_row),
            convert_options=_options(columns),
        ) as reader,
    ):
        empty = pa.RecordBatch.from_arrays([pa.array([], pa.binary()) for _ in columns], names=list(columns))
        batches = iter(reader)
        while True:
            batch = next(batches, None)
            if open_quote:
                raise InputUnreadableError(_open_quote(location))
            while reasons:
                unreadable.add(*reasons.pop(0))
            whole = _with_gaps(empty if batch is None else batch, start, ahead)
            if whole.num_rows:
                yield whole
            start += whole.num_rows
            if batch is None:
                return


@contextmanager
def _rows_within_bound(location: Location) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddl" in str(error):
            raise InputUnreadableError(_open_quote(location)) from error
        raise


def _with_gaps(batch: pa.RecordBatch, start: int, ahead: deque[int]) -> pa.RecordBatch:
    """Put rows of nulls where rows were left out.

    Args:
        batch: rows that were read.
        start: position of its first row.
        ahead: positions of rows that were left out, in order; those that were put in are taken from it.
    """
    if not ahead:
        return batch
    taken: list[int | None] = []
    done = 0
    while ahead and ahead[0] <= start + len(taken) + batch.num_rows - done:
        before = ahead.popleft() - start - len(taken)
        taken += [*range(done, done + before), None]
        done += before
    taken += range(done, batch.num_rows)
    return batch.take(pa.array(taken, pa.int64()))


def _not_utf8(batch: pa.RecordBatch) -> list[int]:
    rows: set[int] = set()
    for column in batch.columns:
        try:
            column.cast(pa.string())
        except pa.ArrowInvalid:
            for row, value in enumerate(column.to_pylist()):
                try:
                    (value or b"").decode("utf-8")
                except UnicodeDecodeError:
                    rows.add(row)
    return sorted(rows)


def _without(batch: pa.RecordBatch, start: int, unreadable: Iterable[int]) -> pa.RecordBatch:
    """The batch with nulls in the rows that cannot be read."""
    there = {row - start for row in unreadable if start <= row < start + batch.num_rows}
    if not there:
        return batch
    return batch.take(pa.array([None if row in there else row for row in range(batch.num_rows)], pa.int64()))


def _open_quote(location: Location) -> str:
    return (
        f"The input file {location.url!r} is no readable CSV: a quote is opened and not closed, or a row is larger "
        f"than {LARGEST_ROW_BYTES // MIB} MiB; write it again, or take it out of the input."
    )
