"""Reading ahead on a thread: input batches become requests, chunk by chunk, without what is already staged."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.byte_bounds import READ_AHEAD_BYTES
from airflow_mullama.fail_points import reached
from airflow_mullama.jobs.prompts import RequestTemplate
from airflow_mullama.rows import RETRYABLE_ERROR_TYPES, RowError
from airflow_mullama.run.open_chunks import rows_of
from airflow_mullama.run.rendered_requests import rendered
from airflow_mullama.storage.filesystems import Location
from airflow_mullama.storage.heavy_rows import heavy_rows
from airflow_mullama.storage.partition_input import PartitionInput
from airflow_mullama.storage.staging.stage import Chunk, ChunkPlan, Stage

PIECES_AHEAD = 4
STOP_SECONDS = 2.0

Rows = npt.NDArray[np.int64]
_NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass
class Piece:
    """A part of a chunk's rows.

    Args:
        chunk: where they belong.
        rows: positions in the partition of the rows to ask for.
        texts: their rendered requests.
        errors: rows that have no request, and why.
        staged: outcomes of the chunk that an earlier attempt left, if any.
        is_whole: these are all of the chunk's, in its own file.
    """

    chunk: Chunk
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    errors: list[tuple[int, RowError]] = field(default_factory=list)
    staged: pa.Table | None = None
    is_whole: bool = False

    @property
    def staged_rows(self) -> int:
        """How many of them."""
        return 0 if self.staged is None else int(self.staged.num_rows)

    @property
    def bytes(self) -> int:
        """What it weighs."""
        return sum(map(sys.getsizeof, self.texts)) + (0 if self.staged is None else int(self.staged.nbytes))


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
        source: PartitionInput,
        template: RequestTemplate,
        chunks: ChunkPlan,
        stage: Stage,
        events: queue.SimpleQueue[Any],
    ) -> None:
        self._source = source
        self._unreadable = source.unreadable_rows
        self._template = template
        self._chunks = chunks
        self._stage = stage
        self._events = events
        self._changed = threading.Condition()
        self._ahead: deque[int] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mullama-read")

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def taken(self) -> None:
        """The oldest piece was taken out of the queue: another may be read."""
        with self._changed:
            self._ahead.popleft()
            self._changed.notify()

    def stop(self, *, wait: bool = True) -> None:
        """Stop reading.

        Args:
            wait: return when the files are closed, or after a few seconds; a read that hangs is left behind.
        """
        with self._changed:
            self._stopped.set()
            self._changed.notify()
        if wait and self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            for piece in self._pieces():
                self._wait_for_room(size := piece.bytes)
                if self._stopped.is_set():
                    return
                self._ahead.append(size)
                self._events.put(piece)
                del piece  # the next one is rendered while the window has this one
                if size > READ_AHEAD_BYTES:
                    self._wait_until(lambda: not self._ahead)  # that much once, and not again in the making
            self._events.put(InputEnded())
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that can end the task
            self._events.put(ThreadFailed(error))
        finally:
            heavy_rows.end()

    def _wait_for_room(self, size: int) -> None:
        def has_room() -> bool:
            ahead = len(self._ahead)
            return not ahead or (ahead < PIECES_AHEAD and sum(self._ahead) + size <= READ_AHEAD_BYTES)

        self._wait_until(has_room)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or condition())

    def _pieces(self) -> Iterator[Piece]:
        present = self._stage.staged()
        # Whole chunks at the front cost neither reading nor rendering.
        first = 0
        while first < len(self._chunks):
            chunk = self._chunks[first]
            pieces = self._staged(chunk, present)
            piece = next(pieces, None)
            if piece is not None and piece.is_whole:
                yield piece
            elif piece is not None and piece.staged_rows + sum(one.staged_rows for one in pieces) == chunk.rows:
                yield from self._staged(chunk, present)  # read again: together its parts may be heavy
            else:
                break
            first += 1
        if first == len(self._chunks):
            return
        chunk, done = self._chunks[first], _NO_ROWS
        cursor = chunk.start
        begun = False
        for batch in self._source.batches(self._template.distinct_columns, first_row=cursor):
            reached("read")
            offset, rows = 0, batch.num_rows
            while offset < rows:
                if cursor == chunk.stop:
                    chunk, begun = self._chunks[chunk.index + 1], False
                if not begun:
                    begun, known = True, [_NO_ROWS]
                    for piece in self._staged(chunk, present):
                        if piece.staged is not None:
                            known.append(rows_of(piece.staged))
                        yield piece
                    done = np.concatenate(known)
                some = batch.slice(offset, min(rows - offset, chunk.stop - cursor))
                some = some.slice(0, self._template.rows_at_once(some))
                count = some.num_rows
                rendered = [self._piece(chunk, cursor, some, done)]
                del some
                cursor += count
                offset += count
                if offset == rows:
                    del batch  # not held while the piece waits to be taken, and neither is the piece afterwards
                    heavy_rows.end()
                yield rendered.pop()

    def _staged(self, chunk: Chunk, present: Mapping[tuple[int, int], Sequence[Location]]) -> Iterator[Piece]:
        """What earlier attempts know of a chunk, each row once, without those whose error may pass: another attempt
        asks again."""
        known = _NO_ROWS
        for file in present.get((chunk.start, chunk.stop), ()):
            table = self._stage.read_file(file, chunk)
            if table is None:
                continue
            table = table.filter(pc.invert(pc.is_in(table.column("error_type"), pa.array(RETRYABLE_ERROR_TYPES))))
            if len(known):
                table = table.filter(pa.array(~np.isin(rows_of(table), known)))
            if table.num_rows:
                known = np.concatenate([known, rows_of(table)])
                is_whole = table.num_rows == chunk.rows and file.name == self._stage.name_of(chunk)
                yield Piece(chunk, staged=table, is_whole=is_whole)
                if is_whole:
                    return

    def _piece(self, chunk: Chunk, start: int, batch: pa.RecordBatch, done: Rows) -> Piece:
        rows: Sequence[int] = range(start, start + batch.num_rows)
        if len(done):
            missing = np.setdiff1d(np.arange(start, start + batch.num_rows), done, assume_unique=True)
            if len(missing) == 0:
                return Piece(chunk)
            batch = batch.take(pa.array(missing - start))
            rows = missing.tolist()
        reached("render")
        requests = list(zip(rows, rendered(self._template, batch, rows, self._unreadable), strict=True))
        asked = [(row, text) for row, text in requests if not isinstance(text, RowError)]
        errors = [(row, text) for row, text in requests if isinstance(text, RowError)]
        return Piece(chunk, [row for row, _ in asked], [text for _, text in asked], errors)
