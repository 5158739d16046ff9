"""An output with a row for each chunk, to whoever makes it: rows with lists of chunks, like any other output."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from airflow_mullama.errors import AccountingError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.rows import CHUNKS, ResultColumns
from airflow_mullama.storage.chunk_rows.columns import (
    CHUNK_ROW_NAMES,
    INDEX,
    TOKENS,
    VECTOR,
    DocumentTexts,
    chunk_row_columns,
    first_rows,
    gathered_chunks,
    gathered_texts,
    gathered_tokens,
    spread,
)
from airflow_mullama.storage.derived_input import DerivedInput
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.parquet.annotations import Annotations
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.parquet.output import OutcomeRows
from airflow_mullama.storage.parquet.vector_columns import from_stored
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_output import NewOutput, OutputRows, PartitionOutput, PublishedOutput
from airflow_mullama.storage.staging.stage import Stage


@dataclass(frozen=True)
class ChunkRowsOutput:
    """The place of an output with a row for each chunk.

    Args:
        place: where it is written.
        output_prefix: put before the added columns' names.
        document_column: the column of the input that is cut; it is left out.
        texts: the documents of rows of the input.
    """

    place: PartitionOutput
    output_prefix: str
    document_column: str
    texts: DocumentTexts

    @property
    def location(self) -> Location:
        """What people call it."""
        return self.place.location

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.place.exists()

    def version(self) -> str | None:
        """Of what is there."""
        return self.place.version()

    def published(self) -> PublishedChunkRows | None:
        """What is there, if this package published it."""
        found = self.place.published()
        return None if found is None else PublishedChunkRows(found, self.output_prefix, self.document_column)

    def require_writable(self, source: PartitionInput, columns: ResultColumns, output_prefix: str) -> None:
        """Try whether what will be written can be written."""
        spreading = _Spreading(source, iter(()), self.document_column, self.texts)
        self.place.require_writable(spreading, chunk_row_columns(columns), output_prefix)

    def tidy(self) -> None:
        """Remove what killed attempts may have left."""
        self.place.tidy()

    def stage(self, fingerprint: str, schema: pa.Schema) -> Stage:
        """Staged are rows with lists of chunks."""
        return self.place.stage(fingerprint, schema)

    def write(self, new: NewOutput) -> int:
        """See :meth:`airflow_mullama.storage.partition_output.PartitionOutput.write`.

        Raises:
            AccountingError: also where rows of the output and chunks do not reconcile.
        """
        spreading = _Spreading(new.source, iter(new.chunks), self.document_column, self.texts)

        def reconciled() -> PartitionManifest:
            account = new.manifest()
            if account.output_rows != spreading.rows:
                raise AccountingError(
                    f"{account.output_rows} chunks and rows without chunks are accounted for, and {spreading.rows} "
                    "were written; nothing was published."
                )
            return account

        return self.place.write(
            replace(
                new,
                source=spreading,
                chunks=spreading.outcomes(),
                columns=chunk_row_columns(new.columns),
                manifest=reconciled,
            )
        )


class _Spreading(DerivedInput):
    """An input whose rows come once for each of their chunks; what is beside them waits for :meth:`outcomes`."""

    def __init__(
        self, source: PartitionInput, chunks: Iterator[pa.Table], document_column: str, texts: DocumentTexts
    ) -> None:
        self.whole = source
        self._chunks = OutcomeRows(chunks)
        self._column = document_column
        self._texts = texts
        self._beside: deque[pa.Table] = deque()
        self.rows = 0
        self.schema = pa.schema(
            [field for field in source.schema if field.name != document_column], metadata=source.schema.metadata
        )

    @property
    def annotations(self) -> Annotations:
        return {place: one for place, one in self.whole.annotations.items() if place.column != self._column}

    def batches(self, columns: Sequence[str] | None = None, *, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        start = 0
        batches = self.whole.batches()
        # Waited for first: whoever waits must not hold rows that may be heavy.
        while self._chunks.wait(start, self.whole.rows) and (batch := next(batches, None)) is not None:
            outcomes = self._chunks.take(start, batch.num_rows)
            start += batch.num_rows
            for rows, beside in spread(batch, outcomes, self._texts(batch), self._column):
                numbers = pa.array(np.arange(self.rows, self.rows + rows.num_rows), pa.int64())
                self._beside.append(beside.add_column(0, "row", numbers))
                self.rows += rows.num_rows
                yield rows
        if start != self.whole.rows or self._chunks.left():
            raise AccountingError(
                f"The input had {self.whole.rows} rows and {start} were read again; nothing was published."
            )

    def outcomes(self) -> Iterator[pa.Table]:
        """What is beside the rows, as they are taken."""
        while self._beside:
            yield self._beside.popleft()


@dataclass(frozen=True)
class PublishedChunkRows:
    """An output with a row for each chunk that an earlier run published.

    Args:
        output: as it lies there.
        output_prefix: put before the added columns' names.
        document_column: the column of the input that it leaves out.
    """

    output: PublishedOutput
    output_prefix: str
    document_column: str

    @property
    def manifest(self) -> PartitionManifest:
        """As it was published."""
        return self.output.manifest

    @property
    def schema(self) -> pa.Schema:
        """Of its columns, and of the document, which can be put together."""
        return self.output.schema.append(pa.field(self.document_column, pa.string()))

    @property
    def keeps_order(self) -> bool:
        """Whether its rows are where they were put."""
        return self.output.keeps_order

    def has_columns(self, columns: ResultColumns, output_prefix: str) -> bool:
        """Whether it has the columns that a job adds."""
        return self.output.has_columns(chunk_row_columns(columns), output_prefix)

    def outcomes(self, columns: ResultColumns, output_prefix: str) -> Iterator[pa.RecordBatch]:
        """Stream the added columns of rows with lists of chunks, without prefix, in order."""
        names = [output_prefix + field.name for field in columns.fields]
        rows = self.rows()
        try:
            for batch in rows.batches(names):
                arrays = [
                    from_stored(batch.column(name), kind)
                    for name, kind in zip(names, columns.schema.types, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=columns.schema)
        finally:
            rows.close()

    def rows(self, int96_unit: Unit = DEFAULT_UNIT) -> GatheredRows:
        """Open it."""
        return GatheredRows(self.output.rows(int96_unit), self.output_prefix, self.document_column)


class GatheredRows:
    """Rows of one chunk each, as rows of documents. A document is of the group in which it begins.

    Args:
        rows: as they are stored.
        prefix: of the added columns' names.
        document_column: is put together from the chunks.
    """

    def __init__(self, rows: OutputRows, prefix: str, document_column: str) -> None:
        self._rows = rows
        self._prefix = prefix
        self._document_column = document_column
        self._firsts = [
            first_rows(rows.group(number, [prefix + INDEX]).column(0)) for number in range(len(rows.group_rows))
        ]
        self.group_rows = [len(firsts) for firsts in self._firsts]

    def group(self, number: int, names: Sequence[str]) -> pa.Table:
        """Some columns of the documents that begin in a group."""
        prefix = self._prefix
        stored = [name for name in names if name not in (prefix + CHUNKS, self._document_column)]
        needed = dict.fromkeys([*stored, prefix + INDEX])
        if prefix + CHUNKS in names:
            needed.update(dict.fromkeys([prefix + name for name in (*CHUNK_ROW_NAMES[:3], VECTOR, TOKENS)]))
        if self._document_column in names:
            needed.update(dict.fromkeys(prefix + name for name in CHUNK_ROW_NAMES))
        table = self._whole_documents(number, list(needed))
        firsts = pa.array(first_rows(table.column(prefix + INDEX)))
        columns = []
        for name in names:
            if name == prefix + CHUNKS:
                columns.append(gathered_chunks(table, prefix))
            elif name == self._document_column:
                columns.append(gathered_texts(table, prefix))
            elif name == prefix + TOKENS:
                columns.append(gathered_tokens(table, prefix))
            else:
                columns.append(table.column(name).take(firsts))
        return pa.table(columns, names=list(names))

    def _whole_documents(self, number: int, names: list[str]) -> pa.Table:
        firsts = self._firsts[number]
        if len(firsts) == 0:
            return self._rows.group(number, names).slice(0, 0)
        parts = [self._rows.group(number, names).slice(int(firsts[0]))]
        for later in range(number + 1, len(self._firsts)):
            goes_on = self._firsts[later]
            end = int(goes_on[0]) if len(goes_on) else None
            if end != 0:
                parts.append(self._rows.group(later, names).slice(0, end))
            if end is not None:
                break
        return pa.concat_tables(parts)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns of all documents."""
        for number in range(len(self._firsts)):
            table = self.group(number, names).combine_chunks()
            yield from table.to_batches()

    def close(self) -> None:
        """Close what is open."""
        self._rows.close()
