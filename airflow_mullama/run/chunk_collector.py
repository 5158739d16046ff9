"""Collecting outcomes into chunks, and making chunks durable on a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mullama.byte_bounds import OPEN_CHUNKS_BYTES
from airflow_mullama.errors import AccountingError, OutputNotWritableError
from airflow_mullama.fail_points import reached
from airflow_mullama.run.durable_chunks import DurableChunks
from airflow_mullama.run.open_chunks import OpenChunk, Part, by_chunk, in_order, require_all_rows, rows_of
from airflow_mullama.run.other_attempts import OtherAttempts
from airflow_mullama.run.request_reader import ThreadFailed
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.staging.stage import Chunk, Stage

WAIT_SECONDS = 0.25
RESCUE_SECONDS = 3.0


@dataclass(frozen=True)
class _Work:
    """What the writing thread is to make durable.

    Args:
        opened: the chunk.
        tables: outcomes of it.
        file: of the part that they are; ``None`` if the chunk is whole now.
        is_sealed: whether the part stays as it is; otherwise it is there for the case that the task ends, and is
            written again with more rows, or dropped when the chunk is whole.
    """

    opened: OpenChunk
    tables: list[pa.Table]
    file: Location | None = None
    is_sealed: bool = False


class ChunkCollector:
    """Gathers outcomes by chunk; a full chunk goes to the writing thread, and what is finished of others in time.

    Args:
        stage: where chunks become durable.
        schema: of a chunk.
        chunk_rows: rows of every chunk but the last.
        chunk_seconds: how long an outcome may wait for its chunk to be full, until :meth:`keep_due` keeps it.
        events: where :class:`airflow_mullama.run.request_reader.ThreadFailed` goes if a write fails.
        durable: told of every chunk that is durable and whole.
        others: looked for before a chunk is written.
        raise_if_stopped: called while a slow disk is waited for; raises if the job should end.
        clock: gives seconds, and never goes back.
    """

    def __init__(
        self,
        stage: Stage,
        schema: pa.Schema,
        *,
        chunk_rows: int,
        chunk_seconds: float,
        events: queue.SimpleQueue[Any],
        durable: DurableChunks,
        others: OtherAttempts,
        raise_if_stopped: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self.schema = schema
        self._chunk_rows = chunk_rows
        self._chunk_seconds = chunk_seconds
        self._events = events
        self._durable = durable
        self._others = others
        self._raise_if_stopped = raise_if_stopped
        self._clock = clock
        self._begun: set[int] = set()
        self._open: dict[int, OpenChunk] = {}
        self._bytes = 0
        # One chunk being written and one waiting: what a crash costs stays small, and a slow disk slows the reading.
        self._to_write: queue.Queue[_Work | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write_forever, daemon=True, name="mullama-stage")
        self._thread.start()

    def begin(self, chunk: Chunk, staged: pa.Table | None = None, *, is_whole: bool = False) -> None:
        """Expect outcomes for a chunk.

        Args:
            chunk: may have begun before.
            staged: outcomes that an earlier attempt made durable.
            is_whole: these are all of the chunk's, in its own file.
        """
        if chunk.index not in self._begun:
            self._begun.add(chunk.index)
            if staged is not None and is_whole:
                self._durable.put(chunk, staged)
                return
            self._open[chunk.index] = OpenChunk(chunk)
        if staged is not None:
            self._add(self._open[chunk.index], staged, None)

    def add(self, batch: pa.RecordBatch) -> None:
        """Take outcomes as rows of a chunk; they may belong to several."""
        now = self._clock()
        for number, part in by_chunk(pa.table(batch), self._chunk_rows):
            self._add(self._open[number], part, now)

    def _add(self, opened: OpenChunk, table: pa.Table, now: float | None) -> None:
        self._bytes += opened.add(table, now)
        if opened.rows >= opened.chunk.rows:
            self._hand_over(_Work(opened, opened.tables))
            self._bytes -= opened.bytes
            del self._open[opened.chunk.index]
        elif opened.bytes > OPEN_CHUNKS_BYTES // 2:
            self._seal(opened)
        elif self._bytes > OPEN_CHUNKS_BYTES:
            self._seal(max(self._open.values(), key=lambda one: one.bytes))

    def _seal(self, opened: OpenChunk) -> None:
        self._hand_over(_Work(opened, opened.tables, self._file_of(opened), is_sealed=True))
        self._bytes -= opened.bytes
        opened.part_begun()

    def _file_of(self, opened: OpenChunk) -> Location:
        opened.file = opened.file or self._stage.new_part(opened.chunk)
        return opened.file

    def keep_due(self) -> None:
        """Make durable what has waited for ``chunk_seconds``, unless the writing thread has enough to do. Never blocks.

        The rows at hand of a chunk become one file, which is written again with more of them after as many seconds.
        """
        before = self._clock() - self._chunk_seconds
        for opened in self._open.values():
            if opened.oldest is not None and opened.oldest <= before:
                try:
                    self._to_write.put_nowait(_Work(opened, list(opened.tables), self._file_of(opened)))
                except queue.Full:
                    return
                opened.oldest = None

    def _hand_over(self, work: _Work | None) -> None:
        while True:
            try:
                self._to_write.put(work, timeout=WAIT_SECONDS)
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
                if self._failure is None and opened.oldest is not None:
                    table = in_order(opened.tables, self.schema)
                    self._stage.write_part(self._file_of(opened), table)
        except Exception as error:  # noqa: BLE001 - the error that ends the run is the one to show
            return error
        return self._failure

    def _write_forever(self) -> None:
        while (work := self._to_write.get()) is not None:
            if self._failure is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                self._write(work)
            except BaseException as error:  # noqa: BLE001 - it is raised on the thread that can end the task
                self._failure = error
                self._events.put(ThreadFailed(error))
            del work  # not held while the next one is waited for

    def _write(self, work: _Work) -> None:
        opened, chunk = work.opened, work.opened.chunk
        table = in_order(work.tables, self.schema)
        if work.file is not None:
            self._stage.write_part(work.file, table)
            if work.is_sealed:
                opened.parts.append(Part(work.file, rows_of(table)))
            return
        require_all_rows(chunk, [*(part.rows for part in opened.parts), rows_of(table)])
        self._others.look(chunk)
        reached("stage")
        if opened.parts:
            last = Part(self._file_of(opened), rows_of(table))
            self._stage.write_part(last.file, table)
            reached("staged")
            self._durable.put_parts(chunk, [*opened.parts, last])
            return
        self._stage.write(chunk, table)
        reached("staged")
        if opened.file is not None:
            self._stage.remove_part(opened.file)
        self._durable.put(chunk, table)
