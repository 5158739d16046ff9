"""Collecting outcomes into chunks, and making chunks durable on a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.errors import AccountingError, OutputNotWritableError
from airflow_mullama.request_reader import ThreadFailed
from airflow_mullama.rows import STATUS_OF_ERROR_TYPE, TRUNCATED, ResultColumns, Status
from airflow_mullama.schemas import OutputSchema, Violation, parse_answer, typed_columns
from airflow_mullama.steps import reached
from airflow_mullama.storage.stage import Chunk, Stage
from airflow_mullama.write_behind import DurableChunks

WAIT_SECONDS = 0.25
RESCUE_SECONDS = 3.0

_ERROR_TYPES = pa.array(list(STATUS_OF_ERROR_TYPE))
_STATUSES = pa.array(list(STATUS_OF_ERROR_TYPE.values()))


def chunk_schema(columns: ResultColumns) -> pa.Schema:
    """What a staged chunk holds: ``row: int64`` and the added columns."""
    return pa.schema([pa.field("row", pa.int64(), nullable=False), *columns.fields])


def contract_batch(
    outcomes: pa.RecordBatch, schema: pa.Schema, output_schema: OutputSchema | None = None
) -> pa.RecordBatch:
    """Outcomes as rows of a chunk: status added, columns in order, types as stored.

    Args:
        outcomes: final outcomes; columns that are absent are null.
        schema: of the chunk.
        output_schema: gives the typed columns of rows whose answer keeps to it.
    """
    error_type = outcomes.column("error_type")
    places = pc.index_in(error_type, _ERROR_TYPES)
    status = pc.fill_null(pc.take(_STATUSES, places), Status.SUCCESS.value)
    names = set(outcomes.schema.names)
    typed = _typed(outcomes, output_schema) if output_schema is not None else {}
    arrays = []
    for column in schema:
        if column.name in typed:
            arrays.append(typed[column.name])
        elif column.name == "status":
            arrays.append(status)
        elif column.name not in names:
            arrays.append(pa.nulls(outcomes.num_rows, column.type))
        else:
            array = outcomes.column(column.name)
            arrays.append(array if array.type == column.type else _cast(array, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _typed(outcomes: pa.RecordBatch, output_schema: OutputSchema) -> dict[str, pa.Array]:
    """The typed columns by name. The worker has checked every answer that has no error."""
    parsed: list[dict[str, Any] | None] = [None] * outcomes.num_rows
    if "response" in outcomes.schema.names:
        pairs = zip(outcomes.column("response").to_pylist(), outcomes.column("error_type").to_pylist(), strict=True)
        for place, (response, error_type) in enumerate(pairs):
            if response is not None and error_type is None:
                answer = parse_answer(response, output_schema)
                parsed[place] = None if isinstance(answer, Violation) else answer
    names = [field.name for field in output_schema.fields]
    return dict(zip(names, typed_columns(parsed, output_schema), strict=True))


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(target) and pa.types.is_float16(target.value_type):
        valid = array.is_valid()
        values = array.values.slice(array.offset * target.list_size, len(array) * target.list_size)
        half = pa.array(values.to_numpy(zero_copy_only=False).astype(np.float16))
        return pa.FixedSizeListArray.from_arrays(half, target.list_size, mask=pc.invert(valid))
    return array.cast(target)


@dataclass
class Counts:
    """What a batch of outcomes adds to the totals."""

    status_counts: Mapping[str, int]
    error_types: Mapping[str, int]
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    truncated_rows: int


def count_outcomes(batch: pa.RecordBatch | pa.Table) -> Counts:
    """Count statuses, error types and tokens of rows of a chunk."""
    has_completion = "completion_tokens" in batch.schema.names
    return Counts(
        status_counts=_value_counts(batch.column("status")),
        error_types=_value_counts(batch.column("error_type")),
        attempts=pc.sum(batch.column("attempts")).as_py() or 0,
        prompt_tokens=pc.sum(batch.column("prompt_tokens")).as_py() or 0,
        completion_tokens=(pc.sum(batch.column("completion_tokens")).as_py() or 0) if has_completion else 0,
        truncated_rows=(pc.sum(batch.column(TRUNCATED)).as_py() or 0) if TRUNCATED in batch.schema.names else 0,
    )


def _value_counts(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    return {
        item["values"].as_py(): item["counts"].as_py() for item in pc.value_counts(column) if item["values"].is_valid
    }


@dataclass
class _OpenChunk:
    chunk: Chunk
    parts: list[pa.Table] = field(default_factory=list)
    rows: int = 0

    def table(self, schema: pa.Schema) -> pa.Table:
        """What it has so far, in order of row."""
        table = pa.concat_tables(self.parts).unify_dictionaries() if self.parts else schema.empty_table()
        return table.take(pc.sort_indices(table.column("row")))


class ChunkCollector:
    """Gathers outcomes by chunk; a full chunk goes to the writing thread.

    Args:
        stage: where chunks become durable.
        schema: of a chunk.
        chunk_rows: rows of every chunk but the last.
        events: where :class:`airflow_mullama.request_reader.ThreadFailed` goes if a write fails.
        durable: told of every chunk that is durable and whole.
        raise_if_stopped: called while a slow disk is waited for; raises if the job should end.
    """

    def __init__(
        self,
        stage: Stage,
        schema: pa.Schema,
        chunk_rows: int,
        events: queue.SimpleQueue[Any],
        durable: DurableChunks,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        self._stage = stage
        self.schema = schema
        self._chunk_rows = chunk_rows
        self._events = events
        self._durable = durable
        self._raise_if_stopped = raise_if_stopped
        self._begun: set[int] = set()
        self._open: dict[int, _OpenChunk] = {}
        # One chunk being written and one waiting: what a crash costs stays small, and a slow disk slows the reading.
        self._to_write: queue.Queue[_OpenChunk | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write_forever, daemon=True, name="mullama-stage")
        self._thread.start()

    def begin(self, chunk: Chunk, staged: pa.Table | None) -> None:
        """Expect outcomes for a chunk, some or all of which may be staged already; the first call for it counts."""
        if chunk.index in self._begun:
            return
        self._begun.add(chunk.index)
        if staged is not None and staged.num_rows == chunk.rows:
            self._durable.put(chunk, staged)
        else:
            parts = [staged] if staged is not None else []
            self._open[chunk.index] = _OpenChunk(chunk, parts, staged.num_rows if staged is not None else 0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take outcomes as rows of a chunk; they may belong to several."""
        numbers = batch.column("row").to_numpy() // self._chunk_rows
        table = pa.table(batch)
        for number in np.unique(numbers):
            part = table if numbers[0] == numbers[-1] == number and (numbers == number).all() else None
            if part is None:
                part = table.filter(pa.array(numbers == number))
            opened = self._open[int(number)]
            opened.parts.append(part)
            opened.rows += part.num_rows
            if opened.rows >= opened.chunk.rows:
                self._hand_over(opened)
                del self._open[int(number)]

    def _hand_over(self, opened: _OpenChunk | None) -> None:
        while True:
            try:
                self._to_write.put(opened, timeout=WAIT_SECONDS)
            except queue.Full:
                self._raise_if_stopped()
            else:
                return

    def finish(self) -> None:
        """Wait until every full chunk is durable.

        Raises:
            AccountingError: a chunk lacks outcomes.
            MullamaError: a chunk could not be written.
        """
        if self._open:
            missing = sum(opened.chunk.rows - opened.rows for opened in self._open.values())
            raise AccountingError(f"{missing} rows have no outcome though no work is left; nothing was published.")
        self._hand_over(None)
        while self._thread.is_alive():
            self._thread.join(WAIT_SECONDS)
            self._raise_if_stopped()
        if self._failure is not None:
            raise self._failure

    def rescue(self) -> BaseException | None:
        """Make what is finished durable before giving up: full chunks, then the finished rows of open ones.

        Returns:
            What kept it from that; ``None`` if all is durable. It never raises, and ends before Airflow's patience
            does (5 s from SIGTERM to SIGKILL).
        """
        end = time.monotonic() + RESCUE_SECONDS
        try:
            with contextlib.suppress(queue.Full):
                self._to_write.put(None, timeout=RESCUE_SECONDS)
            self._thread.join(max(0.0, end - time.monotonic()))
            if self._thread.is_alive():
                return OutputNotWritableError("The stage takes too long to be written.")
            for opened in self._open.values():
                if time.monotonic() > end:
                    return OutputNotWritableError("The stage takes too long to be written.")
                if self._failure is None and opened.rows:
                    self._stage.write(opened.chunk, opened.table(self.schema))
        except Exception as error:  # noqa: BLE001 - the error that ends the run is the one to show
            return error
        return self._failure

    def _write_forever(self) -> None:
        while (opened := self._to_write.get()) is not None:
            if self._failure is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                table = opened.table(self.schema)
                if table.num_rows != opened.chunk.rows or pc.count_distinct(table["row"]).as_py() != table.num_rows:
                    raise AccountingError(
                        f"The chunk {opened.chunk} has outcomes for other rows; nothing is published."
                    )
                reached("stage")
                self._stage.write(opened.chunk, table)
                reached("staged")
                self._durable.put(opened.chunk, table)
            except BaseException as error:  # noqa: BLE001 - it is raised on the thread that can end the task
                self._failure = error
                self._events.put(ThreadFailed(error))
