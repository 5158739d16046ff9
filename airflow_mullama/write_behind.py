"""Chunks on their way into the output: in order, each as soon as it is durable, while the engine computes the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from airflow_mullama.errors import JobStoppedError
from airflow_mullama.steps import reached
from airflow_mullama.storage.stage import Chunk, Stage

# Tables that wait to be written are kept up to so many bytes; beyond it they are read from the stage when it is their
# turn, so that one slow row at the front does not fill the memory.
KEPT_BYTES = 64 << 20


class DurableChunks:
    """The chunks of a partition, given out in order to the thread that writes the output.

    Args:
        chunks: all of the partition.
        stage: where a chunk is read from if its table is not at hand any more.
        kept_bytes: how much is kept at hand; ``None``: :data:`KEPT_BYTES`.
    """

    def __init__(self, chunks: Sequence[Chunk], stage: Stage, kept_bytes: int | None = None) -> None:
        self._chunks = chunks
        self._stage = stage
        self._limit = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._changed = threading.Condition()
        self._durable: set[int] = set()
        self._kept: dict[int, pa.Table] = {}
        self._kept_bytes = 0
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
            table = self._take(chunk)
            if table is None or table.num_rows != chunk.rows:
                return
            yield table
        with self._changed:
            self._wait(lambda: self._finished)
        reached("commit")

    def _take(self, chunk: Chunk) -> pa.Table | None:
        with self._changed:
            self._wait(lambda: chunk.index in self._durable)
            self._durable.discard(chunk.index)
            table = self._kept.pop(chunk.index, None)
            if table is not None:
                self._kept_bytes -= table.nbytes
                return table
        return self._stage.read(chunk)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait with the lock held."""
        self._changed.wait_for(lambda: self._abandoned or ready())
        if self._abandoned:
            raise JobStoppedError("Stopped.")
