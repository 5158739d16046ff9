"""How many rows of a row group may be decoded at once, so that a batch has a bound in bytes.

A footer does not say where the heavy rows are, and a small file may unpack to gigabytes: one long text in a dictionary,
named by each of its rows. So the headers of the pages are asked, and the dictionaries for their longest entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mullama.byte_bounds import LARGEST_PAGE_BYTES, MIB, READ_BATCH_BYTES
from airflow_mullama.storage.parquet.pages import (
    DATA_PAGE,
    DATA_PAGE_V2,
    DELTA_BYTE_ARRAY,
    DICTIONARY_ENCODINGS,
    DICTIONARY_PAGE,
    HEADER_BYTES,
    Page,
    column_pages,
)

# Small enough that a batch of long texts is not a burden, large enough that a batch's overhead does not show.
BATCH_ROWS = 4096
# Inside of a page nothing is known: a row counts as at most this many times heavier than the page's average.
HEAVIEST_OVER_AVERAGE = 16
# What a variable-length value costs beside its bytes.
OFFSET_BYTES = 8

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}


class HeavyPageError(ValueError):
    """A page is larger than what is unpacked at once."""


@dataclass(frozen=True)
class _Run:
    """Rows one after the other, of which no single one is known to be heavier than ``row_bytes``."""

    rows: float
    total_bytes: float
    row_bytes: float

    def most(self, rows: int) -> float:
        """The most that this many of its rows may weigh."""
        return min(self.total_bytes, min(rows, self.rows) * self.row_bytes)


class RowGroupWeights:
    """What rows of one row group weigh once they are decoded.

    Args:
        file: the Parquet file, opened without read-ahead.
        source: the same file, for the headers of its pages.
        group: the row group's number.
        columns: top-level names; ``None`` for all.
        at_once: bytes to read of the source at once.
    """

    def __init__(
        self,
        file: pq.ParquetFile,
        source: pa.NativeFile,
        group: int,
        columns: Sequence[str] | None = None,
        at_once: int = HEADER_BYTES,
    ) -> None:
        self._source = source
        self._at_once = at_once
        self._group = group
        self._metadata = file.metadata.row_group(group)
        self._leaves = [
            (self._metadata.column(number), file.schema.column(number))
            for number in leaf_numbers(self._metadata, columns)
        ]

    def rows_at_once(self) -> int:
        """The largest power of two of rows, at most :data:`BATCH_ROWS`, that weigh no more than a batch may.

        Raises:
            HeavyPageError: a page is too large to be unpacked.
            ValueError: a page has no sound header.
        """
        rows = self._metadata.num_rows
        fixed, runs = 0.0, []
        for chunk, leaf in self._leaves:
            pages = []
            for page in column_pages(self._source, chunk, self._at_once):
                _refuse_heavy_page(chunk.path_in_schema, page)
                pages.append(page)
            width = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(leaf.physical_type)
            repeated = leaf.max_repetition_level > 0
            if width is not None and not repeated:
                fixed += width
            else:
                values_per_row = chunk.num_values / rows if rows and repeated else 1.0
                runs.append(list(self._runs(chunk, pages, width, max(values_per_row, 1e-9))))
        count = BATCH_ROWS
        while count > 1 and count * fixed + sum(_heaviest(leaf_runs, count) for leaf_runs in runs) > READ_BATCH_BYTES:
            count //= 2
        return count

    def _runs(
        self, chunk: pq.ColumnChunkMetaData, pages: Sequence[Page], width: int | None, values_per_row: float
    ) -> Iterator[_Run]:
        """The rows of each page, by what is known of a value there."""
        longest = 0.0
        for page in pages:
            if page.kind == DICTIONARY_PAGE:
                longest = self._longest_entry(chunk, page)
            rows = page.values / values_per_row if page.rows is None else page.rows
            if page.kind not in (DATA_PAGE, DATA_PAGE_V2) or not rows:
                continue
            if width is not None:
                total, value = float(page.values * width), float(width)
            elif page.encoding in DICTIONARY_ENCODINGS:
                total, value = page.values * (longest + OFFSET_BYTES), longest + OFFSET_BYTES
            elif page.encoding == DELTA_BYTE_ARRAY:  # a value repeats as much as it likes of the one before
                total, value = page.values * float(page.uncompressed), float(page.uncompressed)
            else:
                total = value = float(page.uncompressed + OFFSET_BYTES * page.values)
            row = value if values_per_row == 1.0 else total
            yield _Run(rows, total, min(row, HEAVIEST_OVER_AVERAGE * total / rows))

    def _longest_entry(self, chunk: pq.ColumnChunkMetaData, page: Page) -> float:
        """Bytes of the longest value in a dictionary: read, unless that alone would weigh too much."""
        average = page.uncompressed / max(1, page.values)
        guess = min(float(page.uncompressed), HEAVIEST_OVER_AVERAGE * average)
        if page.uncompressed * BATCH_ROWS <= READ_BATCH_BYTES or page.uncompressed > READ_BATCH_BYTES:
            return guess
        path = chunk.path_in_schema
        with pq.ParquetFile(self._source, read_dictionary=[path], pre_buffer=False) as file:
            for batch in file.iter_batches(1, row_groups=[self._group], columns=[path], use_threads=False):
                lengths = [pc.max(pc.binary_length(entry)).as_py() for entry in _dictionaries(batch.columns)]
                return float(max((length or 0 for length in lengths), default=guess))
        return guess


def leaf_numbers(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> list[int]:
    """The column chunks of a row group that make up some top-level columns; ``None`` for all."""
    wanted = None if columns is None else tuple(f"{name}." for name in columns)
    return [
        number
        for number in range(group.num_columns)
        if wanted is None or f"{group.column(number).path_in_schema}.".startswith(wanted)
    ]


def refuse_heavy_pages(metadata: pq.FileMetaData, source: pa.NativeFile, at_once: int = HEADER_BYTES) -> None:
    """Raise HeavyPageError for a page that is too large to be unpacked; what cannot have one is not looked at.

    Args:
        metadata: of the file.
        source: the file.
        at_once: bytes to read of it at once.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = group.num_columns if group.total_byte_size > LARGEST_PAGE_BYTES else 0
        for chunk in map(group.column, range(columns)):
            if chunk.total_uncompressed_size > LARGEST_PAGE_BYTES:
                for page in column_pages(source, chunk, at_once):
                    _refuse_heavy_page(chunk.path_in_schema, page)


def _refuse_heavy_page(column: str, page: Page) -> None:
    if page.uncompressed > LARGEST_PAGE_BYTES:
        raise HeavyPageError(
            f"its column {column!r} has a page of {page.uncompressed / MIB:,.0f} MiB, which would have to be unpacked "
            f"whole, and {LARGEST_PAGE_BYTES // MIB} MiB is the most; write it again with smaller pages (in PyArrow: "
            "write_batch_size=16)"
        )


def _heaviest(runs: Sequence[_Run], rows: int) -> float:
    """The most that this many rows, one after the other, may weigh, wherever they begin."""
    most = inside = between = 0.0
    last = 0  # runs[first + 1 : last] lie inside, with ``between`` rows that weigh ``inside``
    for first, run in enumerate(runs):
        if last <= first:
            last, inside, between = first + 1, 0.0, 0.0
        # A window that begins with this run's last row reaches so far.
        while last < len(runs) and between < rows - 1:
            inside += runs[last].most(rows)
            between += runs[last].rows
            last += 1
        most = max(most, run.most(rows) + inside)
        if last > first + 1:
            inside -= runs[first + 1].most(rows)
            between -= runs[first + 1].rows
    return most


def _dictionaries(arrays: Sequence[pa.Array]) -> Iterator[pa.Array]:
    """The dictionaries inside of arrays, at any depth."""
    for array in arrays:
        if isinstance(array, pa.ExtensionArray):
            yield from _dictionaries([array.storage])
        elif isinstance(array, pa.DictionaryArray):
            yield array.dictionary
        elif isinstance(array, pa.StructArray):
            yield from _dictionaries([array.field(number) for number in range(array.type.num_fields)])
        elif hasattr(array, "values"):  # lists and maps of all kinds
            yield from _dictionaries([array.values])
