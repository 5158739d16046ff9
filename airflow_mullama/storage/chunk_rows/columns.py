"""From rows with a list of chunks to rows of one chunk each, and back.

The column of the document is left out: its text stands in its chunks, and would be written once for each of them. As
chunks leave no gap, it can be put together again. A row without chunks, failed or skipped, is one row whose chunk is
null. ``prompt_tokens`` are those of the chunk, so that sums stay right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.byte_bounds import READ_BATCH_BYTES
from airflow_mullama.rows import CHUNKS, ResultColumns

INDEX, START, END, TEXT = "chunk_index", "chunk_start", "chunk_end", "chunk_text"
VECTOR, TOKENS = "embedding", "prompt_tokens"
FIELDS = (
    pa.field(INDEX, pa.int32()),
    pa.field(START, pa.int32()),
    pa.field(END, pa.int32()),
    pa.field(TEXT, pa.string()),
)
CHUNK_ROW_NAMES = tuple(field.name for field in FIELDS)
# Texts, numbers and errors of a row of the output, roughly.
ROW_BYTES = 2048

DocumentTexts = Callable[[pa.RecordBatch], Sequence["str | None"]]
"""The document of each row of the input, as text; ``None`` where it has none."""


def chunk_row_columns(columns: ResultColumns) -> ResultColumns:
    """The columns that an output of one chunk to a row adds.

    Args:
        columns: those of the rows with lists of chunks.
    """
    chunks, *others = columns.fields
    vector = pa.field(VECTOR, chunks.type.value_type.field(VECTOR).type)
    return ResultColumns(fields=(*FIELDS, vector, *others), result_names=(*CHUNK_ROW_NAMES, VECTOR))


def spread(
    batch: pa.RecordBatch, outcomes: pa.Table, texts: Sequence[str | None], document_column: str
) -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
    """A row for each chunk, in parts that have a bound in bytes.

    Args:
        batch: rows of the input, all columns.
        outcomes: theirs: ``row`` and the added columns, with a list of chunks.
        texts: their documents.
        document_column: is left out.

    Yields:
        Columns of the input, and what is beside them.
    """
    batch = batch.select([name for name in batch.schema.names if name != document_column])
    chunks = outcomes.column(CHUNKS).combine_chunks()
    outcomes = outcomes.drop_columns([name for name in ("row", CHUNKS) if name in outcomes.schema.names])
    counts = pc.fill_null(pc.list_value_length(chunks), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = chunks.flatten()
    repeats = np.maximum(counts, 1)
    parents = np.repeat(np.arange(len(counts)), repeats)
    within = np.arange(len(parents)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    first_chunks = np.cumsum(counts) - counts
    for start, stop in _parts(batch, flat, parents):
        rows, places = parents[start:stop], within[start:stop]
        has_chunk = counts[rows] > 0
        taken = flat.take(pa.array(first_chunks[rows] + places, pa.int64(), mask=~has_chunk))
        starts, ends = pc.struct_field(taken, "start"), pc.struct_field(taken, "end")
        pieces = [
            None if begin is None else (texts[row] or "")[begin:end]
            for row, begin, end in zip(rows, starts.to_pylist(), ends.to_pylist(), strict=True)
        ]
        beside = outcomes.take(pa.array(rows))
        added = {
            INDEX: pa.array(places, pa.int32(), mask=~has_chunk),
            START: starts,
            END: ends,
            TEXT: pa.array(pieces, pa.string()),
            VECTOR: pc.struct_field(taken, "embedding"),
            **{name: beside.column(name) for name in outcomes.schema.names if name != TOKENS},
        }
        of_chunk = pc.struct_field(taken, "tokens")
        added[TOKENS] = pc.if_else(pa.array(has_chunk), of_chunk, beside.column(TOKENS).combine_chunks())
        yield batch.take(pa.array(rows)), pa.table(added)


def _parts(batch: pa.RecordBatch, flat: pa.Array, parents: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cuts the rows of an output where they weigh enough."""
    vector = flat.nbytes // max(1, len(flat)) + ROW_BYTES
    heavy = batch.nbytes > READ_BATCH_BYTES // 16
    weights = [batch.slice(row, 1).nbytes if heavy else 0 for row in range(batch.num_rows)]
    start = size = 0
    for place, row in enumerate(parents):
        size += vector + weights[row]
        if size >= READ_BATCH_BYTES:
            yield start, place + 1
            start, size = place + 1, 0
    if start < len(parents):
        yield start, len(parents)


def first_rows(index: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where a document begins, by :data:`INDEX`: at its first chunk, or at the one row of one without chunks."""
    return np.flatnonzero(pc.fill_null(index, 0).to_numpy() == 0)


def gathered_chunks(table: pa.Table, prefix: str) -> pa.ListArray:
    """The chunks of whole documents, as the column :data:`CHUNKS` has them.

    Args:
        table: with the columns of a row for each chunk.
        prefix: of their names.
    """
    has_chunk = pc.is_valid(table.column(prefix + INDEX)).combine_chunks()
    parts = [table.column(prefix + name).combine_chunks().filter(has_chunk) for name in (START, END, TOKENS, VECTOR)]
    names = ("start", "end", "tokens", "embedding")
    chunks = pa.StructArray.from_arrays(
        parts, fields=[pa.field(name, part.type) for name, part in zip(names, parts, strict=True)]
    )
    firsts = first_rows(table.column(prefix + INDEX))
    present = has_chunk.to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(present)])[[*firsts, table.num_rows]]
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), chunks, type=pa.list_(chunks.type), mask=pa.array(~present[firsts])
    )


def gathered_tokens(table: pa.Table, prefix: str) -> pa.Array:
    """The sum of :data:`TOKENS` of each document."""
    tokens = table.column(prefix + TOKENS).combine_chunks()
    firsts = first_rows(table.column(prefix + INDEX))
    if len(firsts) == 0:
        return tokens
    sums = np.add.reduceat(pc.fill_null(tokens, 0).to_numpy(), firsts)
    return pa.array(sums, pa.int32(), mask=~tokens.is_valid().to_numpy(zero_copy_only=False)[firsts])


def gathered_texts(table: pa.Table, prefix: str) -> pa.Array:
    """The text of each document, put together from its chunks; null where it has none."""
    starts, texts = table.column(prefix + START).to_pylist(), table.column(prefix + TEXT).to_pylist()
    firsts = [*first_rows(table.column(prefix + INDEX)).tolist(), table.num_rows]
    documents: list[str | None] = []
    for first, stop in itertools.pairwise(firsts):
        parts: list[str] = []
        end = 0
        for start, text in zip(starts[first:stop], texts[first:stop], strict=True):
            if text is not None:
                parts.append(text[end - start :])
                end = start + len(text)
        documents.append("".join(parts) if texts[first] is not None else None)
    return pa.array(documents, pa.string())
