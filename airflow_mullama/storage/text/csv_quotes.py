"""Quotes of CSV that are not where RFC 4180 has them.

A quote that was left open takes the following lines into its field, up to the next quote, and the rows there are one.
Arrow reads on without a word: what follows a closing quote is more of the field. So the bytes are looked at beside it.
Where each quote opens a field, ends one or is doubled, there is nothing to find; else the file is read again, field by
field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from airflow_mullama.byte_bounds import MIB
from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.text.stream import TextStream

BLOCK_BYTES = 1 * MIB
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_QUOTE = ord('"')
_BORDERS = np.zeros(256, np.bool_)
_BORDERS[list(b',\r\n"')] = True
# A field in quotes and what stands behind them, or a plain one; and what ends it.
_FIELD = re.compile(rb'(?:"(?P<inside>[^"]*(?:""[^"]*)*)(?P<closed>"?))?(?P<rest>[^,\r\n]*)(?P<end>,|\r\n|\n|\r|\Z)')


class QuoteCheck:
    """Whether all quotes of a file are where they may be; told of its bytes in order.

    Attributes:
        is_passed: as far as the bytes go. Then every second quote closes what the one before opened.
        is_inside: whether the last quote opened something.
    """

    def __init__(self) -> None:
        self.is_passed = True
        self.is_inside = False
        self._last = b"\n"
        self._begun = False

    def add(self, content: bytes) -> None:
        """Look at the next bytes."""
        if not self._begun and content:
            self._begun = True
            content = content.removeprefix(BYTE_ORDER_MARK)
        if not self.is_passed or not content:
            return
        codes = np.frombuffer(self._last + content, np.uint8)
        places = np.flatnonzero(codes[1:] == _QUOTE) + 1
        closes = (np.arange(len(places)) % 2 == 1) != self.is_inside
        behind = places[closes] + 1
        behind = behind[behind < len(codes)]  # what follows the last one comes with the next bytes
        if codes[0] == _QUOTE and not self.is_inside:
            behind = np.append(behind, 1)
        self.is_passed = bool(_BORDERS[codes[places[~closes] - 1]].all() and _BORDERS[codes[behind]].all())
        self.is_inside ^= len(places) % 2 == 1
        self._last = content[-1:]


@dataclass(frozen=True)
class _Record:
    """What is found in a record of the file.

    Args:
        end: where the next one begins.
        is_empty: an empty line, which is no row.
        has_lines: there are line breaks in its quotes.
        has_odd_quote: a quote is not closed, or is where none may be.
        has_text_behind_quotes: more than white space follows a closing quote.
    """

    end: int
    is_empty: bool
    has_lines: bool
    has_odd_quote: bool
    has_text_behind_quotes: bool


def damaged_rows(location: Location, largest: int, check_stopped: Callable[[], None]) -> dict[int, str]:
    """The rows, from the first below the header on, with a quote where none may be: why, by position.

    Args:
        location: of the file.
        largest: bytes of a row.
        check_stopped: called often; raises to give up.

    Raises:
        InputUnreadableError: it is not known what the rows are.
    """
    damaged: dict[int, str] = {}
    buffer, start, row, line = b"", 0, -1, 1
    with TextStream(location) as stream:
        ended = False
        while not ended or start < len(buffer):
            check_stopped()
            block = stream.read(BLOCK_BYTES) or b""
            ended = not block
            line += buffer.count(b"\n", 0, start)
            buffer = (buffer[start:] + block).removeprefix(BYTE_ORDER_MARK if row < 0 and line == 1 else b"")
            start = 0
            while start < len(buffer) and (record := _record(buffer, start, ended)) is not None:
                if not record.is_empty:
                    if record.has_odd_quote and record.has_lines:
                        raise _lost_rows(location, line + buffer.count(b"\n", 0, start))
                    if record.has_text_behind_quotes and row >= 0:
                        damaged[row] = f"row {row + 1} has a quote inside of quotes that is not doubled"
                    row += 1
                start = record.end
            if len(buffer) - start > largest:
                raise _lost_rows(location, line + buffer.count(b"\n", 0, start))
    return damaged


def _record(buffer: bytes, start: int, ended: bool) -> _Record | None:
    """The record that begins there; ``None`` where the buffer may not have all of it."""
    has_lines = has_odd_quote = has_text = False
    place = start
    while True:
        field = _FIELD.match(buffer, place)
        assert field is not None  # it matches anything
        if field.end() == len(buffer) and not ended:
            return None
        inside, rest = field["inside"], field["rest"]
        if inside is not None:
            has_lines = has_lines or b"\n" in inside or b"\r" in inside
            has_text = has_text or not (rest.isspace() or not rest)
            has_odd_quote = has_odd_quote or has_text or not field["closed"]
        elif b'"' in rest:
            has_odd_quote = True
        place = field.end()
        if field["end"] != b",":
            return _Record(place, place - start == len(field["end"]), has_lines, has_odd_quote, has_text)


def _lost_rows(location: Location, line: int) -> InputUnreadableError:
    return InputUnreadableError(
        f"The input file {location.url!r} is no readable CSV: in the record that begins in line {line}, over several "
        "lines, a quote is not closed or not doubled, so that which lines are rows is not known; write it again, or "
        "take it out of the input."
    )
