"""Reading ahead on a thread: input batches become requests, chunk by chunk, without what is already staged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.prompts import PromptTemplate
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, RowError
from airflow_mullama.steps import reached
from airflow_mullama.storage.parquet_input import ParquetInput
from airflow_mullama.storage.stage import Chunk, Stage

PIECES_AHEAD = 4
STOP_SECONDS = 2.0


@dataclass
class Piece:
    """A part of a chunk's rows.

    Args:
        chunk: where they belong.
        rows: positions in the partition of the rows to ask for.
        texts: their rendered requests.
        errors: rows that have no request, and why.
        staged: with a chunk's first piece: the outcomes it already has, if any.
    """

    chunk: Chunk
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    errors: list[tuple[int, RowError]] = field(default_factory=list)
    staged: pa.Table | None = None


@dataclass(frozen=True)
class InputEnded:
    """Every row has been read."""


@dataclass(frozen=True)
class ThreadFailed:
    """A background thread ended with an exception."""

    error: BaseException


class RequestReader:
    """Reads on a thread and puts pieces into a queue, a few ahead of whoever takes them.

    Args:
        source: the partition.
        template: renders a row.
        chunks: all chunks of the partition, in order.
        stage: holds what is already done.
        events: where pieces, then :class:`InputEnded` or :class:`ThreadFailed` go.
    """

    def __init__(
        self,
        source: ParquetInput,
        template: PromptTemplate,
        chunks: Sequence[Chunk],
        stage: Stage,
        events: queue.SimpleQueue[Any],
    ) -> None:
        self._source = source
        self._template = template
        self._chunks = chunks
        self._stage = stage
        self._events = events
        self._room = threading.Semaphore(PIECES_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mullama-read")

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def taken(self) -> None:
        """A piece was taken out of the queue: another may be read."""
        self._room.release()

    def stop(self, *, wait: bool = True) -> None:
        """Stop reading.

        Args:
            wait: return when the files are closed, or after a few seconds; a read that hangs is left behind.
        """
        self._stopped.set()
        self._room.release()
        if wait and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            for piece in self._pieces():
                self._room.acquire()
                if self._stopped.is_set():
                    return
                self._events.put(piece)
            self._events.put(InputEnded())
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that can end the task
            self._events.put(ThreadFailed(error))

    def _pieces(self) -> Iterator[Piece]:
        present = self._stage.staged()
        remaining = list(self._chunks)
        # Whole chunks at the front cost neither reading nor rendering.
        while remaining and (remaining[0].start, remaining[0].stop) in present:
            table = self._settled(remaining[0])
            if table is None or table.num_rows < remaining[0].rows:
                break
            yield Piece(remaining.pop(0), staged=table)
        if not remaining:
            return
        cursor = remaining[0].start
        chunk, table, done = self._open(remaining.pop(0), present)
        opened = False
        for batch in self._source.batches(self._template.distinct_columns, first_row=cursor):
            reached("read")
            offset = 0
            while offset < batch.num_rows:
                if cursor == chunk.stop:
                    chunk, table, done = self._open(remaining.pop(0), present)
                    opened = False
                count = min(batch.num_rows - offset, chunk.stop - cursor)
                piece = self._piece(chunk, cursor, batch.slice(offset, count), done)
                piece.staged = None if opened else table
                opened = True
                yield piece
                cursor += count
                offset += count

    def _open(self, chunk: Chunk, present: dict[tuple[int, int], Any]) -> tuple[Chunk, pa.Table | None, Any]:
        table = self._settled(chunk) if (chunk.start, chunk.stop) in present else None
        done = None if table is None else table.column("row").to_numpy()
        return chunk, table, done

    def _settled(self, chunk: Chunk) -> pa.Table | None:
        """What earlier attempts know of a chunk, without the rows whose error may pass: another attempt asks again."""
        table = self._stage.read(chunk)
        if table is None:
            return None
        return table.filter(pc.invert(pc.is_in(table.column("error_type"), pa.array(RETRYABLE_ERROR_TYPES))))

    def _piece(self, chunk: Chunk, start: int, batch: pa.RecordBatch, done: Any) -> Piece:
        rows: Sequence[int] = range(start, start + batch.num_rows)
        if done is not None and len(done):
            missing = np.setdiff1d(np.arange(start, start + batch.num_rows), done, assume_unique=True)
            if len(missing) == 0:
                return Piece(chunk)
            batch = batch.take(pa.array(missing - start))
            rows = missing.tolist()
        piece = Piece(chunk)
        reached("render")
        for row, text in zip(rows, self._template.render(batch), strict=True):
            if isinstance(text, RowError):
                piece.errors.append((row, text))
            else:
                piece.rows.append(row)
                piece.texts.append(text)
        return piece
