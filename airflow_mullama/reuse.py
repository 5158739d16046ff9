"""Taking outcomes from the previous output, row by row, where the request is the same: nothing is paid for twice.

A published output carries its input columns, so it is its own cache: its rows are rendered again and matched with the
new input's by the hash of the request. Nothing extra is stored. Only outputs of the same model, template and settings
are asked (the caller sees to that).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mullama.prompts import PromptTemplate
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, ErrorType, ResultColumns
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet_input import BATCH_ROWS, ParquetInput
from airflow_mullama.storage.stage import Chunk
from airflow_mullama.storage.vector_columns import from_stored

# 24 bytes a row: memory stays flat. Rows of an output beyond this are not looked up, only computed again.
MOST_INDEXED_ROWS = 4_000_000
# Decoded row groups are kept up to so many bytes: an input in another order must not decode them again and again.
KEPT_BYTES = 256 << 20

Hashes = npt.NDArray[np.uint64]

_NOT_REUSED = frozenset({*RETRYABLE_ERROR_TYPES, ErrorType.NULL_INPUT.value, ErrorType.RENDER_ERROR.value})


class PreviousOutcomes:
    """An index over the requests of a published output.

    Args:
        location: of the published Parquet file.
        template: renders a row's request; the output must have its columns.
        columns: the added columns.
        output_prefix: put before their names.
    """

    def __init__(
        self, location: Location, template: PromptTemplate, columns: ResultColumns, output_prefix: str
    ) -> None:
        self._file = pq.ParquetFile(location.path, filesystem=location.filesystem, pre_buffer=False)
        self._template = template
        self._columns = columns
        self._names = [output_prefix + field.name for field in columns.fields]
        self._group_starts = np.cumsum(
            [0] + [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        )
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._high, self._low, self._rows = self._index(output_prefix + "error_type")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def find(self, texts: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """For each request the row of the output that has the same one, or -1."""
        high, low = _hashes(texts)
        places = np.searchsorted(self._high, high)
        places_in = np.minimum(places, max(0, len(self._high) - 1))
        if len(self._high) == 0:
            return np.full(len(texts), -1, np.int64)
        same = (self._high[places_in] == high) & (self._low[places_in] == low)
        same &= np.array([text is not None for text in texts], dtype=bool)
        return np.where(same, self._rows[places_in], -1)

    def outcomes(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The added columns, without prefix, of rows of the output, in the order given."""
        order = np.argsort(rows, kind="stable")
        parts = []
        wanted = rows[order]
        groups = np.searchsorted(self._group_starts, wanted, side="right") - 1
        for number in np.unique(groups):
            inside = wanted[groups == number] - self._group_starts[number]
            parts.append(self._group(int(number)).take(pa.array(inside)))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(parts).take(pa.array(back))

    def _group(self, number: int) -> pa.Table:
        if number not in self._groups:
            table = self._file.read_row_group(number, columns=self._names, use_threads=False)
            types = self._columns.schema.types
            columns = [from_stored(table.column(name), kind) for name, kind in zip(self._names, types, strict=True)]
            self._groups[number] = pa.table(columns, schema=self._columns.schema).combine_chunks()
            while len(self._groups) > 1 and sum(table.nbytes for table in self._groups.values()) > KEPT_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(number)
        return self._groups[number]

    def _index(self, error_column: str) -> tuple[Hashes, Hashes, npt.NDArray[np.int64]]:
        high, low, rows = [], [], []
        start = 0
        names = list(dict.fromkeys([*self._template.distinct_columns, error_column]))
        for batch in self._file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
            if start >= MOST_INDEXED_ROWS:
                break
            texts = [text if isinstance(text, str) else None for text in self._template.render(batch)]
            good = np.array(
                [
                    text is not None and error not in _NOT_REUSED
                    for text, error in zip(texts, batch.column(error_column).to_pylist(), strict=True)
                ],
                dtype=bool,
            )
            batch_high, batch_low = _hashes(texts)
            high.append(batch_high[good])
            low.append(batch_low[good])
            rows.append(np.flatnonzero(good) + start)
            start += batch.num_rows
        if not high:
            empty = np.empty(0, np.uint64)
            return empty, empty, np.empty(0, np.int64)
        all_high, all_low, all_rows = np.concatenate(high), np.concatenate(low), np.concatenate(rows)
        order = np.argsort(all_high, kind="stable")
        return all_high[order], all_low[order], all_rows[order]


def reusable_chunks(
    previous: PreviousOutcomes, source: ParquetInput, template: PromptTemplate, chunks: Sequence[Chunk]
) -> Iterator[tuple[Chunk, pa.Table]]:
    """For each chunk of the new input, the outcomes that need not be computed again.

    Yields:
        The chunk and a table of ``row: int64`` and the added columns, in order of row; chunks without any are left
        out.
    """
    batches = source.batches(template.distinct_columns)
    texts: list[str | None] = []
    for chunk in chunks:
        while len(texts) < chunk.rows:
            rendered = template.render(next(batches))
            texts.extend(text if isinstance(text, str) else None for text in rendered)
        found = previous.find(texts[: chunk.rows])
        del texts[: chunk.rows]
        places = np.flatnonzero(found >= 0)
        if len(places):
            rows = pa.array(places + chunk.start, pa.int64())
            yield chunk, previous.outcomes(found[places]).add_column(0, "row", rows)


def _hashes(texts: Sequence[str | None]) -> tuple[Hashes, Hashes]:
    digests = b"".join(
        hashlib.blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts
    )
    pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()
