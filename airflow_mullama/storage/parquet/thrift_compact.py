"""Thrift's compact protocol, in which Parquet writes its footers and page headers.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)
INTEGERS = (I16, I32, I64)
FIXED_BYTES = {BYTE: 1, DOUBLE: 8, UUID: 16}
MOST_NESTED = 64


class CompactReader:
    """Reads values one after the other. Whatever the bytes say, it reads no further than their end.

    Each method raises IndexError where they end too soon, and ValueError where they are something else.

    Args:
        data: what is read.

    Attributes:
        position: of the next byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def byte(self) -> int:
        """The next byte."""
        self.position += 1
        return self._data[self.position - 1]

    def take(self, count: int) -> bytes:
        """So many bytes."""
        if count > len(self._data) - self.position:
            raise IndexError(count)
        self.position += count
        return self._data[self.position - count : self.position]

    def varint(self) -> int:
        """A number that is not negative."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number has more than 64 bits")

    def integer(self) -> int:
        """A whole number: a value of I16, I32 or I64."""
        zigzag = self.varint()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def binary(self) -> bytes:
        """A value of BINARY."""
        return self.take(self.varint())

    def fields(self) -> Iterator[tuple[int, int]]:
        """The ids and types of a struct's fields; each value must be read before the next one is asked for."""
        field = 0
        while header := self.byte():
            field = field + (header >> 4) if header >> 4 else self.integer()
            yield field, header & 0x0F

    def struct(self) -> Iterator[tuple[int, tuple[int, bytes]]]:
        """A struct's fields with the bytes of their values."""
        for field, kind in self.fields():
            start = self.position
            self.skip(kind)
            yield field, (kind, self._data[start : self.position])

    def list_length(self, expected: int) -> int:
        """The length of a list of this type."""
        header = self.byte()
        if header & 0x0F != expected:
            raise ValueError("a list is of another type")
        return header >> 4 if header >> 4 != 15 else self.varint()

    def skip(self, kind: int, depth: int = 0) -> None:
        """Read a value of a type, whatever it is."""
        if depth > MOST_NESTED:
            raise ValueError("structures are nested without end")
        if kind in (TRUE, FALSE):
            return  # stands in the field's header
        if kind in INTEGERS:
            self.varint()
        elif kind in FIXED_BYTES:
            self.take(FIXED_BYTES[kind])
        elif kind == BINARY:
            self.binary()
        elif kind in (LIST, SET):
            header = self.byte()
            for _ in range(header >> 4 if header >> 4 != 15 else self.varint()):
                self._skip_item(header & 0x0F, depth)
        elif kind == MAP:
            if count := self.varint():
                kinds = self.byte()
                for _ in range(count):
                    self._skip_item(kinds >> 4, depth)
                    self._skip_item(kinds & 0x0F, depth)
        elif kind == STRUCT:
            for _, inside in self.fields():
                self.skip(inside, depth + 1)
        else:
            raise ValueError(f"there is no type {kind}")

    def _skip_item(self, kind: int, depth: int) -> None:
        """In a list or map a boolean is a byte."""
        self.skip(BYTE if kind in (TRUE, FALSE) else kind, depth + 1)


def list_header(count: int) -> bytes:
    """How a list of so many structs begins."""
    if count < 15:
        return bytes([count << 4 | STRUCT])
    written, rest = bytearray([0xF0 | STRUCT]), count
    while rest > 0x7F:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    written.append(rest)
    return bytes(written)
