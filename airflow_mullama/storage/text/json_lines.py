"""JSON Lines: one object in each line (https://jsonlines.org).

Lines are parsed by Python's :mod:`json`. PyArrow's own reader (26.0) ends the process at a line that holds only
``null``, takes two objects in a line for two rows, rounds integers of more than 64 bits, and makes timestamps of texts.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.batch_rows import BATCH_ROWS
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.text.format import (
    LARGEST_ROW_BYTES,
    MOST_FIELDS,
    FirstReading,
    UnreadableRows,
    refuse_other_content,
)
from airflow_mullama.storage.text.json_types import ContradictionError, FieldCount, JsonType, Line
from airflow_mullama.storage.text.stream import TextStream

BATCH_BYTES = 4 * MIB
"""Text that becomes one batch; its values take several times as much while they are Python's."""

BATCH_CELLS = 2_000_000
MOST_LEVELS = 32
"""Objects and arrays inside of each other."""

BUFFER_BYTES = 1 * MIB
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLines:
    """The files of one partition; see :class:`airflow_mullama.storage.text.format.TextFormat`."""

    def __init__(self) -> None:
        self._count = FieldCount(MOST_FIELDS)
        self._root = JsonType(self._count)

    def first_reading(self, location: Location, check_stopped: Callable[[], None]) -> FirstReading:
        rows = 0
        unreadable = UnreadableRows(location)
        with TextStream(location) as stream:
            for line, content in _lines(stream):
                check_stopped()
                try:
                    value = parse_line(content)
                except ValueError as error:
                    unreadable.add(rows, f"line {line} {error}")
                else:
                    self._add(value, line, location)
                rows += 1
            return FirstReading(rows, unreadable.reasons, stream.digest())

    def _add(self, value: dict[str, Any], line: int, location: Location) -> None:
        try:
            self._root.add(value, Line(line, location.name))
        except ContradictionError as error:
            raise InputUnreadableError(f"In the input file {location.url!r}, {error.sentence()}.") from None

    def schema(self) -> pa.Schema:
        if not self._root.fields:
            return pa.schema([])
        try:
            return pa.schema(self._root.arrow_fields())
        except ContradictionError as error:
            raise InputUnreadableError(f"The JSON Lines cannot be written as Parquet: {error.sentence()}.") from None

    def batches(
        self, location: Location, reading: FirstReading, columns: Sequence[str], first_row: int
    ) -> Iterator[pa.RecordBatch]:
        schema = self.schema()
        schema = pa.schema([schema.field(name) for name in columns])
        rows_at_once = max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, self._count.count)))
        gathered: list[dict[str, Any]] = []
        size = 0
        with TextStream(location) as stream:
            for row, (_, content) in enumerate(_lines(stream)):
                if row < first_row:
                    continue
                gathered.append({} if row in reading.unreadable else parse_line(content))
                size += len(content or b"")
                if len(gathered) == rows_at_once or size >= BATCH_BYTES:
                    yield _batch(gathered, schema)
                    gathered, size = [], 0
            refuse_other_content(stream.digest(), reading)
        if gathered:
            yield _batch(gathered, schema)


def _batch(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _lines(stream: TextStream) -> Iterator[tuple[int, bytes | None]]:
    """The lines that hold anything, and their numbers; ``None`` for one that is too long."""
    number = 0
    with io.BufferedReader(stream, BUFFER_BYTES) as reader:
        while line := reader.readline(LARGEST_ROW_BYTES + 1):
            number += 1
            if len(line) > LARGEST_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = reader.readline(LARGEST_ROW_BYTES)
                yield number, None
                continue
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.isspace() and line:
                yield number, line


def parse_line(line: bytes | None) -> dict[str, Any]:
    """The object in a line.

    Args:
        line: ``None`` for one that is too long.

    Raises:
        ValueError: there is none, or one that cannot be kept as it is; the message follows after "line 7".
    """
    if line is None:
        raise ValueError(f"is longer than {LARGEST_ROW_BYTES // MIB} MiB")
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError(f"has more than {MOST_LEVELS} levels") from None
    if not isinstance(value, dict):
        raise ValueError("holds no JSON object")
    if line.count(b"{") + line.count(b"[") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise ValueError(f"has more than {MOST_LEVELS} levels")
    if b"\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value


def _levels(value: Any) -> int:
    inside: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_levels, inside), default=0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("has a name twice in one object")
    return names


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"holds {text[:40]}, which is beyond float64")
    return number


def _integer(text: str) -> int:
    if len(text) > 40:
        raise ValueError("holds an integer of more than 64 bits")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which JSON does not have")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_no_constant
)
