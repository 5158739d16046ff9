"""Chunks on their way into the output: in order, each as soon as it is durable, while the engine computes the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from airflow_mullama.byte_bounds import DURABLE_CHUNKS_BYTES
from airflow_mullama.errors import JobStoppedError
from airflow_mullama.fail_points import reached
from airflow_mullama.run.open_chunks import Part, merged
from airflow_mullama.storage.staging.stage import Chunk, ChunkPlan, Stage


class DurableChunks:
    """The chunks of a partition, given out in order to the thread that writes the output.

    Args:
        chunks: all of the partition.
        stage: where a chunk is read from if its table is not at hand any more.
        kept_bytes: how much is kept at hand; ``None``: :data:`~airflow_mullama.byte_bounds.DURABLE_CHUNKS_BYTES`.
    """

    def __init__(self, chunks: ChunkPlan, stage: Stage, kept_bytes: int | None = None) -> None:
        self._chunks = chunks
        self._stage = stage
        self._limit = DURABLE_CHUNKS_BYTES if kept_bytes is None else kept_bytes
        self._changed = threading.Condition()
        self._durable: set[int] = set()
        self._kept: dict[int, pa.Table] = {}
        self._kept_bytes = 0
        self._parts: dict[int, Sequence[Part]] = {}
        self._finished = False
        self._abandoned = False

    def put(self, chunk: Chunk, table: pa.Table) -> None:
        """A chunk is durable, whole. From any thread; never blocks."""
        size = table.nbytes
        with self._changed:
            self._durable.add(chunk.index)
            if self._kept_bytes + size <= self._limit:
                self._kept[chunk.index] = table
                self._kept_bytes += size
            self._changed.notify()

    def put_parts(self, chunk: Chunk, parts: Sequence[Part]) -> None:
        """A chunk is durable, whole, in parts that together are too heavy to be kept at hand. From any thread."""
        with self._changed:
            self._durable.add(chunk.index)
            self._parts[chunk.index] = parts
            self._changed.notify()

    def finish(self) -> None:
        """Every row is accounted for: the output may be finished."""
        with self._changed:
            self._finished = True
            self._changed.notify()

    def abandon(self) -> None:
        """Nothing will be published: whoever waits here is sent away."""
        with self._changed:
            self._abandoned = True
            self._kept.clear()
            self._changed.notify()

    def wait_for_first(self) -> None:
        """Wait until there is something to write.

        Raises:
            JobStoppedError: there never will be.
        """
        with self._changed:
            self._wait(lambda: self._finished or bool(self._chunks and self._chunks[0].index in self._durable))

    def tables(self) -> Iterator[pa.Table]:
        """The outcomes of every chunk, in order; ends early where one is no longer there.

        Raises:
            JobStoppedError: nothing will be published.
        """
        for chunk in self._chunks:
            rows = 0
            for table in self._take(chunk):
                rows += table.num_rows
                yield table
            if rows != chunk.rows:
                return
        with self._changed:
            self._wait(lambda: self._finished)
        reached("commit")

    def _take(self, chunk: Chunk) -> Iterator[pa.Table]:
        with self._changed:
            self._wait(lambda: chunk.index in self._durable)
            self._durable.discard(chunk.index)
            parts = self._parts.pop(chunk.index, None)
            table = self._kept.pop(chunk.index, None)
            if table is not None:
                self._kept_bytes -= table.nbytes
        if parts is not None:
            yield from merged(self._stage, chunk, parts)
            return
        if table is None:
            table = self._stage.read(chunk)
        if table is not None and table.num_rows == chunk.rows:
            yield table

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait with the lock held."""
        self._changed.wait_for(lambda: self._abandoned or ready())
        if self._abandoned:
            raise JobStoppedError("Stopped.")
