"""Taking outcomes from the previous output, row by row, where the request is the same: nothing is paid for twice.

A published output carries its input columns, so it is its own cache: its rows are rendered again and matched with the
new input's by the hash of the request. Nothing extra is stored. Only outputs of the same model, template and settings
are asked (the caller sees to that).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.byte_bounds import OPEN_CHUNKS_BYTES, PREVIOUS_OUTPUT_BYTES
from airflow_mullama.jobs.prompts import RequestTemplate, request_digest
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, ErrorType, ResultColumns
from airflow_mullama.run.rendered_requests import rendered
from airflow_mullama.storage.parquet.int96 import DEFAULT_UNIT, Unit
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.partition_output import PublishedOutput
from airflow_mullama.storage.staging.stage import Chunk, ChunkPlan, Stage
from airflow_mullama.storage.tables.types import from_table

# 24 bytes a row: memory stays flat. Rows of an output beyond this are not looked up, only computed again.
MOST_INDEXED_ROWS = 4_000_000
# Rows whose outcomes are looked up at once: those of a whole chunk may be heavy.
LOOKED_UP_ROWS = 256

Hashes = npt.NDArray[np.uint64]

# What an output says is not believed further than this: an error type that nobody knows is asked again.
_LASTING = frozenset(error_type.value for error_type in ErrorType) - frozenset(RETRYABLE_ERROR_TYPES)
_OF_RENDERING = (
    ErrorType.NULL_INPUT,
    ErrorType.RENDER_ERROR,
    ErrorType.ROW_TOO_LARGE,
    ErrorType.UNREADABLE_IMAGE,
)
_REUSED = _LASTING - {error_type.value for error_type in _OF_RENDERING}


class PreviousOutcomes:
    """An index over the requests of a published output.

    Args:
        published: the output.
        template: renders a row's request; the output must have its columns.
        columns: the added columns.
        output_prefix: put before their names.
        int96_unit: in which its INT96 timestamps are read, so that they are rendered as the new input's.
    """

    def __init__(
        self,
        published: PublishedOutput,
        template: RequestTemplate,
        columns: ResultColumns,
        output_prefix: str,
        int96_unit: Unit = DEFAULT_UNIT,
    ) -> None:
        self._output = published.rows(int96_unit)
        self._template = template
        self._columns = columns
        self._names = [output_prefix + field.name for field in columns.fields]
        self._group_starts = np.cumsum([0, *self._output.group_rows])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._high, self._low, self._rows = self._index(output_prefix + "error_type")

    def close(self) -> None:
        """Close the output."""
        self._output.close()

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
            table = self._output.group(number, self._names)
            types = self._columns.schema.types
            columns = [from_table(table.column(name), kind) for name, kind in zip(self._names, types, strict=True)]
            self._groups[number] = pa.table(columns, schema=self._columns.schema).combine_chunks()
            # Kept, because an input in another order must not decode them again and again.
            while (
                len(self._groups) > 1 and sum(table.nbytes for table in self._groups.values()) > PREVIOUS_OUTPUT_BYTES
            ):
                self._groups.popitem(last=False)
        self._groups.move_to_end(number)
        return self._groups[number]

    def _index(self, error_column: str) -> tuple[Hashes, Hashes, npt.NDArray[np.int64]]:
        high, low, rows = [], [], []
        start = 0
        names = list(dict.fromkeys([*self._template.distinct_columns, error_column]))
        for batch in self._output.batches(names):
            if start >= MOST_INDEXED_ROWS:
                break
            requests = rendered(self._template, batch, range(batch.num_rows), {})
            texts = [text if isinstance(text, str) else None for text in requests]
            good = np.array(
                [
                    text is not None and (error is None or error in _REUSED)
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


def reusable_rows(
    previous: PreviousOutcomes, source: PartitionInput, template: RequestTemplate, chunks: ChunkPlan
) -> Iterator[tuple[Chunk, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """For each chunk of the new input, the rows that need not be computed again.

    Yields:
        The chunk, rows of it, ascending, and the row of the output that each has its outcome from.
    """
    batches = source.batches(template.distinct_columns)
    unreadable = source.unreadable_rows
    found = np.empty(0, np.int64)
    for chunk in chunks:
        while len(found) < chunk.rows:
            first = chunk.start + len(found)
            batch = next(batches)
            requests = rendered(template, batch, range(first, first + batch.num_rows), unreadable)
            del batch
            places = previous.find([text if isinstance(text, str) else None for text in requests])
            found = np.concatenate([found, places])
        of_chunk, found = found[: chunk.rows], found[chunk.rows :]
        rows = np.flatnonzero(of_chunk >= 0)
        yield chunk, rows + chunk.start, of_chunk[rows]


class KeptOutcomes:
    """Stages outcomes that are known already, in parts where those of a chunk are heavy.

    Args:
        stage: what is staged there already is left alone: earlier work was under way.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._staged = stage.staged()
        self._tables: list[pa.Table] = []
        self.rows = 0

    def add(self, chunk: Chunk, table: pa.Table) -> None:
        """Outcomes of rows of a chunk, which follow those that were given before."""
        if (chunk.start, chunk.stop) in self._staged:
            return
        self._tables.append(table)
        self.rows += table.num_rows
        if sum(one.nbytes for one in self._tables) > OPEN_CHUNKS_BYTES // 2:
            self._stage.write_part(self._stage.new_part(chunk), pa.concat_tables(self._tables))
            self._tables = []

    def end(self, chunk: Chunk) -> None:
        """There are no more of this chunk."""
        if self._tables:
            self._stage.write(chunk, pa.concat_tables(self._tables))
            self._tables = []


def _hashes(texts: Sequence[str | None]) -> tuple[Hashes, Hashes]:
    digests = b"".join(request_digest(text or "") for text in texts)
    pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def stage_good_rows(
    stage: Stage,
    chunks: ChunkPlan,
    published: PublishedOutput,
    columns: ResultColumns,
    output_prefix: str,
    check_stopped: Callable[[], None],
) -> int:
    """Stage the rows of an output of the same fingerprint that need no repair.

    Returns:
        How many rows were staged. Chunks that are staged already are left alone: a repair was under way.
    """
    kept = KeptOutcomes(stage)
    lasting = pa.array(sorted(_LASTING))
    outcomes = published.outcomes(columns, output_prefix)
    rest: pa.RecordBatch | None = None
    for chunk in chunks:
        start = chunk.start
        while start < chunk.stop:
            check_stopped()
            batch = rest if rest is not None and rest.num_rows else next(outcomes)
            table = pa.Table.from_batches([batch.slice(0, chunk.stop - start)])
            rest = batch.slice(table.num_rows)
            table = table.add_column(0, "row", pa.array(range(start, start + table.num_rows), pa.int64()))
            start += table.num_rows
            error_type = table.column("error_type")
            kept.add(chunk, table.filter(pc.or_(pc.is_null(error_type), pc.is_in(error_type, lasting))))
        kept.end(chunk)
    return kept.rows


def stage_reused_rows(
    stage: Stage,
    chunks: ChunkPlan,
    published: PublishedOutput,
    source: PartitionInput,
    template: RequestTemplate,
    columns: ResultColumns,
    output_prefix: str,
    check_stopped: Callable[[], None],
) -> int:
    """Stage the rows of a changed input whose request an output of the same model, template and settings answers.

    Returns:
        How many rows were staged; 0 where the output lacks a column of the template.
    """
    if not set(template.distinct_columns) <= set(published.schema.names):
        return 0
    kept = KeptOutcomes(stage)
    previous = PreviousOutcomes(published, template, columns, output_prefix, source.int96.unit)
    try:
        for chunk, rows, places in reusable_rows(previous, source, template, chunks):
            for start in range(0, len(rows), LOOKED_UP_ROWS):
                check_stopped()
                some = slice(start, start + LOOKED_UP_ROWS)
                table = previous.outcomes(places[some]).add_column(0, "row", pa.array(rows[some], pa.int64()))
                kept.add(chunk, table)
            check_stopped()
            kept.end(chunk)
    finally:
        previous.close()
    return kept.rows
