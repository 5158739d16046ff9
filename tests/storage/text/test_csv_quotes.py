"""Quotes of CSV that are left open or not doubled: an error, never other rows than there are."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_mullama.errors import InputUnreadableError
from airflow_mullama.storage.filesystems import local_location
from airflow_mullama.storage.partition_input import PartitionInput, open_partition
from airflow_mullama.storage.text import csv_quotes
from airflow_mullama.storage.text.csv_quotes import QuoteCheck, damaged_rows


def opened(path: Path, content: bytes) -> PartitionInput:
    path.write_bytes(content)
    return open_partition([local_location(str(path))])


def rows_of(source: PartitionInput) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for batch in source.batches() for row in batch.to_pylist()]


def passes(content: bytes, at_once: int = 1 << 20) -> bool:
    check = QuoteCheck()
    for start in range(0, len(content), at_once):
        check.add(content[start : start + at_once])
    return check.is_passed


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'id,text\n1,"abc\n2,def\n3,"ghi"\n4,x\n', 2),
        (b'id,text\n0,a\n1,"abc\n2,"",\n3,"ghi"\n4,x\n', 3),
        (b'id,text\n\n1,"abc\n2,def\n3,"",x"y\n4,x\n', 3),
        (b'a\n"x\n"y"\n"z"\n', 2),
        (b'id,"te\nxt"x\n1,a\n', 1),
        (b'id,text\n1,a\n2,"b\r3,c\r4,"d"', 3),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_a_quote_that_was_left_open_is_an_error_that_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, line: int, block_bytes: int
) -> None:
    monkeypatch.setattr(csv_quotes, "BLOCK_BYTES", block_bytes)
    with pytest.raises(
        InputUnreadableError, match=rf"a\.csv' is no readable CSV: .* begins in line {line}, over several"
    ):
        opened(tmp_path / "a.csv", content)


@pytest.mark.parametrize(
    "content", [b'id,text\n1,"abc\n2,def\n3,",x"\n4,x\n', b'a,b\n"1","x\n"2","y"\n', b'a,b\n1,"x\n2,y\n', b'a\n"x\n\n']
)
def test_where_the_fields_are_too_many_or_the_file_ends_it_is_the_same_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputUnreadableError, match="no readable CSV: a quote is opened and not closed"):
        opened(tmp_path / "a.csv", content)


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_a_quote_that_is_not_doubled_is_the_error_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(csv_quotes, "BLOCK_BYTES", block_bytes)
    content = b'\xef\xbb\xbfid,text\n1,"a\r\nb"\n\r\n\n2,"say "hi" there"\n3\n"4"x,"c""d"\n5,e\n'
    source = opened(tmp_path / "a.csv", content)
    assert source.unreadable_rows == {
        1: "row 2 has a quote inside of quotes that is not doubled",
        2: "row 3 has 1 field and the header has 2",
        3: "row 4 has a quote inside of quotes that is not doubled",
    }
    # The number that is none does not make texts of the others.
    assert rows_of(source) == [(1, "a\r\nb"), (None, None), (None, None), (None, None), (5, "e")]


def test_a_quote_inside_of_a_plain_field_is_a_character(tmp_path: Path) -> None:
    source = opened(tmp_path / "a.csv", b'id,text\n1,5" pipe\n2,"a" \n3,"b\nc"\n4, "d"\n')
    assert rows_of(source) == [(1, '5" pipe'), (2, "a "), (3, "b\nc"), (4, ' "d"')]
    assert not source.unreadable_rows


@given(
    rows=st.lists(st.lists(st.text('a",\r\n ', max_size=5), min_size=2, max_size=2), max_size=8),
    everything=st.booleans(),
    at_once=st.integers(1, 9),
)
@example(rows=[['"', '""']], everything=False, at_once=1)
def test_what_a_writer_quotes_as_it_should_passes(rows: list[list[str]], everything: bool, at_once: int) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL).writerows([["a", "b"], *rows])
    assert passes(file.getvalue().encode(), at_once)


@given(content=st.text('a",\n', max_size=30).map(str.encode), at_once=st.integers(1, 9))
def test_the_check_says_the_same_however_the_bytes_come(content: bytes, at_once: int) -> None:
    assert passes(content, at_once) == passes(content)


def test_the_closer_look_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a\n"x"y\n')

    def check_stopped() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        damaged_rows(local_location(str(tmp_path / "a.csv")), 100, check_stopped)
