from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.storage.parquet.thrift_compact import BINARY, I32, LIST, STRUCT, CompactReader, list_header

# A struct: 1 is true, 2 is -3, 3 is "ab", 5 a list of two booleans, 40 an empty struct, 41 a map of one entry.
EVERYTHING = b"\x11\x15\x05\x18\x02ab\x29\x21\x01\x02\x0c\x50\x00\x1b\x01\x58\x02\x01x\x00"


def test_fields_have_their_numbers_types_and_bytes() -> None:
    fields = dict(CompactReader(EVERYTHING).struct())
    assert list(fields) == [1, 2, 3, 5, 40, 41]
    assert fields[2] == (I32, b"\x05")
    assert CompactReader(fields[2][1]).integer() == -3
    assert fields[3] == (BINARY, b"\x02ab")
    assert CompactReader(fields[3][1]).binary() == b"ab"
    assert fields[5] == (LIST, b"\x21\x01\x02")
    assert fields[40] == (STRUCT, b"\x00")


@pytest.mark.parametrize("count", [0, 1, 14, 15, 127, 128, 100_000])
def test_a_list_says_its_length(count: int) -> None:
    assert CompactReader(list_header(count)).list_length(STRUCT) == count


def test_a_list_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="another type"):
        CompactReader(list_header(3)).list_length(I32)


@pytest.mark.parametrize("end", range(1, len(EVERYTHING)))
def test_what_ends_too_soon_is_told_from_what_is_wrong(end: int) -> None:
    with pytest.raises(IndexError):
        dict(CompactReader(EVERYTHING[:end]).struct())


@pytest.mark.parametrize("data", [b"\x1f", b"\x15" + b"\xff" * 12, b"\x1c" * 100])
def test_what_is_wrong_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"type|bits|nested"):
        dict(CompactReader(data).struct())


@given(st.binary(max_size=100))
def test_whatever_the_bytes_say_no_byte_is_read_twice(data: bytes) -> None:
    reader = CompactReader(data)
    with contextlib.suppress(IndexError, ValueError):
        dict(reader.struct())
    assert reader.position <= len(data) + 1
