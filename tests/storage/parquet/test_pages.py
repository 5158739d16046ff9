from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from airflow_mullama.storage.parquet.pages import (
    DATA_PAGE,
    DATA_PAGE_V2,
    DICTIONARY_PAGE,
    HEADER_BYTES,
    STORE_BYTES,
    Page,
    column_pages,
)

ROWS = 5_000


def pages_of(path: Path, column: int = 0, at_once: int = HEADER_BYTES) -> list[Page]:
    chunk = pq.read_metadata(path).row_group(0).column(column)
    with pafs.LocalFileSystem().open_input_file(str(path)) as file:
        return list(column_pages(file, chunk, at_once))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_pages_account_for_their_column_chunk(tmp_path: Path, version: str, compression: str) -> None:
    table = pa.table({"text": [f"{row} some text" for row in range(ROWS)], "list": [[row, 1] for row in range(ROWS)]})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table, path, compression=compression, data_page_version=version, use_dictionary=False, data_page_size=4096
    )
    for column, values in ((0, ROWS), (1, 2 * ROWS)):
        pages = pages_of(path, column)
        chunk = pq.read_metadata(path).row_group(0).column(column)
        assert len(pages) > 3
        assert {page.kind for page in pages} == {DATA_PAGE if version == "1.0" else DATA_PAGE_V2}
        assert sum(page.values for page in pages) == chunk.num_values == values
        headers = chunk.total_uncompressed_size - sum(page.uncompressed for page in pages)
        assert 0 < headers < 100 * len(pages)
        if version == "2.0":
            assert sum(page.rows or 0 for page in pages) == ROWS
        assert pages_of(path, column, STORE_BYTES) == pages


def test_a_dictionary_page_says_how_many_entries_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["red", "green", "red"] * 100}), tmp_path / "a.parquet")
    dictionary, data = pages_of(tmp_path / "a.parquet")
    assert (dictionary.kind, dictionary.values, dictionary.uncompressed) == (DICTIONARY_PAGE, 2, 4 + 3 + 4 + 5)
    assert (data.kind, data.values) == (DATA_PAGE, 300)


def test_a_header_may_hold_long_statistics(tmp_path: Path) -> None:
    texts = [letter * 2_000 for letter in "abc"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False, data_page_version="2.0")
    (page,) = pages_of(tmp_path / "a.parquet")
    assert page.uncompressed >= 6_000


@pytest.mark.parametrize(
    "damage", [b"\x00" * 8, b"\xff" * 8, b"\x1c" * 8, b"\x19" * 8, b"\x15\x01\x15\x01\x15\x01\x00"]
)
def test_what_is_no_header_is_said_to_be_none(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"number": list(range(100))}), path, use_dictionary=False)
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + len(damage)] = damage
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a page header"):
        pages_of(path)


def test_only_headers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"heavy": pa.array([b"x" * 1_000_000] * 20)}), path, compression="none", use_dictionary=False
    )
    read: list[int] = []

    class Counting:
        def __init__(self, file: Any) -> None:
            self._file = file

        def read_at(self, size: int, offset: int) -> bytes:
            read.append(size)
            return bytes(self._file.read_at(size, offset))

    chunk = pq.read_metadata(path).row_group(0).column(0)
    with pafs.LocalFileSystem().open_input_file(str(path)) as file:
        pages = list(column_pages(Counting(file), chunk))
    assert sum(page.uncompressed for page in pages) > 20_000_000
    assert sum(read) <= HEADER_BYTES * len(pages)
