"""What the pages of a Parquet file weigh once they are unpacked, from their headers alone.

Footers tell sizes of whole column chunks; a page is what a reader must hold at once, and where rows are heavier than
elsewhere is to be seen only there. The format is the Thrift compact protocol of ``parquet.thrift`` (``PageHeader``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.storage.parquet.thrift_compact import INTEGERS, LIST, MAP, MOST_NESTED, SET, STRUCT, CompactReader

DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
DICTIONARY_ENCODINGS = frozenset({2, 8})  # PLAIN_DICTIONARY, RLE_DICTIONARY
DELTA_BYTE_ARRAY = 7

# What is read for a header at once. It is some twenty bytes, unless it holds statistics with long values; of a slow
# store more is read, so that the next headers are often there already.
HEADER_BYTES = 1 << 10
STORE_BYTES = 256 << 10
LONGEST_HEADER_BYTES = 16 << 20  # the most that Arrow reads


@dataclass(frozen=True)
class Page:
    """One page of a column chunk.

    Args:
        kind: one of ``parquet.thrift``'s ``PageType``.
        compressed, uncompressed: bytes of its body.
        values: entries of a dictionary; of a data page its values, nulls included.
        rows: that begin in it; ``None`` where the header does not say, as with repeated values in a version 1 page.
        encoding: of its values, one of ``parquet.thrift``'s ``Encoding``.
    """

    kind: int
    compressed: int
    uncompressed: int
    values: int
    rows: int | None
    encoding: int


def column_pages(file: pa.NativeFile, chunk: pq.ColumnChunkMetaData, at_once: int = HEADER_BYTES) -> Iterator[Page]:
    """The pages of a column chunk; only their headers are read.

    Args:
        file: the Parquet file.
        chunk: one of its column chunks.
        at_once: bytes to read at once.

    Raises:
        ValueError: a header is not one, or says what cannot be.
    """
    offset = begin_of(chunk)
    end = offset + chunk.total_compressed_size
    block, start = b"", offset
    while offset < end:
        if not start <= offset < start + len(block):
            block, start = b"", offset
        header, length, block = _header(file, offset, end, block[offset - start :], at_once)
        start = offset
        page = _page(header)
        if page.compressed < 0 or page.uncompressed < 0 or page.values < 0 or (page.rows or 0) < 0:
            raise ValueError("a page header says that something is less than nothing")
        yield page
        offset += length + page.compressed


def begin_of(chunk: pq.ColumnChunkMetaData) -> int:
    """Where a column chunk begins in its file: with its dictionary, if it has one."""
    offset = int(chunk.data_page_offset)
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < offset:
        return int(chunk.dictionary_page_offset)
    return offset


def _header(
    file: pa.NativeFile, offset: int, end: int, block: bytes, at_once: int
) -> tuple[dict[int, object], int, bytes]:
    """The header at an offset, its length, and what of the file is at hand from there on."""
    size = at_once
    while True:
        reader = CompactReader(block)
        try:
            return _structure(reader), reader.position, block
        except IndexError:
            pass  # more is to be read
        except ValueError as error:
            raise ValueError(f"a page header is not one: {error}") from None
        if size > LONGEST_HEADER_BYTES or (block and len(block) >= end - offset):
            raise ValueError("a page header does not end")
        block = file.read_at(min(size, end - offset), offset)
        size *= 8


def _page(header: dict[int, object]) -> Page:
    kind, uncompressed, compressed = (_number(header, field) for field in (1, 2, 3))
    details = header.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, -1), {})
    if not isinstance(details, dict):
        raise ValueError("a page header is no header")
    if kind == INDEX_PAGE:
        return Page(kind, compressed, uncompressed, 0, 0, 0)
    values = _number(details, 1)
    if kind == DATA_PAGE_V2:
        return Page(kind, compressed, uncompressed, values, _number(details, 3), _number(details, 4))
    return Page(kind, compressed, uncompressed, values, None, _number(details, 2))


def _number(structure: dict[int, object], field: int) -> int:
    value = structure.get(field)
    if not isinstance(value, int):
        raise ValueError(f"a page header lacks its field {field}")
    return value


def _structure(reader: CompactReader, depth: int = 0) -> dict[int, object]:
    """Whole numbers and structures by the number of their field; the rest is passed over."""
    if depth > MOST_NESTED:
        raise ValueError("structures are nested without end")
    fields: dict[int, object] = {}
    for field, kind in reader.fields():
        if kind == STRUCT:
            fields[field] = _structure(reader, depth + 1)
        elif kind in INTEGERS:
            fields[field] = reader.integer()
        elif kind in (LIST, SET, MAP):
            raise ValueError(f"it has a field of the type {kind}")  # there are none of these
        else:
            reader.skip(kind)
    return fields
